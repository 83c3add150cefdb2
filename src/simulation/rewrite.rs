//! A peer that changes the payloads of its packets: of those that its state machine sends, or of
//! those that it receives.
//!
//! Its TLS sessions and its packet protection are real. Between them and the state machine it
//! changes payloads before encryption, so that arbitrary frames reach the other side authenticated;
//! or after decryption, as if the other side had sent other frames.

use std::{
    any::Any,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::BytesMut;
use quinn_proto::{
    ConnectError, ConnectionId, Side, TransportError,
    crypto::{
        self, CryptoError, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, Session,
        UnsupportedVersion,
    },
    transport_parameters::TransportParameters,
};

/// Changes the payload of a packet before encryption; its length stays the same.
pub(crate) type Rewrite = Arc<Mutex<dyn FnMut(Level, &mut [u8]) + Send>>;

/// Changes the payload of a packet after decryption.
pub(crate) type Reread = Arc<Mutex<dyn FnMut(Level, &mut BytesMut) + Send>>;

/// The changes that a peer makes.
#[derive(Clone, Default)]
pub(crate) struct Changes {
    pub(crate) said: Option<Rewrite>,
    pub(crate) heard: Option<Reread>,
}

impl Changes {
    /// Changes only outgoing packets.
    pub(crate) fn said(said: Rewrite) -> Self {
        Self {
            said: Some(said),
            heard: None,
        }
    }

    pub(crate) fn are_none(&self) -> bool {
        self.said.is_none() && self.heard.is_none()
    }
}

/// The encryption level of a packet (RFC 9001 §2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Initial,
    Handshake,
    OneRtt,
}

/// The TLS client of a peer that rewrites packets.
pub(crate) fn client(
    inner: Arc<dyn crypto::ClientConfig>,
    changes: Changes,
) -> Arc<dyn crypto::ClientConfig> {
    Arc::new(RewritingClient { inner, changes })
}

/// The TLS server of a peer that rewrites packets.
pub(crate) fn server(
    inner: Arc<dyn crypto::ServerConfig>,
    changes: Changes,
) -> Arc<dyn crypto::ServerConfig> {
    Arc::new(RewritingServer { inner, changes })
}

struct RewritingClient {
    inner: Arc<dyn crypto::ClientConfig>,
    changes: Changes,
}

impl crypto::ClientConfig for RewritingClient {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        let inner = Arc::clone(&self.inner).start_session(version, server_name, params)?;
        Ok(RewritingSession::start(inner, &self.changes))
    }
}

struct RewritingServer {
    inner: Arc<dyn crypto::ServerConfig>,
    changes: Changes,
}

impl crypto::ServerConfig for RewritingServer {
    fn initial_keys(
        &self,
        version: u32,
        dst_cid: &ConnectionId,
    ) -> Result<Keys, UnsupportedVersion> {
        self.inner.initial_keys(version, dst_cid)
    }

    fn retry_tag(&self, version: u32, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.inner.retry_tag(version, orig_dst_cid, packet)
    }

    fn start_session(
        self: Arc<Self>,
        version: u32,
        params: &TransportParameters,
    ) -> Box<dyn Session> {
        let inner = Arc::clone(&self.inner).start_session(version, params);
        RewritingSession::start(inner, &self.changes)
    }
}

struct RewritingSession {
    inner: Box<dyn Session>,
    changes: Changes,
    /// The level of the next keys.
    level: Level,
}

impl RewritingSession {
    fn start(inner: Box<dyn Session>, changes: &Changes) -> Box<dyn Session> {
        Box::new(Self {
            inner,
            changes: changes.clone(),
            level: Level::Handshake,
        })
    }

    fn key(&self, level: Level, inner: Box<dyn PacketKey>) -> Box<dyn PacketKey> {
        Box::new(RewritingKey {
            inner,
            level,
            changes: self.changes.clone(),
        })
    }
}

impl Session for RewritingSession {
    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        let Keys { header, packet } = self.inner.initial_keys(dst_cid, side);
        Keys {
            header,
            packet: KeyPair {
                local: self.key(Level::Initial, packet.local),
                remote: self.key(Level::Initial, packet.remote),
            },
        }
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.inner.handshake_data()
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.inner.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.inner.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.inner.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.inner.is_handshaking()
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        self.inner.read_handshake(buf)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        self.inner.transport_parameters()
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        let Keys { header, packet } = self.inner.write_handshake(buf)?;
        let level = self.level;
        self.level = Level::OneRtt;
        Some(Keys {
            header,
            packet: KeyPair {
                local: self.key(level, packet.local),
                remote: self.key(level, packet.remote),
            },
        })
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        let KeyPair { local, remote } = self.inner.next_1rtt_keys()?;
        Some(KeyPair {
            local: self.key(Level::OneRtt, local),
            remote: self.key(Level::OneRtt, remote),
        })
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.inner.is_valid_retry(orig_dst_cid, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.inner.export_keying_material(output, label, context)
    }
}

struct RewritingKey {
    inner: Box<dyn PacketKey>,
    level: Level,
    changes: Changes,
}

impl PacketKey for RewritingKey {
    fn encrypt(&self, packet: u64, buf: &mut [u8], header_len: usize) {
        if let Some(rewrite) = &self.changes.said {
            let payload = header_len..buf.len() - self.inner.tag_len();
            let mut rewrite = rewrite.lock().unwrap_or_else(PoisonError::into_inner);
            rewrite(self.level, &mut buf[payload]);
        }
        self.inner.encrypt(packet, buf, header_len);
    }

    fn decrypt(
        &self,
        packet: u64,
        header: &[u8],
        payload: &mut BytesMut,
    ) -> Result<(), CryptoError> {
        self.inner.decrypt(packet, header, payload)?;
        if let Some(reread) = &self.changes.heard {
            let mut reread = reread.lock().unwrap_or_else(PoisonError::into_inner);
            reread(self.level, payload);
        }
        Ok(())
    }

    fn tag_len(&self) -> usize {
        self.inner.tag_len()
    }

    fn confidentiality_limit(&self) -> u64 {
        self.inner.confidentiality_limit()
    }

    fn integrity_limit(&self) -> u64 {
        self.inner.integrity_limit()
    }
}
