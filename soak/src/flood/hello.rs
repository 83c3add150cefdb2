//! First packets that are created while they are sent, because their contents depend on earlier
//! answers.

use std::sync::Arc;

use anyhow::{Context, Result};
use rustls::{
    RootCertStore,
    crypto::{CryptoProvider, aws_lc_rs},
    quic::{ClientConnection, Suite, Version},
    version::TLS13,
};

/// A connection ID chosen by the client.
pub type Id = [u8; 8];

/// A ClientHello that all connections share. Each connection uses it once, so a server cannot
/// notice that it is shared.
pub struct Hello {
    message: Vec<u8>,
    /// The offset of the client's own ID (initial_source_connection_id, RFC 9000 §18.2).
    source: usize,
    suite: Suite,
}

impl Hello {
    pub fn new() -> Result<Self> {
        let parameters = [&[SOURCE_ID_PARAMETER, PLACE.len() as u8], &PLACE[..]].concat();
        let name = "libp2p".try_into()?;
        let mut client = ClientConnection::new(Arc::new(client()?), Version::V1, name, parameters)?;
        let mut message = Vec::new();
        client.write_hs(&mut message);
        let source = message.windows(PLACE.len()).position(|part| part == PLACE);
        Ok(Self {
            source: source.context("no transport parameters")?,
            message,
            suite: aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256
                .tls13()
                .and_then(|suite| suite.quic_suite())
                .context("no keys for first packets")?,
        })
    }

    /// The UDP payload that begins a connection: an Initial packet (RFC 9000 §17.2.2) with this
    /// ClientHello.
    pub fn initial(&self, destination: Id, source: Id, token: &[u8]) -> Result<Vec<u8>> {
        let keys = self
            .suite
            .keys(&destination, rustls::Side::Client, Version::V1)
            .local;
        let mut packet = vec![0xc0 | (NUMBER.len() as u8 - 1), 0, 0, 0, 1];
        for id in [destination, source] {
            packet.push(id.len() as u8);
            packet.extend(id);
        }
        packet.extend(varint(token.len())?);
        packet.extend(token);
        let length_at = packet.len();
        let length = DATAGRAM
            .checked_sub(length_at + 2)
            .context("a token that leaves no room")?;
        packet.extend(varint(length)?);
        let number_at = packet.len();
        packet.extend(NUMBER);
        let payload_at = packet.len();
        // CRYPTO from offset 0 (RFC 9000 §19.6), and PADDING.
        packet.extend([0x06, 0x00]);
        packet.extend(varint(self.message.len())?);
        let message_at = packet.len();
        packet.extend(&self.message);
        let source_at = message_at + self.source;
        packet[source_at..source_at + source.len()].copy_from_slice(&source);
        packet.resize(DATAGRAM - keys.packet.tag_len(), 0);
        let (header, payload) = packet.split_at_mut(payload_at);
        let tag = keys.packet.encrypt_in_place(0, header, payload)?;
        packet.extend(tag.as_ref());
        // RFC 9001 §5.4.2.
        let (header, sample) = packet.split_at_mut(payload_at + 4 - NUMBER.len());
        let (first, header) = header.split_first_mut().context("no header")?;
        let number = &mut header[number_at - 1..payload_at - 1];
        let sample = &sample[..keys.header.sample_len()];
        keys.header.encrypt_in_place(sample, first, number)?;
        Ok(packet)
    }
}

/// The attacker's TLS client.
pub fn client() -> Result<rustls::ClientConfig> {
    let provider = CryptoProvider {
        // With this group, the ClientHello fits into one datagram.
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    };
    let mut tls = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&TLS13])?
        // It never receives a certificate.
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"libp2p".to_vec()];
    tls.enable_sni = false;
    Ok(tls)
}

/// The client's ID and the token in a Retry packet (RFC 9000 §17.2.5).
pub fn retry(payload: &[u8]) -> Option<(Id, Vec<u8>)> {
    if payload.len() < 5 || payload[0] & 0xf0 != 0xf0 || payload[1..5] != [0, 0, 0, 1] {
        return None;
    }
    let (destination, rest) = short_vector(&payload[5..])?;
    let (_, rest) = short_vector(rest)?;
    let token = rest.get(..rest.len().checked_sub(INTEGRITY_TAG)?)?;
    Some((destination.try_into().ok()?, token.to_vec()))
}

/// The destination ID in a packet to the client, if it has the length of our IDs.
pub fn destination(payload: &[u8]) -> Option<Id> {
    let (&first, rest) = payload.split_first()?;
    let id = if first & 0x80 == 0 {
        rest.get(..size_of::<Id>())?
    } else {
        short_vector(rest.get(4..)?)?.0
    };
    id.try_into().ok()
}

/// A vector with a length of one byte, and the rest.
fn short_vector(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = bytes.split_first()?;
    rest.split_at_checked(length.into())
}

/// Encodes a number in two bytes (RFC 9000 §16).
fn varint(value: usize) -> Result<[u8; 2]> {
    let value = u16::try_from(value)?;
    anyhow::ensure!(value < 1 << 14, "no number of two bytes");
    Ok((0x4000 | value).to_be_bytes())
}

/// RFC 9000 §14.1.
const DATAGRAM: usize = 1200;

/// The packet number: the first one.
const NUMBER: [u8; 2] = [0, 0];

/// initial_source_connection_id (RFC 9000 §18.2).
const SOURCE_ID_PARAMETER: u8 = 0x0f;

/// The placeholder of the ID.
const PLACE: Id = *b"an ID is";

/// The integrity tag after the token of a Retry packet (RFC 9001 §5.8).
const INTEGRITY_TAG: usize = 16;

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use bytes::BytesMut;
    use quinn_proto::{
        DatagramEvent, Endpoint, EndpointConfig, ServerConfig, crypto::rustls::QuicServerConfig,
    };
    use rustls::server::ResolvesServerCertUsingSni;

    use super::*;

    #[test]
    fn it_is_a_first_packet_to_quinn_proto_and_a_second_one_with_the_token_of_a_retry() {
        let mut server = server();
        let hello = Hello::new().unwrap();
        let from = "198.18.0.1:4001".parse().unwrap();
        let mut begin = |destination: Id, source: Id, token: &[u8]| {
            let packet = hello.initial(destination, source, token).unwrap();
            assert_eq!(packet.len(), 1200);
            let contents = BytesMut::from(&packet[..]);
            let now = Instant::now();
            let event = server.handle(now, from, None, None, contents, &mut Vec::new());
            let Some(DatagramEvent::NewConnection(incoming)) = event else {
                panic!("no connection begins");
            };
            if incoming.remote_address_validated() {
                return None;
            }
            let mut answer = Vec::new();
            let sent = server.retry(incoming, &mut answer).unwrap();
            assert_eq!(sent.size, answer.len());
            assert_eq!(super::destination(&answer), Some(source));
            Some(retry(&answer).unwrap())
        };
        let (source, token) = begin([1; 8], [2; 8], &[]).unwrap();
        assert_eq!(source, [2; 8]);
        // A token is valid for any number of connections.
        for number in 3..6 {
            assert!(begin([number; 8], [number; 8], &token).is_none());
        }
    }

    /// It needs no certificate, because handshakes do not get that far.
    fn server() -> Endpoint {
        let tls = rustls::ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new()));
        let crypto = QuicServerConfig::try_from(tls).unwrap();
        let config = ServerConfig::with_crypto(Arc::new(crypto));
        Endpoint::new(
            Arc::new(EndpointConfig::default()),
            Some(Arc::new(config)),
            true,
            None,
        )
    }
}
