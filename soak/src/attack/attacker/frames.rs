//! Frames (RFC 9000 §19): written one by one, and parsed as far as an attacker needs.

/// Appends a variable-length integer (RFC 9000 §16).
pub fn number(to: &mut Vec<u8>, value: u64) {
    match value {
        0..=0x3f => to.push(value as u8),
        0x40..=0x3fff => to.extend((0x4000 | value as u16).to_be_bytes()),
        0x4000..=0x3fff_ffff => to.extend((0x8000_0000 | value as u32).to_be_bytes()),
        _ => to.extend((0xc000_0000_0000_0000 | value).to_be_bytes()),
    }
}

pub fn crypto(to: &mut Vec<u8>, offset: u64, data: &[u8]) {
    to.push(0x06);
    number(to, offset);
    number(to, data.len() as u64);
    to.extend(data);
}

pub fn stream(to: &mut Vec<u8>, stream: u64, offset: u64, data: &[u8]) {
    // With an offset and a length.
    to.push(0x0e);
    number(to, stream);
    number(to, offset);
    number(to, data.len() as u64);
    to.extend(data);
}

pub fn reset_stream(to: &mut Vec<u8>, stream: u64, final_size: u64) {
    to.push(0x04);
    number(to, stream);
    number(to, 0);
    number(to, final_size);
}

/// Appends an ACK of runs of packet numbers, first and last, in ascending order (RFC 9000 §19.3).
pub fn ack(to: &mut Vec<u8>, runs: &[(u64, u64)]) {
    let Some(((first, last), others)) = runs.split_last() else {
        return;
    };
    to.push(0x02);
    for field in [*last, 0, others.len() as u64, last - first] {
        number(to, field);
    }
    let mut before = *first;
    for (first, last) in others.iter().rev() {
        number(to, before - last - 2);
        number(to, last - first);
        before = *first;
    }
}

pub fn path_challenge(to: &mut Vec<u8>, data: [u8; 8]) {
    to.push(0x1a);
    to.extend(data);
}

/// CONNECTION_CLOSE of an application.
pub fn close(to: &mut Vec<u8>) {
    to.extend([0x1d, 0, 0]);
}

pub const PING: u8 = 0x01;

/// Reads variable-length integers and bytes.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn number(&mut self) -> Option<u64> {
        let length = 1 << (self.0.first()? >> 6);
        let bytes = self.bytes(length)?;
        let value = bytes
            .iter()
            .fold(0, |value, &byte| value << 8 | u64::from(byte));
        // Without the two bits that encode the length.
        Some(value & (u64::MAX >> (66 - 8 * length)))
    }

    pub fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn skip_numbers(&mut self, count: u64) -> Option<()> {
        (0..count).try_for_each(|_| self.number().map(drop))
    }

    fn skip_bytes(&mut self) -> Option<()> {
        let length = self.number()?;
        self.bytes(usize::try_from(length).ok()?).map(drop)
    }
}

/// The frames that matter to an attacker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    pub is_closed: bool,
    /// For bidirectional streams.
    pub max_streams: Option<u64>,
}

/// Parses the payload of a packet, up to the first invalid frame.
pub fn hear(payload: &[u8]) -> Heard {
    let mut heard = Heard::default();
    let mut reader = Reader(payload);
    while !reader.0.is_empty() && hear_one(&mut reader, &mut heard).is_some() {}
    heard
}

fn hear_one(reader: &mut Reader<'_>, heard: &mut Heard) -> Option<()> {
    match reader.number()? {
        // PADDING, PING, HANDSHAKE_DONE, and quinn's IMMEDIATE_ACK.
        0x00 | 0x01 | 0x1e | 0x1f => Some(()),
        ty @ (0x02 | 0x03) => {
            reader.skip_numbers(2)?;
            let ranges = reader.number()?;
            reader.skip_numbers(1 + 2 * ranges)?;
            reader.skip_numbers(if ty == 0x03 { 3 } else { 0 })
        }
        // RESET_STREAM, STOP_SENDING, and quinn's ACK_FREQUENCY.
        0x04 => reader.skip_numbers(3),
        0x05 => reader.skip_numbers(2),
        0xaf => reader.skip_numbers(4),
        // CRYPTO, NEW_TOKEN.
        0x06 => {
            reader.skip_numbers(1)?;
            reader.skip_bytes()
        }
        0x07 => reader.skip_bytes(),
        ty @ 0x08..=0x0f => {
            reader.skip_numbers(if ty & 0x04 == 0 { 1 } else { 2 })?;
            if ty & 0x02 == 0 {
                reader.0 = &[];
                return Some(());
            }
            reader.skip_bytes()
        }
        // MAX_DATA, MAX_STREAM_DATA.
        0x10 => reader.skip_numbers(1),
        0x11 => reader.skip_numbers(2),
        0x12 => {
            heard.max_streams = heard.max_streams.max(Some(reader.number()?));
            Some(())
        }
        // MAX_STREAMS of the other kind, DATA_BLOCKED, STREAM_DATA_BLOCKED, STREAMS_BLOCKED.
        0x13 | 0x14 | 0x16 | 0x17 => reader.skip_numbers(1),
        0x15 => reader.skip_numbers(2),
        // NEW_CONNECTION_ID, with the token of a stateless reset.
        0x18 => {
            reader.skip_numbers(2)?;
            let length = *reader.bytes(1)?.first()?;
            reader.bytes(usize::from(length) + 16).map(drop)
        }
        // RETIRE_CONNECTION_ID, PATH_CHALLENGE, PATH_RESPONSE.
        0x19 => reader.skip_numbers(1),
        0x1a | 0x1b => reader.bytes(8).map(drop),
        0x1c | 0x1d => {
            heard.is_closed = true;
            None
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_they_were_written() {
        for value in [
            0,
            0x3f,
            0x40,
            0x3fff,
            0x4000,
            0x3fff_ffff,
            0x4000_0000,
            (1 << 62) - 1,
        ] {
            let mut bytes = Vec::new();
            number(&mut bytes, value);
            let mut reader = Reader(&bytes);
            assert_eq!(reader.number(), Some(value));
            assert!(reader.0.is_empty());
        }
        assert_eq!(Reader(&[0x40]).number(), None);
    }

    #[test]
    fn runs_are_acknowledged_from_the_last_one_on() {
        let mut frame = Vec::new();
        ack(&mut frame, &[]);
        assert!(frame.is_empty());
        ack(&mut frame, &[(1, 2), (4, 4), (8, 11)]);
        assert_eq!(frame, [0x02, 11, 0, 2, 3, 2, 0, 0, 1]);
    }

    #[test]
    fn what_matters_is_found_behind_what_does_not() {
        let mut payload = vec![PING, 0];
        // An ACK with one more range, and ECN counts.
        payload.extend([0x03, 9, 0, 1, 2, 1, 1, 0, 0, 0]);
        crypto(&mut payload, 70, b"something");
        stream(&mut payload, 4, 300, b"else");
        reset_stream(&mut payload, 4, 304);
        path_challenge(&mut payload, [7; 8]);
        payload.extend([0x18, 1, 0, 8]);
        payload.extend([5; 24]);
        payload.extend([0x12, 0x40, 0x80, 0x12, 3]);
        let open = Heard {
            is_closed: false,
            max_streams: Some(128),
        };
        assert_eq!(hear(&payload), open);
        close(&mut payload);
        assert!(hear(&payload).is_closed);
    }
}
