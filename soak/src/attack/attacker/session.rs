//! TLS for quinn-proto, of a client with arbitrary transport parameters that keeps its keys.

use std::{
    any::Any,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::BytesMut;
use quinn_proto::{
    ConnectError, ConnectionId, Side, TransportError,
    crypto::{
        self, CryptoError, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, Session,
    },
    transport_parameters::TransportParameters,
};

use super::frames::{Reader, number};

/// Begins the session of one connection.
pub struct Client {
    pub tls: Arc<dyn crypto::ClientConfig>,
    /// Transport parameters (RFC 9000 §18.2) that replace quinn-proto's.
    pub parameters: Vec<(u64, u64)>,
    pub found: Arc<Mutex<Found>>,
}

/// The results of a handshake.
#[derive(Default)]
pub struct Found {
    pub keys: Option<OneRtt>,
    /// The key of packets to us after a key update.
    pub next_key: Option<Arc<dyn PacketKey>>,
    /// The peer's transport parameters, encoded.
    pub parameters: Vec<u8>,
}

/// Keys of 1-RTT packets.
pub struct OneRtt {
    pub header: KeyPair<Arc<dyn HeaderKey>>,
    pub packet: KeyPair<Arc<dyn PacketKey>>,
}

pub fn lock(found: &Mutex<Found>) -> MutexGuard<'_, Found> {
    found.lock().unwrap_or_else(PoisonError::into_inner)
}

impl crypto::ClientConfig for Client {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        let mut own = Vec::new();
        params.write(&mut own);
        let said = replace(&own, &self.parameters);
        // As the peer will parse them.
        let params = TransportParameters::read(Side::Server, &mut &said[..])
            .map_err(|_| ConnectError::EndpointStopping)?;
        let tls = Arc::clone(&self.tls).start_session(version, server_name, &params)?;
        Ok(Box::new(KeepingSession {
            tls,
            found: Arc::clone(&self.found),
            has_handshake_keys: false,
        }))
    }
}

/// Replaces or adds values in encoded transport parameters.
fn replace(encoded: &[u8], others: &[(u64, u64)]) -> Vec<u8> {
    let mut all = Vec::new();
    let mut reader = Reader(encoded);
    while let Some((id, value)) = parameter(&mut reader) {
        // quinn-proto's extension would replace `max_ack_delay`.
        if id != MIN_ACK_DELAY && others.iter().all(|other| other.0 != id) {
            number(&mut all, id);
            number(&mut all, value.len() as u64);
            all.extend(value);
        }
    }
    for &(id, value) in others {
        let mut encoded = Vec::new();
        number(&mut encoded, value);
        number(&mut all, id);
        number(&mut all, encoded.len() as u64);
        all.extend(encoded);
    }
    all
}

/// The value of a numeric parameter; 0 if it is absent.
pub fn number_in(encoded: &[u8], id: u64) -> u64 {
    let mut reader = Reader(encoded);
    while let Some((found, value)) = parameter(&mut reader) {
        if found == id {
            return Reader(value).number().unwrap_or(0);
        }
    }
    0
}

fn parameter<'a>(reader: &mut Reader<'a>) -> Option<(u64, &'a [u8])> {
    let id = reader.number()?;
    let length = usize::try_from(reader.number()?).ok()?;
    Some((id, reader.bytes(length)?))
}

struct KeepingSession {
    tls: Box<dyn Session>,
    found: Arc<Mutex<Found>>,
    has_handshake_keys: bool,
}

impl Session for KeepingSession {
    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        self.tls.initial_keys(dst_cid, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.tls.handshake_data()
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.tls.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.tls.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.tls.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        self.tls.read_handshake(buf)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        let parameters = self.tls.transport_parameters()?;
        if let Some(parameters) = &parameters {
            let mut encoded = Vec::new();
            parameters.write(&mut encoded);
            lock(&self.found).parameters = encoded;
        }
        Ok(parameters)
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        let Keys { header, packet } = self.tls.write_handshake(buf)?;
        if !self.has_handshake_keys {
            self.has_handshake_keys = true;
            return Some(Keys { header, packet });
        }
        let header = shared(header);
        let packet = shared(packet);
        let keys = Keys {
            header: KeyPair {
                local: Box::new(Shared(Arc::clone(&header.local))),
                remote: Box::new(Shared(Arc::clone(&header.remote))),
            },
            packet: KeyPair {
                local: Box::new(Shared(Arc::clone(&packet.local))),
                remote: Box::new(Shared(Arc::clone(&packet.remote))),
            },
        };
        lock(&self.found).keys = Some(OneRtt { header, packet });
        Some(keys)
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        let KeyPair { local, remote } = self.tls.next_1rtt_keys()?;
        let remote: Arc<dyn PacketKey> = remote.into();
        // The first call is for the first update.
        let mut found = lock(&self.found);
        found.next_key.get_or_insert_with(|| Arc::clone(&remote));
        Some(KeyPair {
            local,
            remote: Box::new(Shared(remote)),
        })
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.tls.is_valid_retry(orig_dst_cid, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.tls.export_keying_material(output, label, context)
    }
}

fn shared<T: ?Sized>(pair: KeyPair<Box<T>>) -> KeyPair<Arc<T>> {
    KeyPair {
        local: pair.local.into(),
        remote: pair.remote.into(),
    }
}

/// A key with several owners.
struct Shared<T: ?Sized>(Arc<T>);

impl HeaderKey for Shared<dyn HeaderKey> {
    fn decrypt(&self, pn_offset: usize, packet: &mut [u8]) {
        self.0.decrypt(pn_offset, packet);
    }

    fn encrypt(&self, pn_offset: usize, packet: &mut [u8]) {
        self.0.encrypt(pn_offset, packet);
    }

    fn sample_size(&self) -> usize {
        self.0.sample_size()
    }
}

impl PacketKey for Shared<dyn PacketKey> {
    fn encrypt(&self, packet: u64, buf: &mut [u8], header_len: usize) {
        self.0.encrypt(packet, buf, header_len);
    }

    fn decrypt(
        &self,
        packet: u64,
        header: &[u8],
        payload: &mut BytesMut,
    ) -> Result<(), CryptoError> {
        self.0.decrypt(packet, header, payload)
    }

    fn tag_len(&self) -> usize {
        self.0.tag_len()
    }

    fn confidentiality_limit(&self) -> u64 {
        self.0.confidentiality_limit()
    }

    fn integrity_limit(&self) -> u64 {
        self.0.integrity_limit()
    }
}

/// RFC 9000 §18.2.
pub const MAX_IDLE_TIMEOUT: u64 = 0x01;
pub const INITIAL_MAX_DATA: u64 = 0x04;
/// For streams that the client opens, in the server's parameters.
pub const INITIAL_MAX_STREAM_DATA: u64 = 0x06;
pub const INITIAL_MAX_STREAMS: u64 = 0x08;
pub const MAX_ACK_DELAY: u64 = 0x0b;

/// draft-ietf-quic-ack-frequency-07.
const MIN_ACK_DELAY: u64 = 0xff04_de1b;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_replaced_and_added() {
        let mut encoded = Vec::new();
        for (id, value) in [(MAX_IDLE_TIMEOUT, &[0x20][..]), (0x0f, b"an ID is")] {
            number(&mut encoded, id);
            number(&mut encoded, value.len() as u64);
            encoded.extend(value);
        }
        assert_eq!(number_in(&encoded, MAX_IDLE_TIMEOUT), 32);
        let said = replace(
            &encoded,
            &[(MAX_IDLE_TIMEOUT, 1000), (MAX_ACK_DELAY, 16_383)],
        );
        assert_eq!(number_in(&said, MAX_IDLE_TIMEOUT), 1000);
        assert_eq!(number_in(&said, MAX_ACK_DELAY), 16_383);
        assert_eq!(number_in(&said, INITIAL_MAX_DATA), 0);
        assert!(said.windows(8).any(|part| part == b"an ID is"));
    }
}
