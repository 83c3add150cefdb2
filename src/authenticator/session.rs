//! TLS sessions with the interface that quinn-proto requires.
//!
//! quinn-proto has its own implementation. This one also reports what was negotiated and, instead
//! of certificates, the verdict on the peer.

use std::{any::Any, fmt, io::Cursor, net::Ipv4Addr, sync::Arc, time::Duration};

use libp2p_identity::PeerId;
use quinn_proto::{
    ConnectError, ConnectionId, Side, TransportError, TransportErrorCode, VarInt,
    coding::Codec,
    crypto::{
        self, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, ServerConfig as _,
        Session, UnsupportedVersion,
    },
    transport_parameters::TransportParameters,
};
use rustls::{
    AlertDescription, CipherSuite, NamedGroup,
    pki_types::ServerName,
    quic::{
        ClientConnection, Connection, DirectionalKeys, KeyChange, Secrets, ServerConnection,
        Version,
    },
};

use super::{
    error::{CertificateError, GenerateError},
    post_handshake::PostHandshake,
    tls::{ALPN, Initial, Tls},
    verifier::{Record, Verdict},
};
use crate::packets::{
    CryptoBudget, DroppedPackets, LimitedKey, PacketWatch, StreamCredit, StreamWindows, WatchedKey,
};

/// The value of [`Session::handshake_data`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Negotiated {
    pub(crate) cipher_suite: CipherSuite,
    /// Whether the peer forbids packets from another address than that of the handshake (RFC 9000
    /// §18.2).
    pub(crate) disables_active_migration: bool,
    /// The peer's idle timeout (RFC 9000 §18.2); `None` means that it has none.
    pub(crate) max_idle_timeout: Option<Duration>,
    pub(crate) key_exchange_group: NamedGroup,
    /// The server name in the ClientHello. libp2p clients send none, and servers ignore it.
    pub(crate) server_name: Option<String>,
}

/// The value of [`Session::peer_identity`]. It is available from the start, because quinn-proto
/// gives no other access to the session.
#[derive(Debug)]
pub(crate) struct Peer {
    /// A positive verdict is reported only after the handshake is complete: until then the peer's
    /// flight may still prove to be forged.
    pub(crate) verdict: Option<Verdict>,
    pub(crate) crypto: Arc<CryptoBudget>,
    pub(crate) watch: Arc<PacketWatch>,
}

/// What is needed to start sessions in both roles.
pub(super) struct Sessions {
    tls: Tls,
    initial: Initial,
}

impl Sessions {
    pub(super) fn new(tls: Tls) -> Result<Self, GenerateError> {
        let sessions = Self {
            initial: tls.initial()?,
            tls,
        };
        // Errors should occur here rather than while a connection is accepted.
        let record = Arc::new(Record::default());
        sessions
            .connect(None, Vec::new(), &record)
            .map_err(GenerateError::tls)?;
        sessions
            .accept(Vec::new(), &record)
            .map_err(GenerateError::tls)?;
        Ok(sessions)
    }

    fn connect(
        &self,
        expected: Option<PeerId>,
        parameters: Vec<u8>,
        record: &Arc<Record>,
    ) -> Result<ClientConnection, rustls::Error> {
        let verifier = self.tls.verifier(expected, record);
        ClientConnection::new(
            Arc::new(self.tls.client(verifier)?),
            Version::V1,
            // rustls requires a name. It does not send IP addresses, and nothing else uses this
            // one.
            ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into()),
            parameters,
        )
    }

    fn accept(
        &self,
        parameters: Vec<u8>,
        record: &Arc<Record>,
    ) -> Result<ServerConnection, rustls::Error> {
        // A listener expects no particular peer.
        let verifier = self.tls.verifier(None, record);
        ServerConnection::new(
            Arc::new(self.tls.server(verifier)?),
            Version::V1,
            parameters,
        )
    }

    /// Keys of Initial packets, derived from the client's initial destination connection ID.
    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side, budget: &Arc<CryptoBudget>) -> Keys {
        let keys = self.initial.suite.keys(dst_cid, side.into(), Version::V1);
        handshake_keys(keys.local, keys.remote, budget)
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Sessions")
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

/// Starts the TLS client of one dial.
pub(super) struct ClientConfig {
    pub(super) sessions: Arc<Sessions>,
    pub(super) dropped: Arc<DroppedPackets>,
    pub(super) expected: Option<PeerId>,
    pub(super) windows: StreamWindows,
}

impl crypto::ClientConfig for ClientConfig {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        _server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        supported(version)?;
        let record = Arc::new(Record::default());
        let connection = self
            .sessions
            .connect(self.expected, encode(params, self.windows), &record)
            // The same configuration worked in `Sessions::new`, so the system's randomness has
            // failed.
            .map_err(|_| ConnectError::EndpointStopping)?;
        Ok(Box::new(TlsSession::new(
            Connection::Client(connection),
            record,
            self.sessions.clone(),
            CryptoBudget::new(&self.dropped),
            self.windows,
        )))
    }
}

/// Starts TLS servers.
pub(super) struct ServerConfig {
    pub(super) sessions: Arc<Sessions>,
    pub(super) dropped: Arc<DroppedPackets>,
    pub(super) windows: StreamWindows,
}

impl crypto::ServerConfig for ServerConfig {
    fn initial_keys(
        &self,
        version: u32,
        dst_cid: &ConnectionId,
    ) -> Result<Keys, UnsupportedVersion> {
        supported(version)?;
        // These keys decrypt only the first packet, before there is a session. This budget is used
        // once, so only its limits for one packet matter.
        let budget = CryptoBudget::new(&self.dropped);
        Ok(self.sessions.initial_keys(dst_cid, Side::Server, &budget))
    }

    fn retry_tag(&self, version: u32, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.sessions
            .initial
            .server
            .retry_tag(version, orig_dst_cid, packet)
    }

    fn start_session(
        self: Arc<Self>,
        _version: u32,
        params: &TransportParameters,
    ) -> Box<dyn Session> {
        let record = Arc::new(Record::default());
        let connection = self
            .sessions
            .accept(encode(params, self.windows), &record)
            .expect("the same parts made a server connection in `Sessions::new`");
        Box::new(TlsSession::new(
            Connection::Server(connection),
            record,
            self.sessions.clone(),
            CryptoBudget::new(&self.dropped),
            self.windows,
        ))
    }
}

/// The TLS handshake and keys of one connection.
struct TlsSession {
    state: State,
    record: Arc<Record>,
    sessions: Arc<Sessions>,
    crypto: Arc<CryptoBudget>,
    watch: Arc<PacketWatch>,
    /// Whether quinn-proto was told that [`Negotiated`] is available.
    is_reported: bool,
    next_secrets: Option<Secrets>,
}

enum State {
    Handshake(Box<Connection>),
    /// The rustls connection, which takes several kilobytes, is dropped.
    Complete {
        negotiated: Negotiated,
        transport_parameters: Box<[u8]>,
        messages: PostHandshake,
    },
}

impl TlsSession {
    fn new(
        connection: Connection,
        record: Arc<Record>,
        sessions: Arc<Sessions>,
        crypto: Arc<CryptoBudget>,
        windows: StreamWindows,
    ) -> Self {
        Self {
            state: State::Handshake(Box::new(connection)),
            record,
            sessions,
            crypto,
            watch: Arc::new(PacketWatch::new(windows)),
            is_reported: false,
            next_secrets: None,
        }
    }

    /// The keys of 1-RTT packets.
    fn packet_keys(
        &self,
        local: Box<dyn rustls::quic::PacketKey>,
        remote: Box<dyn rustls::quic::PacketKey>,
    ) -> KeyPair<Box<dyn PacketKey>> {
        let remote = LimitedKey::established(remote, &self.crypto, &self.watch);
        KeyPair {
            local: Box::new(WatchedKey::new(local, &self.watch)),
            remote: Box::new(WatchedKey::new(remote, &self.watch)),
        }
    }

    fn side(&self) -> Side {
        match &self.state {
            State::Handshake(connection) => side(connection),
            State::Complete { messages, .. } => messages.side(),
        }
    }

    /// What was negotiated; `None` until all of it is known.
    fn negotiated(&self) -> Option<Negotiated> {
        match &self.state {
            State::Handshake(connection) => negotiated(connection),
            State::Complete { negotiated, .. } => Some(negotiated.clone()),
        }
    }

    /// Drops the rustls connection once it has nothing left to send.
    fn complete(&mut self) {
        if let State::Handshake(connection) = &self.state
            && !connection.is_handshaking()
            && self.next_secrets.is_some()
            && let Some(negotiated) = negotiated(connection)
            && let Some(parameters) = connection.quic_transport_parameters()
        {
            self.state = State::Complete {
                negotiated,
                transport_parameters: parameters.into(),
                messages: PostHandshake::new(side(connection)),
            };
        }
    }

    /// The error that closes the connection after TLS has failed.
    fn failure(&self, connection: &Connection, error: &rustls::Error) -> TransportError {
        let mut alert = connection.alert();
        if *error == rustls::Error::NoCertificatesPresented {
            self.record
                .conclude(Err(CertificateError::Chain { length: 0 }));
            //= https://www.rfc-editor.org/rfc/rfc8446#section-4.4.2.4
            // rustls sends an alert to a client without a certificate, but not to a server without
            // one.
            alert = alert.or(Some(AlertDescription::DecodeError));
        }
        // Our own reason is more precise than the rustls error that carried it.
        let reason = match self.record.verdict() {
            Some(Err(refusal)) => refusal.to_string(),
            _ => error.to_string(),
        };
        TransportError {
            code: alert.map_or(TransportErrorCode::PROTOCOL_VIOLATION, alert_code),
            frame: None,
            reason,
        }
    }
}

impl Session for TlsSession {
    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        self.sessions.initial_keys(dst_cid, side, &self.crypto)
    }

    /// A [`Negotiated`].
    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.negotiated()
            .map(|negotiated| Box::new(negotiated) as Box<dyn Any>)
    }

    /// A [`Peer`].
    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        let verdict = self.record.verdict();
        Some(Box::new(Peer {
            verdict: verdict
                .filter(|verdict| verdict.is_err() || !self.is_handshaking())
                .cloned(),
            crypto: Arc::clone(&self.crypto),
            watch: Arc::clone(&self.watch),
        }))
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        None
    }

    fn early_data_accepted(&self) -> Option<bool> {
        match self.side() {
            Side::Client => Some(false),
            Side::Server => None,
        }
    }

    fn is_handshaking(&self) -> bool {
        match &self.state {
            State::Handshake(connection) => connection.is_handshaking(),
            State::Complete { .. } => false,
        }
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        let connection = match &mut self.state {
            State::Handshake(connection) => connection,
            State::Complete { messages, .. } => {
                return match messages.read(buf) {
                    Ok(()) => Ok(false),
                    Err(alert) => Err(TransportError {
                        code: alert_code(alert),
                        frame: None,
                        reason: "unexpected TLS message after the handshake".into(),
                    }),
                };
            }
        };
        let read = connection.read_hs(buf);
        let State::Handshake(connection) = &self.state else {
            return Ok(false);
        };
        if let Err(error) = read {
            return Err(self.failure(connection, &error));
        }
        // rustls checks the protocol as well. It is checked here too, because without it libp2p
        // peers would not understand each other.
        match connection.alpn_protocol() {
            Some(ALPN) => {}
            None if connection.is_handshaking() => {}
            _ => {
                return Err(TransportError {
                    code: alert_code(AlertDescription::NoApplicationProtocol),
                    frame: None,
                    reason: "peer did not negotiate libp2p".into(),
                });
            }
        }
        let is_news = !self.is_reported && self.negotiated().is_some();
        self.is_reported |= is_news;
        Ok(is_news)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        let encoded = match &self.state {
            State::Handshake(connection) => connection.quic_transport_parameters(),
            State::Complete {
                transport_parameters,
                ..
            } => Some(&**transport_parameters),
        };
        let Some(encoded) = encoded else {
            return Ok(None);
        };
        let parameters = TransportParameters::read(self.side(), &mut Cursor::new(encoded))?;
        Ok(Some(parameters))
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        let State::Handshake(connection) = &mut self.state else {
            return None;
        };
        match connection.write_hs(buf) {
            Some(KeyChange::Handshake { keys }) => {
                Some(handshake_keys(keys.local, keys.remote, &self.crypto))
            }
            Some(KeyChange::OneRtt { keys, next }) => {
                self.next_secrets = Some(next);
                Some(Keys {
                    header: KeyPair {
                        local: Box::new(self.watch.share_header_key(Box::new(keys.local.header))),
                        remote: Box::new(keys.remote.header),
                    },
                    packet: self.packet_keys(keys.local.packet, keys.remote.packet),
                })
            }
            None => {
                self.complete();
                None
            }
        }
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        let keys = self.next_secrets.as_mut()?.next_packet_keys();
        Some(self.packet_keys(keys.local, keys.remote))
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        let Some((token, tag)) = payload.split_last_chunk::<16>() else {
            return false;
        };
        let packet = [header, token].concat();
        let expected = self
            .sessions
            .initial
            .server
            .retry_tag(VERSION_1, orig_dst_cid, &packet);
        // The key of the tag is public, so a timing attack would reveal nothing.
        *tag == expected
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        match &self.state {
            State::Handshake(connection) => connection
                .export_keying_material(output, label, Some(context))
                .map(drop)
                .map_err(|_| ExportKeyingMaterialError),
            // quinn-proto needs no exported keys, so the secret is not kept.
            State::Complete { .. } => Err(ExportKeyingMaterialError),
        }
    }
}

fn side(connection: &Connection) -> Side {
    match connection {
        Connection::Client(_) => Side::Client,
        Connection::Server(_) => Side::Server,
    }
}

fn negotiated(connection: &Connection) -> Option<Negotiated> {
    connection.alpn_protocol()?;
    Some(Negotiated {
        cipher_suite: connection.negotiated_cipher_suite()?.suite(),
        disables_active_migration: connection
            .quic_transport_parameters()
            .is_some_and(|parameters| parameter(parameters, DISABLE_ACTIVE_MIGRATION).is_some()),
        max_idle_timeout: connection
            .quic_transport_parameters()
            .and_then(|parameters| {
                VarInt::decode(&mut parameter(parameters, MAX_IDLE_TIMEOUT)?).ok()
            })
            .map(|millis| Duration::from_millis(millis.into_inner()))
            .filter(|timeout| !timeout.is_zero()),
        key_exchange_group: connection.negotiated_key_exchange_group()?.name(),
        server_name: match connection {
            Connection::Client(_) => None,
            Connection::Server(server) => server.server_name().map(ToOwned::to_owned),
        },
    })
}

/// Finds a transport parameter of the peer that quinn-proto parses but does not expose.
fn parameter(mut parameters: &[u8], wanted: u64) -> Option<&[u8]> {
    // quinn-proto refuses malformed parameters, so errors need not be reported here.
    loop {
        let id = VarInt::decode(&mut parameters).ok()?;
        let len = VarInt::decode(&mut parameters).ok()?;
        let (value, rest) = parameters.split_at_checked(usize::try_from(len.into_inner()).ok()?)?;
        if id.into_inner() == wanted {
            return Some(value);
        }
        parameters = rest;
    }
}

fn supported(version: u32) -> Result<(), UnsupportedVersion> {
    // libp2p's `/quic-v1` is version 1 only.
    if version == VERSION_1 {
        Ok(())
    } else {
        Err(UnsupportedVersion)
    }
}

fn alert_code(alert: AlertDescription) -> TransportErrorCode {
    TransportErrorCode::crypto(alert.into())
}

/// The keys of the peer's packets count its CRYPTO frames.
fn handshake_keys(
    local: DirectionalKeys,
    remote: DirectionalKeys,
    budget: &Arc<CryptoBudget>,
) -> Keys {
    Keys {
        header: KeyPair {
            local: Box::new(local.header),
            remote: Box::new(remote.header),
        },
        packet: KeyPair {
            local: Box::new(local.packet),
            remote: Box::new(LimitedKey::of_handshake(remote.packet, budget)),
        },
    }
}

fn encode(parameters: &TransportParameters, windows: StreamWindows) -> Vec<u8> {
    let mut encoded = Vec::new();
    parameters.write(&mut encoded);
    if windows.may_grow() {
        StreamCredit::lower_parameters(windows, &mut encoded);
    }
    encoded
}

/// Transport parameters (RFC 9000 §18.2).
const MAX_IDLE_TIMEOUT: u64 = 0x01;
const DISABLE_ACTIVE_MIGRATION: u64 = 0x0c;

/// The version field of QUIC version 1.
//= https://www.rfc-editor.org/rfc/rfc9000#section-15
const VERSION_1: u32 = 1;
