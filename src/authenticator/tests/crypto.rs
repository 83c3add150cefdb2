//! Keys that count CRYPTO frames.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::BytesMut;
use libp2p_identity::Keypair;
use quinn_proto::{
    ConnectionId, Side,
    crypto::{Keys, PacketKey, Session},
};

use super::{Peer as _, start_client, start_server};
use crate::authenticator::{Authenticator, Peer};

#[test]
fn packet_is_decrypted_with_as_many_frames_as_it_may_have() {
    let pairs = Pairs::new();
    for (phase, most) in [
        (&pairs.initial, 32),
        (&pairs.handshake, 32),
        (&pairs.one_rtt, 16),
        (&pairs.next_one_rtt, 16),
    ] {
        assert!(phase.carries(&crypto(most)));
        assert!(!phase.carries(&crypto(most + 1)));
        // Other frames do not count.
        assert!(phase.carries(&[PING.repeat(100), crypto(most)].concat()));
    }
    assert_eq!(pairs.ours.dropped_crypto(), 4);
    assert!(!is_exceeded(&*pairs.session));
}

#[test]
fn large_packets_of_a_handshake_carry_fewer_frames() {
    let pairs = Pairs::new();
    let large = |frames| [crypto(frames), PING.repeat(12_000)].concat();
    assert!(pairs.initial.carries(&large(4)));
    assert!(!pairs.initial.carries(&large(5)));
    // 1-RTT packets have no limit other than that on frames.
    assert!(
        pairs
            .one_rtt
            .carries(&[crypto(16), PING.repeat(65_000)].concat())
    );
}

#[test]
fn handshake_has_one_budget_for_both_kinds_of_its_packets() {
    let pairs = Pairs::new();
    for _ in 0..10 {
        assert!(pairs.initial.carries(&crypto(32)));
        assert!(pairs.handshake.carries(&crypto(32)));
    }
    assert!(!is_exceeded(&*pairs.session));
    assert!(!pairs.handshake.carries(&crypto(1)));
    assert!(is_exceeded(&*pairs.session));
    // From now on nothing is decrypted at all.
    for phase in [&pairs.initial, &pairs.handshake, &pairs.one_rtt] {
        assert!(!phase.carries(PING));
    }
    assert_eq!(pairs.ours.dropped_crypto(), 4);
}

#[test]
fn bytes_of_the_packets_are_in_the_budget_too() {
    let pairs = Pairs::new();
    let large = [crypto(1), PING.repeat(48_000)].concat();
    for _ in 0..21 {
        assert!(pairs.initial.carries(&large));
    }
    assert!(!pairs.initial.carries(&large));
    assert!(is_exceeded(&*pairs.session));
}

#[test]
fn established_connection_has_a_budget_for_all_its_keys() {
    let pairs = Pairs::new();
    // The budget of the handshake is separate.
    for _ in 0..20 {
        assert!(pairs.handshake.carries(&crypto(32)));
    }
    for _ in 0..4 {
        assert!(pairs.one_rtt.carries(&crypto(16)));
        assert!(pairs.next_one_rtt.carries(&crypto(16)));
    }
    assert!(!is_exceeded(&*pairs.session));
    assert!(!pairs.next_one_rtt.carries(&crypto(1)));
    assert!(is_exceeded(&*pairs.session));
}

#[test]
fn connections_do_not_spend_each_others_budget_and_transports_count_for_themselves() {
    let pairs = Pairs::new();
    let other = pairs.ours.clone().counting_for_itself();
    let first = Pair::initial(
        &*start_client(&pairs.ours, None),
        &*start_server(&pairs.ours),
    );
    let second = Pair::initial(&*start_client(&pairs.ours, None), &*start_server(&other));
    assert!((0..100).any(|_| !first.carries(&crypto(32))));
    assert!(second.carries(&crypto(32)));
    assert_eq!(
        (pairs.ours.dropped_crypto(), other.dropped_crypto()),
        (1, 0)
    );
    pairs.ours.reset_dropped_crypto();
    assert_eq!(pairs.ours.dropped_crypto(), 0);
}

#[test]
fn first_packet_is_limited_before_there_is_a_session() {
    let pairs = Pairs::new();
    let keys = || pairs.ours.server().initial_keys(1, &id()).ok().unwrap();
    let client = start_client(&pairs.ours, None);
    for (frames, is_good) in [(32, true), (33, false)] {
        let local = client.initial_keys(&id(), Side::Client).packet.local;
        let remote = keys().packet.remote;
        assert_eq!(Pair { local, remote }.carries(&crypto(frames)), is_good);
    }
    assert_eq!(pairs.ours.dropped_crypto(), 1);
}

#[test]
fn payload_with_crypto_gets_memory_of_its_own() {
    let pairs = Pairs::new();
    for (payload, is_copied) in [(crypto(1), true), (PING.repeat(100), false)] {
        let mut batch = BytesMut::zeroed(64_000);
        let packet = pairs.initial.encrypt(0, &payload);
        batch[..packet.len()].copy_from_slice(&packet);
        let mut packet = batch.split_to(packet.len());
        let held = packet.as_ptr();
        assert!(pairs.initial.remote.decrypt(0, &[], &mut packet).is_ok());
        assert_eq!(packet, payload);
        assert_eq!(packet.as_ptr() != held, is_copied);
    }
}

#[test]
fn padding_is_left_out_and_nothing_else() {
    let pairs = Pairs::new();
    let padding = vec![0; 1000];
    let decrypted = |payload: &[u8]| {
        let mut packet = BytesMut::from(&pairs.one_rtt.encrypt(0, payload)[..]);
        assert!(pairs.one_rtt.remote.decrypt(0, &[], &mut packet).is_ok());
        packet.to_vec()
    };
    let stream = [0x08, 4, 1, 2, 3];
    let padded = [&padding, PING, &padding, &stream].concat();
    assert_eq!(decrypted(&padded), [PING, &stream].concat());
    let padded = [&padding, &crypto(2)[..], &padding].concat();
    assert_eq!(decrypted(&padded), crypto(2));
    // Of a packet with only PADDING, one byte is kept: a packet needs a frame.
    assert_eq!(decrypted(&padding), [0]);
    // An empty packet stays empty.
    assert!(decrypted(&[]).is_empty());
    // An unknown frame.
    let wrong = [&padding, &[0x21][..], &padding].concat();
    assert_eq!(decrypted(&wrong), wrong[1000..]);
}

/// This many CRYPTO frames.
fn crypto(frames: usize) -> Vec<u8> {
    (0..frames as u8)
        .flat_map(|at| [0x06, at, 0x01, 7])
        .collect()
}

fn is_exceeded(session: &dyn Session) -> bool {
    let peer = session.peer_identity().unwrap().downcast::<Peer>();
    peer.unwrap().crypto.is_exceeded()
}

/// The keys of all packets that a client sends to a server, and the server's session.
struct Pairs {
    ours: Authenticator,
    session: Box<dyn Session>,
    initial: Pair,
    handshake: Pair,
    one_rtt: Pair,
    next_one_rtt: Pair,
}

impl Pairs {
    fn new() -> Self {
        let ours = Authenticator::new(&Keypair::generate_ed25519(), None).unwrap();
        let mut client = start_client(&ours, None);
        let mut server = start_server(&ours);
        let initial = Pair::initial(&*client, &*server);
        let [mut client_keys, mut server_keys] = [Vec::new(), Vec::new()];
        while client.is_handshaking() || server.is_handshaking() {
            let said = speak(&mut *client, &mut client_keys);
            said.iter()
                .for_each(|flight| server.listen(flight).unwrap());
            let said = speak(&mut *server, &mut server_keys);
            said.iter()
                .for_each(|flight| client.listen(flight).unwrap());
        }
        let mut pairs = client_keys
            .into_iter()
            .zip(server_keys)
            .map(|(client, server)| Pair {
                local: client.packet.local,
                remote: server.packet.remote,
            });
        let mut pair = || pairs.next().unwrap();
        Self {
            ours,
            initial,
            handshake: pair(),
            one_rtt: pair(),
            next_one_rtt: Pair {
                local: client.next_1rtt_keys().unwrap().local,
                remote: server.next_1rtt_keys().unwrap().remote,
            },
            session: server,
        }
    }
}

/// Writes all flights of a session, and collects the keys that come with them.
fn speak(session: &mut dyn Session, keys: &mut Vec<Keys>) -> Vec<Vec<u8>> {
    let mut flights = Vec::new();
    loop {
        let mut flight = Vec::new();
        let next = session.write_handshake(&mut flight);
        flights.push(flight);
        match next {
            Some(next) => keys.push(next),
            None => return flights,
        }
    }
}

/// The keys that encrypt and decrypt.
struct Pair {
    local: Box<dyn PacketKey>,
    remote: Box<dyn PacketKey>,
}

impl Pair {
    fn initial(client: &dyn Session, server: &dyn Session) -> Self {
        Self {
            local: client.initial_keys(&id(), Side::Client).packet.local,
            remote: server.initial_keys(&id(), Side::Server).packet.remote,
        }
    }

    fn encrypt(&self, number: u64, payload: &[u8]) -> Vec<u8> {
        let mut packet = payload.to_vec();
        packet.resize(payload.len() + self.local.tag_len(), 0);
        self.local.encrypt(number, &mut packet, 0);
        packet
    }

    /// Whether a packet with this payload is decrypted.
    fn carries(&self, payload: &[u8]) -> bool {
        // A packet that has come before would not count.
        let number = NEXT_NUMBER.fetch_add(1, Ordering::Relaxed);
        let mut packet = BytesMut::from(&self.encrypt(number, payload)[..]);
        let opened = self.remote.decrypt(number, &[], &mut packet);
        assert!(opened.is_err() || packet == payload);
        opened.is_ok()
    }
}

fn id() -> ConnectionId {
    ConnectionId::new(&[1; 8])
}

/// Of the next packet, whatever its keys.
static NEXT_NUMBER: AtomicU64 = AtomicU64::new(0);

const PING: &[u8] = &[0x01];
