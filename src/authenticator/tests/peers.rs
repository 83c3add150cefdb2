//! Both sides of a handshake: ours, and hostile peers.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use quinn_proto::{Side, TransportError, TransportErrorCode, crypto::Session};
use rustls::{
    ClientConfig, Error, NamedGroup, ServerConfig,
    crypto::{ActiveKeyExchange, GetRandomFailed, SecureRandom, SharedSecret, SupportedKxGroup},
    pki_types::{ServerName, UnixTime},
    quic,
    time_provider::TimeProvider,
};

use super::{certificates::Case, hostile_tls};

/// The side on which a handshake failed, and how.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) side: Side,
    pub(super) error: TransportError,
}

/// Carries messages back and forth until both sides have nothing left to send.
pub(super) fn shake_hands(client: &mut dyn Peer, server: &mut dyn Peer) -> Result<(), Failure> {
    loop {
        let mut progress = false;
        for turn in [Side::Client, Side::Server] {
            let (from, to): (&mut dyn Peer, &mut dyn Peer) = match turn {
                Side::Client => (client, server),
                Side::Server => (server, client),
            };
            for flight in from.speak() {
                progress = true;
                to.listen(&flight)
                    .map_err(|error| Failure { side: !turn, error })?;
            }
        }
        if !progress {
            return Ok(());
        }
    }
}

pub(super) fn tell(flights: &[Vec<u8>], to: &mut dyn Peer) -> Result<(), TransportError> {
    flights.iter().try_for_each(|flight| to.listen(flight))
}

/// One side of a handshake, ours or not.
pub(super) trait Peer {
    /// The flights that it has to send, one for each encryption level as TLS requires.
    fn speak(&mut self) -> Vec<Vec<u8>>;
    fn listen(&mut self, flight: &[u8]) -> Result<(), TransportError>;
}

impl Peer for Box<dyn Session> {
    fn speak(&mut self) -> Vec<Vec<u8>> {
        flights(|flight| self.write_handshake(flight).is_some())
    }

    fn listen(&mut self, flight: &[u8]) -> Result<(), TransportError> {
        self.read_handshake(flight).map(drop)
    }
}

impl Peer for quic::Connection {
    fn speak(&mut self) -> Vec<Vec<u8>> {
        flights(|flight| self.write_hs(flight).is_some())
    }

    fn listen(&mut self, flight: &[u8]) -> Result<(), TransportError> {
        self.read_hs(flight).map_err(|error| TransportError {
            code: TransportErrorCode::crypto(self.alert().map_or(0, Into::into)),
            frame: None,
            reason: error.to_string(),
        })
    }
}

/// Collects flights until no more keys come.
fn flights(mut write: impl FnMut(&mut Vec<u8>) -> bool) -> Vec<Vec<u8>> {
    let mut flights = Vec::new();
    loop {
        let mut flight = Vec::new();
        let has_new_keys = write(&mut flight);
        if !flight.is_empty() {
            flights.push(flight);
        }
        if !has_new_keys {
            return flights;
        }
    }
}

/// A session, and all flights that it has sent.
pub(super) struct Recorder(pub(super) Box<dyn Session>, pub(super) Vec<Vec<u8>>);

impl Peer for Recorder {
    fn speak(&mut self) -> Vec<Vec<u8>> {
        let flights = self.0.speak();
        self.1.extend_from_slice(&flights);
        flights
    }

    fn listen(&mut self, flight: &[u8]) -> Result<(), TransportError> {
        self.0.listen(flight)
    }
}

/// A peer that presents the certificate of its case, and accepts every certificate.
pub(super) struct RawPeer {
    client: ClientConfig,
    server: ServerConfig,
}

impl RawPeer {
    pub(super) fn new(case: &Case) -> Self {
        Self {
            client: hostile_tls::client(case),
            server: hostile_tls::server(case),
        }
    }

    pub(super) fn client(&self, protocols: &[&[u8]], name: &'static str) -> quic::Connection {
        let mut config = self.client.clone();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        config.enable_sni = true;
        let name = ServerName::try_from(name).unwrap();
        quic::ClientConnection::new(config.into(), quic::Version::V1, name, Vec::new())
            .unwrap()
            .into()
    }

    pub(super) fn server(&self, protocols: &[&[u8]]) -> quic::Connection {
        let mut config = self.server.clone();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        quic::ServerConnection::new(config.into(), quic::Version::V1, Vec::new())
            .unwrap()
            .into()
    }
}

/// A clock in seconds since 1970, set by the test.
#[derive(Debug)]
pub(super) struct Clock(pub(super) AtomicU64);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = Duration::from_secs(self.0.load(Ordering::Relaxed));
        Some(UnixTime::since_unix_epoch(seconds))
    }
}

/// "Random" bytes that count up.
#[derive(Debug)]
pub(super) struct Counter(pub(super) AtomicU64);

impl SecureRandom for Counter {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), GetRandomFailed> {
        for byte in bytes {
            *byte = self.0.fetch_add(1, Ordering::Relaxed) as u8;
        }
        Ok(())
    }
}

/// A key exchange with a public secret. The real ones use randomness that the provider cannot
/// replace.
#[derive(Debug)]
pub(super) struct PublicSecret;

impl SupportedKxGroup for PublicSecret {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        Ok(Box::new(Self))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

impl ActiveKeyExchange for PublicSecret {
    fn complete(self: Box<Self>, _: &[u8]) -> Result<SharedSecret, Error> {
        Ok(SharedSecret::from(&[1; 32][..]))
    }

    fn pub_key(&self) -> &[u8] {
        &[2; 32]
    }

    fn group(&self) -> NamedGroup {
        self.name()
    }
}

/// The extensions of a ClientHello, as numbers and contents ([RFC 8446 §4.1.2]).
///
/// [RFC 8446 §4.1.2]: https://www.rfc-editor.org/rfc/rfc8446#section-4.1.2
pub(super) fn client_hello_extensions(hello: &[u8]) -> Vec<(u16, Vec<u8>)> {
    fn take<'a>(rest: &mut &'a [u8], length: usize) -> &'a [u8] {
        let (taken, after) = rest.split_at(length);
        *rest = after;
        taken
    }
    fn number(rest: &mut &[u8], length: usize) -> usize {
        take(rest, length)
            .iter()
            .fold(0, |number, byte| number << 8 | usize::from(*byte))
    }

    let rest = &mut &hello[..];
    assert_eq!(number(rest, 1), 1, "not a ClientHello");
    assert_eq!(number(rest, 3), rest.len());
    take(rest, 2 + 32); // version and random
    for length_of_length in [1, 2, 1] {
        // session id, cipher suites, compression methods
        let length = number(rest, length_of_length);
        take(rest, length);
    }
    assert_eq!(number(rest, 2), rest.len());
    let mut extensions = Vec::new();
    while !rest.is_empty() {
        let kind = number(rest, 2) as u16;
        let length = number(rest, 2);
        extensions.push((kind, take(rest, length).to_vec()));
    }
    extensions
}
