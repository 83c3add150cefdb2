//! Initial packets (RFC 9000 §17.2.2) of somebody who receives nothing.

use anyhow::{Context, Result};
use rustls::{
    crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
    quic::{DirectionalKeys, Version},
};

use super::{frames::number, peer::unreadable};

/// What somebody sends who begins a connection: its keys follow from the ID that it has chosen (RFC 9001 §5.2).
pub struct Initials {
    destination: [u8; 8],
    keys: DirectionalKeys,
    /// Number of the next packet.
    next: u32,
}

impl Initials {
    pub fn begin(destination: [u8; 8]) -> Result<Self> {
        let suite = TLS13_AES_128_GCM_SHA256
            .tls13()
            .and_then(|suite| suite.quic_suite())
            .context("no keys for first packets")?;
        let keys = suite.keys(&destination, rustls::Side::Client, Version::V1);
        Ok(Self {
            destination,
            keys: keys.local,
            next: 0,
        })
    }

    /// A packet with these frames, and PADDING up to that length.
    pub fn packet(&mut self, frames: &[u8], length: usize) -> Result<Vec<u8>> {
        let payload = frames.len().max(length.saturating_sub(OVERHEAD));
        let mut packet = vec![0xc3, 0, 0, 0, 1];
        for id in [self.destination, SOURCE] {
            packet.push(id.len() as u8);
            packet.extend(id);
        }
        // No token.
        number(&mut packet, 0);
        let rest = NUMBER + payload + self.keys.packet.tag_len();
        packet.extend((0x8000_0000 | rest as u32).to_be_bytes());
        let number_at = packet.len();
        packet.extend(self.next.to_be_bytes());
        let payload_at = packet.len();
        packet.extend(frames);
        packet.resize(payload_at + payload, 0);
        let (header, contents) = packet.split_at_mut(payload_at);
        let key = &self.keys.packet;
        let tag = key.encrypt_in_place(self.next.into(), header, contents)?;
        packet.extend(tag.as_ref());
        // RFC 9001 §5.4.2: the sample begins where a number of four bytes ends.
        let (header, sample) = packet.split_at_mut(payload_at);
        let (first, header) = header.split_first_mut().context("no header")?;
        let key = &self.keys.header;
        let sample = &sample[..key.sample_len()];
        key.encrypt_in_place(sample, first, &mut header[number_at - 1..])?;
        self.next += 1;
        Ok(packet)
    }

    /// The same at the end of a datagram that begins with a packet that cannot be read.
    pub fn behind_another(&mut self, frames: &[u8], length: usize) -> Result<Vec<u8>> {
        let packet = self.packet(frames, 0)?;
        let other = length.saturating_sub(packet.len());
        Ok([unreadable(&self.destination, other), packet].concat())
    }
}

const SOURCE: [u8; 8] = *b"attacker";

const NUMBER: usize = 4;

/// Headers and tag.
pub const OVERHEAD: usize = 5 + 2 * 9 + 1 + 4 + NUMBER + 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_as_long_as_they_are_to_be() {
        let mut initials = Initials::begin([7; 8]).unwrap();
        assert_eq!(initials.packet(&[1], 1200).unwrap().len(), 1200);
        assert_eq!(
            initials.packet(&[1; 60_000], 0).unwrap().len(),
            60_000 + OVERHEAD
        );
        assert_eq!(initials.behind_another(&[1; 30], 1452).unwrap().len(), 1452);
    }
}
