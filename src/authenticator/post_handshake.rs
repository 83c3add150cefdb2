//! TLS messages that come after the handshake.

use quinn_proto::Side;
use rustls::AlertDescription;

/// Reads what a peer may still say, and needs no more of TLS than that.
///
/// A server may offer tickets for resumption, as many do; we resume nothing and pass them over
/// ([RFC 8446 §4.6.1]). Everything else is forbidden in QUIC, as are tickets from a client
/// ([RFC 9001 §4.4, §6]).
///
/// [RFC 8446 §4.6.1]: https://www.rfc-editor.org/rfc/rfc8446#section-4.6.1
/// [RFC 9001 §4.4, §6]: https://www.rfc-editor.org/rfc/rfc9001#section-4.4
#[derive(Debug)]
pub(super) struct PostHandshake {
    side: Side,
    header: [u8; HEADER_LEN],
    header_filled: usize,
    /// Bytes of a ticket that are still to come.
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

    /// Takes the next bytes, which may end in the middle of a message.
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

/// Type, and length in three bytes (RFC 8446 §4).
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
        // A client has no tickets to give.
        assert_eq!(PostHandshake::new(Side::Server).read(&[4]), refused);
        assert_eq!(PostHandshake::new(Side::Server).read(&[]), Ok(()));
    }
}
