//! TLS messages after the handshake.

use quinn_proto::Side;
use rustls::AlertDescription;

/// Reads the TLS messages that a peer may send after the handshake; it needs no other part of TLS.
///
/// A server may send tickets for resumption, and many do. We resume no sessions, so the tickets are
/// ignored ([RFC 8446 §4.6.1]). QUIC forbids everything else, including tickets from a client ([RFC
/// 9001 §4.4, §6]).
///
/// [RFC 8446 §4.6.1]: https://www.rfc-editor.org/rfc/rfc8446#section-4.6.1
/// [RFC 9001 §4.4, §6]: https://www.rfc-editor.org/rfc/rfc9001#section-4.4
#[derive(Debug)]
pub(super) struct PostHandshake {
    side: Side,
    header: [u8; HEADER_LEN],
    header_filled: usize,
    /// Bytes of the current ticket that have not arrived yet.
    body_left: usize,
}

impl PostHandshake {
    pub(super) fn new(side: Side) -> Self {
        Self {
            side,
            header: [0; HEADER_LEN],
            header_filled: 0,
            body_left: 0,
        }
    }

    pub(super) fn side(&self) -> Side {
        self.side
    }

    /// Reads the next bytes, which may end in the middle of a message.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Result<(), AlertDescription> {
        while let Some((&next, rest)) = bytes.split_first() {
            if self.body_left > 0 {
                let passed = self.body_left.min(bytes.len());
                self.body_left -= passed;
                bytes = &bytes[passed..];
                continue;
            }
            if self.header_filled == 0 && (next != NEW_SESSION_TICKET || self.side.is_server()) {
                return Err(AlertDescription::UnexpectedMessage);
            }
            self.header[self.header_filled] = next;
            self.header_filled += 1;
            bytes = rest;
            if self.header_filled == HEADER_LEN {
                let [_, high, middle, low] = self.header;
                self.body_left =
                    usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                self.header_filled = 0;
            }
        }
        Ok(())
    }
}

/// The type, and a length of three bytes (RFC 8446 §4).
const HEADER_LEN: usize = 4;

const NEW_SESSION_TICKET: u8 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_are_passed_over_however_they_are_cut() {
        let ticket = [&[4, 0, 1, 2][..], &[0x18; 258]].concat();
        let three = ticket.repeat(3);
        for size in 1..=three.len() {
            let mut reader = PostHandshake::new(Side::Client);
            for piece in three.chunks(size) {
                reader.read(piece).unwrap();
            }
            assert_eq!((reader.header_filled, reader.body_left), (0, 0));
        }
    }

    #[test]
    fn everything_else_is_refused() {
        let refused = Err(AlertDescription::UnexpectedMessage);
        // KeyUpdate, and CertificateRequest behind a ticket.
        assert_eq!(PostHandshake::new(Side::Client).read(&[24]), refused);
        let second = [4, 0, 0, 1, 0, 13];
        assert_eq!(PostHandshake::new(Side::Client).read(&second), refused);
        // A client sends no tickets.
        assert_eq!(PostHandshake::new(Side::Server).read(&[4]), refused);
        assert_eq!(PostHandshake::new(Side::Server).read(&[]), Ok(()));
    }
}
