//! Initial packets (RFC 9000 §17.2.2) of a sender that receives nothing.

use anyhow::{Context, Result};
use rand::RngExt;
use rustls::{
    crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
    quic::{DirectionalKeys, Version},
};

use super::{frames::number, peer::unreadable};

/// The first packets of a connection. Their keys are derived from the destination ID that the
/// client has chosen (RFC 9001 §5.2).
pub struct Initials {
    destination: Vec<u8>,
    source: [u8; 8],
    /// The token of a Retry packet.
    token: Vec<u8>,
    keys: DirectionalKeys,
    /// Number of the next packet.
    next: u32,
}

impl Initials {
    pub fn begin() -> Result<Self> {
        let [destination, source] = rand::rng().random::<[[u8; 8]; 2]>();
        Self::new(&destination, source, &[])
    }

    /// The sender's ID, which answers carry.
    pub fn source(&self) -> [u8; 8] {
        self.source
    }

    /// The Initial packets after a Retry packet (RFC 9000 §8.1.2); `None` if it is not a Retry
    /// packet.
    pub fn after(retry: &[u8]) -> Result<Option<Self>> {
        parse_retry(retry)
            .map(|(source, destination, token)| Self::new(destination, source, token))
            .transpose()
    }

    fn new(destination: &[u8], source: [u8; 8], token: &[u8]) -> Result<Self> {
        let suite = TLS13_AES_128_GCM_SHA256
            .tls13()
            .and_then(|suite| suite.quic_suite())
            .context("no keys for first packets")?;
        let keys = suite.keys(destination, rustls::Side::Client, Version::V1);
        Ok(Self {
            destination: destination.to_vec(),
            source,
            token: token.to_vec(),
            keys: keys.local,
            next: 0,
        })
    }

    /// A packet with these frames, and PADDING up to this length.
    pub fn packet(&mut self, frames: &[u8], length: usize) -> Result<Vec<u8>> {
        let mut packet = vec![0xc3, 0, 0, 0, 1];
        for id in [&self.destination[..], &self.source] {
            packet.push(id.len() as u8);
            packet.extend(id);
        }
        number(&mut packet, self.token.len() as u64);
        packet.extend(&self.token);
        let overhead = packet.len() + 4 + NUMBER + self.keys.packet.tag_len();
        let payload = frames.len().max(length.saturating_sub(overhead));
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

    /// The same at the end of a datagram that begins with an unreadable packet.
    pub fn behind_another(&mut self, frames: &[u8], length: usize) -> Result<Vec<u8>> {
        let packet = self.packet(frames, 0)?;
        let other = length.saturating_sub(packet.len());
        Ok([unreadable(&self.destination, other), packet].concat())
    }
}

/// The destination ID, the source ID and the token (RFC 9000 §17.2.5).
fn parse_retry(datagram: &[u8]) -> Option<([u8; 8], &[u8], &[u8])> {
    let rest = datagram.get(5..)?;
    if datagram[0] & 0xf0 != 0xf0 {
        return None;
    }
    let (&length, rest) = rest.split_first()?;
    let (to, rest) = rest.split_at_checked(length.into())?;
    let (&length, rest) = rest.split_first()?;
    let (from, rest) = rest.split_at_checked(length.into())?;
    let token = rest.get(..rest.len().checked_sub(INTEGRITY_TAG)?)?;
    Some((to.try_into().ok()?, from, token))
}

/// The integrity tag after the token of a Retry packet (RFC 9001 §5.8).
const INTEGRITY_TAG: usize = 16;

const NUMBER: usize = 4;

/// Headers and tag, without a token.
pub const OVERHEAD: usize = 5 + 2 * 9 + 1 + 4 + NUMBER + 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_as_long_as_they_are_to_be() {
        let mut initials = Initials::begin().unwrap();
        assert_eq!(initials.packet(&[1], 1200).unwrap().len(), 1200);
        assert_eq!(
            initials.packet(&[1; 60_000], 0).unwrap().len(),
            60_000 + OVERHEAD
        );
        assert_eq!(initials.behind_another(&[1; 30], 1452).unwrap().len(), 1452);
    }

    #[test]
    fn a_token_is_shown_again() {
        let ids = [&[8][..], &[5; 8], &[3, 7, 7, 7]].concat();
        let retry = [&[0xf0, 0, 0, 0, 1][..], &ids, b"token", &[0; 16]].concat();
        let mut initials = Initials::after(&retry).unwrap().unwrap();
        assert_eq!(initials.destination, [7; 3]);
        assert_eq!(initials.source(), [5; 8]);
        let packet = initials.packet(&[1], 1452).unwrap();
        assert_eq!(packet.len(), 1452);
        assert!(packet.windows(5).any(|part| part == b"token"));
        assert!(Initials::after(&packet).unwrap().is_none());
        assert!(Initials::after(&[0xf0]).unwrap().is_none());
    }
}
