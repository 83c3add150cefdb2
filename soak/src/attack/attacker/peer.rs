//! A peer with a real handshake, which then builds its own packets.
//!
//! quinn-proto performs the handshake, and is dropped when it is complete. From then on, only the
//! attack itself retransmits, acknowledges, or respects limits.

use std::{
    io::{self, ErrorKind},
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use bytes::BytesMut;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};
use quinn_proto::{
    ClientConfig, Connection, DatagramEvent, Endpoint, EndpointConfig, Event, TransportConfig,
    VarInt,
    crypto::{PacketKey, rustls::QuicClientConfig},
};
use rand::RngExt;
use rustls::{
    DigitallySignedStruct, Error, SignatureScheme,
    client::{
        ResolvesClientCert,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::aws_lc_rs::{default_provider, kx_group},
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};

use super::{
    certificate::Certificate,
    frames::{self, Heard, hear},
    session::{
        Client, Found, INITIAL_MAX_DATA, INITIAL_MAX_STREAM_DATA, INITIAL_MAX_STREAMS,
        MAX_ACK_DELAY, OneRtt, lock, number_in,
    },
};

/// The identity and the transport parameters of a dial.
pub struct Introduction {
    pub to: SocketAddr,
    pub resolver: Arc<dyn ResolvesClientCert>,
    pub protocol: &'static [u8],
    /// Transport parameters that replace quinn-proto's.
    pub parameters: Vec<(u64, u64)>,
}

impl Introduction {
    /// A new peer without special parameters.
    pub fn of_a_peer(to: SocketAddr) -> Result<Self> {
        Self::with(to, Certificate::of_a_peer()?)
    }

    pub fn with(to: SocketAddr, certificate: Certificate) -> Result<Self> {
        let key = default_provider()
            .key_provider
            .load_private_key(certificate.key)?;
        let certified = CertifiedKey::new(vec![certificate.der], key);
        Ok(Self {
            to,
            resolver: Arc::new(SingleCertAndKey::from(certified)),
            protocol: b"libp2p",
            parameters: Vec::new(),
        })
    }

    /// Adds the largest permitted `max_ack_delay`.
    pub fn patient(mut self) -> Self {
        self.parameters.push((MAX_ACK_DELAY, LONGEST_ACK_DELAY));
        self
    }

    fn config(&self, found: &Arc<Mutex<Found>>) -> Result<ClientConfig> {
        let mut provider = default_provider();
        // Its ClientHello fits into one datagram.
        provider.kx_groups = vec![kx_group::X25519];
        let mut tls = rustls::ClientConfig::builder_with_provider(provider.into())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Credulous))
            .with_client_cert_resolver(Arc::clone(&self.resolver));
        tls.alpn_protocols = vec![self.protocol.to_vec()];
        tls.enable_sni = false;
        let mut transport = TransportConfig::default();
        transport
            .receive_window(VarInt::MAX)
            .stream_receive_window(VarInt::MAX)
            .mtu_discovery_config(None);
        let mut config = ClientConfig::new(Arc::new(Client {
            tls: Arc::new(QuicClientConfig::try_from(tls)?),
            parameters: self.parameters.clone(),
            found: Arc::clone(found),
        }));
        config.transport_config(Arc::new(transport));
        Ok(config)
    }
}

pub struct Peer {
    socket: Arc<UdpSocket>,
    to: SocketAddr,
    keys: OneRtt,
    /// The key of packets to us after a key update.
    next_key: Option<Arc<dyn PacketKey>>,
    /// The victim's ID.
    destination: Vec<u8>,
    /// Number of the next packet.
    next: u64,
    /// Received packet numbers, in runs without a gap.
    received: Vec<(u64, u64)>,
    failures: u32,
    /// Whether no other peer uses its socket.
    is_alone: bool,
    pub is_closed: bool,
    /// Credit that the victim has given.
    pub max_data: u64,
    pub max_stream_data: u64,
    pub max_streams: u64,
}

impl Peer {
    /// Dials from a new socket.
    pub fn dial(introduction: &Introduction) -> Result<Self> {
        let socket = Arc::new(UdpSocket::bind((super::OWN, 0))?);
        let mut peer = Self::connect(&socket, introduction)?;
        socket.set_nonblocking(true)?;
        peer.is_alone = true;
        Ok(peer)
    }

    /// Performs a handshake. Several peers may use the socket one after another; then none of them
    /// may [`listen`](Self::listen).
    pub fn connect(socket: &Arc<UdpSocket>, introduction: &Introduction) -> Result<Self> {
        let found = Arc::new(Mutex::new(Found::default()));
        let mut attempt = Attempt::begin(socket, introduction, &found)?;
        let deadline = Instant::now() + PATIENCE;
        while !attempt.is_confirmed {
            attempt.go_on(deadline)?;
        }
        attempt.send()?;
        let mut found = lock(&found);
        let parameters = std::mem::take(&mut found.parameters);
        Ok(Self {
            socket: Arc::clone(socket),
            to: introduction.to,
            keys: found.keys.take().context("no keys")?,
            next_key: found.next_key.take(),
            destination: attempt.destination,
            next: FIRST_NUMBER,
            received: Vec::new(),
            failures: 0,
            is_alone: false,
            is_closed: false,
            max_data: number_in(&parameters, INITIAL_MAX_DATA),
            max_stream_data: number_in(&parameters, INITIAL_MAX_STREAM_DATA),
            max_streams: number_in(&parameters, INITIAL_MAX_STREAMS),
        })
    }

    /// A 1-RTT packet with these frames.
    pub fn packet(&mut self, frames: &[u8]) -> Vec<u8> {
        let mut packet = Vec::with_capacity(OVERHEAD + frames.len());
        packet.push(0x43);
        packet.extend(&self.destination);
        let number_at = packet.len();
        packet.extend((self.next as u32).to_be_bytes());
        let header = packet.len();
        packet.extend(frames);
        let key = &self.keys.packet.local;
        packet.resize(packet.len() + key.tag_len(), 0);
        key.encrypt(self.next, &mut packet, header);
        self.keys.header.local.encrypt(number_at, &mut packet);
        self.next += 1;
        packet
    }

    /// The same with PADDING up to this length.
    pub fn padded(&mut self, frames: &[u8], length: usize) -> Vec<u8> {
        let mut frames = frames.to_vec();
        frames.resize(frames.len().max(length.saturating_sub(OVERHEAD)), 0);
        self.packet(&frames)
    }

    /// The same at the end of a datagram that begins with an unreadable packet.
    pub fn behind_another(&mut self, frames: &[u8], length: usize) -> Vec<u8> {
        let packet = self.packet(frames);
        let mut datagram = unreadable(&self.destination, length.saturating_sub(packet.len()));
        datagram.extend(packet);
        datagram
    }

    /// A datagram that looks like a packet of this connection.
    pub fn garbage(&self, length: usize) -> Vec<u8> {
        let mut garbage = vec![0; length];
        rand::rng().fill(&mut garbage[..]);
        garbage[0] = 0x40 | garbage[0] & 0x3f;
        garbage[1..=self.destination.len()].copy_from_slice(&self.destination);
        garbage
    }

    pub fn send(&self, datagram: &[u8]) {
        // Datagrams that cannot be sent are lost, as on any network.
        let _ = self.socket.send_to(datagram, self.to);
    }

    /// Sends datagrams of that size at once, of which the last one may be smaller.
    pub fn send_batch(&self, datagrams: &[u8], size: u16) {
        let _ = send_batch(&self.socket, self.to, datagrams, size);
    }

    /// Reads the datagrams that the kernel has kept. Notes credit and the end of the connection.
    pub fn listen(&mut self) {
        if self.is_alone {
            self.listen_at(&Arc::clone(&self.socket));
        }
    }

    /// The same for a socket that no other peer uses.
    pub fn listen_at(&mut self, socket: &UdpSocket) {
        let mut buffer = vec![0; LARGEST];
        for _ in 0..AT_A_TIME {
            let Ok(length) = socket.recv(&mut buffer) else {
                return;
            };
            if buffer[0] & 0x80 != 0 {
                // A retransmission of the handshake.
                continue;
            }
            match self.open(&mut buffer[..length]) {
                Some(heard) => {
                    self.failures = 0;
                    self.is_closed |= heard.is_closed;
                    self.max_streams = self.max_streams.max(heard.max_streams.unwrap_or(0));
                }
                // Stateless resets look like this.
                None => self.failures += 1,
            }
            self.is_closed |= self.failures > MANY_FAILURES;
        }
    }

    fn open(&mut self, packet: &mut [u8]) -> Option<Heard> {
        let number_at = 1 + OWN_ID;
        if packet.len() < number_at + 4 + 16 {
            return None;
        }
        self.keys.header.remote.decrypt(number_at, packet);
        let payload_at = number_at + usize::from(packet[0] & 0x03) + 1;
        let truncated = packet[number_at..payload_at]
            .iter()
            .fold(0, |number, &byte| number << 8 | u64::from(byte));
        let largest = self.received.last().map_or(0, |run| run.1);
        let number = expand(truncated, 8 * (payload_at - number_at) as u32, largest);
        let mut payload = BytesMut::from(&packet[payload_at..]);
        // The victim may update its key at any time, but updates it again only after we have done
        // so.
        let key = if packet[0] & KEY_PHASE == 0 {
            &self.keys.packet.remote
        } else {
            self.next_key.as_ref()?
        };
        key.decrypt(number, &packet[..payload_at], &mut payload)
            .ok()?;
        self.note(number);
        Some(hear(&payload))
    }

    /// Late packets start no run of their own, and are not acknowledged.
    fn note(&mut self, number: u64) {
        match self.received.last_mut() {
            Some(run) if number == run.1 + 1 => run.1 = number,
            Some(run) if number <= run.1 => {}
            _ => self.received.push((number, number)),
        }
        if self.received.len() > RUNS {
            self.received.remove(0);
        }
    }

    /// Appends an acknowledgement of received packets, if there are any.
    pub fn acknowledge(&self, to: &mut Vec<u8>) {
        frames::ack(to, &self.received);
    }

    /// Ends the connection.
    pub fn close(&mut self) {
        let mut frames = Vec::new();
        frames::close(&mut frames);
        let packet = self.packet(&frames);
        self.send(&packet);
        self.is_closed = true;
    }
}

/// Sends datagrams of that size at once, of which the last one may be smaller.
pub fn send_batch(
    socket: &UdpSocket,
    to: SocketAddr,
    datagrams: &[u8],
    size: u16,
) -> nix::Result<usize> {
    sendmsg(
        socket.as_raw_fd(),
        &[io::IoSlice::new(datagrams)],
        &[ControlMessage::UdpGsoSegments(&size)],
        MsgFlags::empty(),
        Some(&SockaddrStorage::from(to)),
    )
}

/// A 0-RTT packet (RFC 9000 §17.2.3) of this length, for which no host has the keys.
pub fn unreadable(destination: &[u8], length: usize) -> Vec<u8> {
    let mut packet = vec![0xd0, 0, 0, 0, 1, destination.len() as u8];
    packet.extend(destination);
    packet.push(0);
    // A length of four bytes, for large packets.
    let rest = length.saturating_sub(packet.len() + 4);
    packet.extend((0x8000_0000 | rest as u32).to_be_bytes());
    packet.resize(packet.len() + rest, 0x5a);
    packet
}

/// Decodes a truncated packet number (RFC 9000 §A.3).
fn expand(truncated: u64, bits: u32, largest: u64) -> u64 {
    let expected = largest + 1;
    let (window, half) = (1_u64 << bits, 1_u64 << (bits - 1));
    let candidate = expected & !(window - 1) | truncated;
    if candidate + half <= expected {
        candidate + window
    } else if candidate > expected + half && candidate >= window {
        candidate - window
    } else {
        candidate
    }
}

/// A handshake in progress.
pub struct Attempt {
    socket: Arc<UdpSocket>,
    endpoint: Endpoint,
    connection: Connection,
    handle: quinn_proto::ConnectionHandle,
    to: SocketAddr,
    destination: Vec<u8>,
    is_connected: bool,
    /// Whether the victim has confirmed the handshake.
    is_confirmed: bool,
    buffer: Vec<u8>,
}

impl Attempt {
    pub fn begin(
        socket: &Arc<UdpSocket>,
        introduction: &Introduction,
        found: &Arc<Mutex<Found>>,
    ) -> Result<Self> {
        let mut endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, true, None);
        let config = introduction.config(found)?;
        let (handle, connection) =
            endpoint.connect(Instant::now(), config, introduction.to, "libp2p")?;
        Ok(Self {
            socket: Arc::clone(socket),
            endpoint,
            connection,
            handle,
            to: introduction.to,
            destination: Vec::new(),
            is_connected: false,
            is_confirmed: false,
            buffer: vec![0; LARGEST],
        })
    }

    /// Sends what the state machine has to send.
    fn send(&mut self) -> Result<()> {
        let now = Instant::now();
        let mut datagram = Vec::new();
        while self
            .connection
            .poll_transmit(now, 1, &mut datagram)
            .is_some()
        {
            let _ = self.socket.send_to(&datagram, self.to);
            datagram.clear();
        }
        while let Some(event) = self.connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(self.handle, event) {
                self.connection.handle_event(event);
            }
        }
        while let Some(event) = self.connection.poll() {
            match event {
                Event::Connected => self.is_connected = true,
                Event::ConnectionLost { reason } => return Err(anyhow!(reason).context("refused")),
                _ => {}
            }
        }
        Ok(())
    }

    /// Sends, and waits for the next event.
    pub fn go_on(&mut self, deadline: Instant) -> Result<()> {
        self.send()?;
        let now = Instant::now();
        if now >= deadline {
            bail!("no answer to a handshake");
        }
        let timeout = self.connection.poll_timeout().unwrap_or(deadline);
        let wait = timeout.min(deadline).saturating_duration_since(now);
        self.socket
            .set_read_timeout(Some(wait.max(SHORTEST_WAIT)))?;
        match self.socket.recv_from(&mut self.buffer) {
            Ok((length, from)) => self.receive(length, from),
            // A closed port counts as one that does not answer.
            Err(error) if is_passing(&error) => {}
            Err(error) => return Err(error.into()),
        }
        let now = Instant::now();
        if timeout <= now {
            self.connection.handle_timeout(now);
        }
        self.send()
    }

    fn receive(&mut self, length: usize, from: SocketAddr) {
        let datagram = &self.buffer[..length];
        let is_short = datagram.first().is_some_and(|first| first & 0x80 == 0);
        let source = source_id(datagram).map(<[u8]>::to_vec);
        let contents = BytesMut::from(datagram);
        let event =
            self.endpoint
                .handle(Instant::now(), from, None, None, contents, &mut Vec::new());
        if let Some(DatagramEvent::ConnectionEvent(_, event)) = event {
            self.connection.handle_event(event);
            self.is_confirmed |= is_short && self.is_connected;
            if let Some(source) = source {
                self.destination = source;
            }
        }
    }
}

/// The source ID in a long header (RFC 8999 §5.1).
fn source_id(datagram: &[u8]) -> Option<&[u8]> {
    if datagram.first()? & 0x80 == 0 {
        return None;
    }
    let (&length, rest) = datagram.get(5..)?.split_first()?;
    let (&length, rest) = rest.get(usize::from(length)..)?.split_first()?;
    rest.get(..usize::from(length))
}

fn is_passing(error: &io::Error) -> bool {
    use ErrorKind::{ConnectionRefused, Interrupted, TimedOut, WouldBlock};
    matches!(
        error.kind(),
        ConnectionRefused | Interrupted | TimedOut | WouldBlock
    )
}

/// Accepts every certificate.
#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// In milliseconds; 2^14 is an error (RFC 9000 §18.2).
const LONGEST_ACK_DELAY: u64 = 16_383;

const PATIENCE: Duration = Duration::from_secs(3);

/// A timeout of zero would mean none.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// A first packet number larger than those of the handshake.
const FIRST_NUMBER: u64 = 1000;

/// RFC 9000 §17.3.1.
const KEY_PHASE: u8 = 0x04;

/// Length of quinn-proto's connection IDs.
const OWN_ID: usize = 8;

/// Header and tag.
pub const OVERHEAD: usize = 1 + OWN_ID + 4 + 16;

const LARGEST: usize = 64 * 1024;

/// The number of runs of received packets that are kept.
const RUNS: usize = 16;

const AT_A_TIME: usize = 256;

const MANY_FAILURES: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_packets_are_expanded() {
        // The example of RFC 9000 §A.3.
        assert_eq!(expand(0x9b32, 16, 0xa82f_30ea), 0xa82f_9b32);
        assert_eq!(expand(0, 8, 0xff), 0x100);
        assert_eq!(expand(0xff, 8, 0x100), 0xff);
        assert_eq!(expand(3, 8, 0), 3);
    }

    #[test]
    fn an_unreadable_packet_is_as_long_as_it_says() {
        for length in [50, 100, 1400, 60_000] {
            let packet = unreadable(&[7; 8], length);
            assert_eq!(packet.len(), length);
            let rest = &packet[15..];
            let said = u32::from_be_bytes([rest[0] & 0x3f, rest[1], rest[2], rest[3]]);
            assert_eq!(said as usize, rest.len() - 4);
        }
    }
}
