//! Transfers over impaired networks: received data equals sent data, and the same seed replays the
//! run.

use std::time::Duration;

use futures::future::join;
use rand::{Rng, SeedableRng, rngs::StdRng};
use sha2::{Digest, Sha256};

use super::{link::Impairments, network::Network, node::Setup, peer::Peer, seeds, wire::Stuck};
use crate::{
    config::ConfigBuilder,
    error::{ConnectionError, HandshakeError},
    proto::StreamId,
};

#[test]
fn content_is_exact_over_a_clean_link() {
    for seed in seeds() {
        exchange(seed, Impairments::NONE, 60_000);
    }
}

#[test]
fn content_is_exact_with_a_third_lost_and_the_rest_reordered() {
    for seed in seeds() {
        exchange(seed, LOSSY, 20_000);
    }
}

#[test]
fn content_is_exact_with_duplicates_and_flipped_bits() {
    for seed in seeds() {
        exchange(seed, CORRUPTING, 40_000);
    }
}

#[test]
fn content_is_exact_over_the_smallest_mtu() {
    let impairments = Impairments {
        mtu: 1200,
        ..Impairments::NONE
    };
    for seed in seeds() {
        exchange(seed, impairments, 40_000);
    }
}

#[test]
fn content_is_exact_over_a_long_delay() {
    let impairments = Impairments {
        delay: Duration::from_millis(600),
        jitter: Duration::from_millis(20),
        ..Impairments::NONE
    };
    for seed in seeds() {
        exchange(seed, impairments, 40_000);
    }
}

#[test]
fn the_same_seed_replays_bit_for_bit() {
    for impairments in [Impairments::NONE, LOSSY, CORRUPTING] {
        for seed in seeds().take(4) {
            let [one, two] = [(); 2].map(|()| exchange(seed, impairments, 20_000));
            assert_eq!(one, two, "seed {seed}, {impairments:?}");
            assert_ne!(one, exchange(seed + 1, impairments, 20_000), "seed {seed}");
        }
    }
}

#[test]
fn nothing_is_lost_at_a_socket_that_blocks() {
    for seed in seeds().take(10) {
        let mut setup = patient();
        setup.outbox.room = 1;
        let mut network = Network::pair(seed, setup.clone(), setup);
        exchange_over(&mut network, seed, 60_000);
    }
}

const LOSSY: Impairments = Impairments {
    jitter: Duration::from_millis(15),
    loss: 0.3,
    ..Impairments::NONE
};

const CORRUPTING: Impairments = Impairments {
    jitter: Duration::from_millis(2),
    duplication: 0.05,
    corruption: 0.05,
    ..Impairments::NONE
};

/// Nodes that do not time out although a third of the datagrams is lost.
pub(super) fn patient() -> Setup {
    fn configure(builder: ConfigBuilder) -> ConfigBuilder {
        let minutes = Duration::from_secs(300);
        builder
            .handshake_timeout(minutes)
            .and_then(|builder| builder.idle_timeout(Some(minutes)))
            .unwrap()
    }
    Setup {
        configure,
        ..Setup::default()
    }
}

/// Sends `len` bytes in both directions, and returns the trace of it all.
fn exchange(seed: u64, impairments: Impairments, len: usize) -> [u8; 32] {
    let mut network = Network::pair(seed, patient(), patient());
    network.impair(impairments);
    exchange_over(&mut network, seed, len);
    network.trace()
}

pub(super) fn exchange_over(network: &mut Network, seed: u64, len: usize) {
    let (dialer, listener) = connect(network);
    exchange_between(network, &dialer, &listener, seed, len);
    let closed = network.block_on(async move { join(dialer.closed(), listener.closed()).await.0 });
    closed.unwrap();
    network.run_until_empty();
    for node in &network.nodes {
        node.assert_empty();
    }
}

/// Dials until it succeeds. Of the first thousand seeds with a third lost, number 63 does not
/// succeed at once; the possible reasons are those of [`Stuck`].
fn connect(network: &mut Network) -> (Peer, Peer) {
    let addr = network.public_addr(0);
    for _ in 0..MOST_DIALS {
        let began = network.now;
        let dialer = network.dial(0, 1);
        let dialled = dialer.clone();
        let end = network.block_on(async move { dialled.established().await });
        let listener = network.nodes[1].accepted.pop_back();
        match (end, listener) {
            (Ok(peer_id), Some(listener)) => {
                assert_eq!(peer_id, network.nodes[1].peer_id());
                let accepted = listener.clone();
                let end = network.block_on(async move { accepted.established().await });
                network.nodes[1].accepted.clear();
                match end {
                    Ok(peer_id) => {
                        assert_eq!(peer_id, network.nodes[0].peer_id());
                        return (dialer, listener);
                    }
                    // The dialer's last flight has not arrived.
                    Err(error) => {
                        let stuck = network.stuck(began, addr);
                        assert!(
                            matches!(stuck, Some(Stuck::StarvedDialer | Stuck::Unlucky)),
                            "{error:?}, {stuck:?}"
                        );
                        assert_eq!(error, HandshakeError::TimedOut);
                    }
                }
            }
            (Err(error), _) => {
                let expected = match network.stuck(began, addr) {
                    Some(Stuck::StarvedListener) => HandshakeError::TimedOut,
                    Some(Stuck::Misread) => ConnectionError::VersionMismatch.into(),
                    stuck => panic!("{error:?}, {stuck:?}"),
                };
                assert_eq!(error, expected);
            }
            (Ok(_), None) => panic!("nobody was dialled"),
        }
    }
    panic!("still not connected");
}

const MOST_DIALS: u32 = 5;

/// Sends `len` bytes in both directions of a stream.
pub(super) fn exchange_between(
    network: &mut Network,
    dialer: &Peer,
    listener: &Peer,
    seed: u64,
    len: usize,
) {
    let (dialer, listener) = (dialer.clone(), listener.clone());
    let [request, response] = [1, 2].map(|salt| payload(seed ^ salt << 32, len));
    let expected = [&request, &response].map(Sha256::digest);

    let received = network.block_on(async move {
        let ask = async {
            let stream = dialer.open().await.unwrap();
            converse(&dialer, stream, &request).await
        };
        let answer = async {
            let stream = listener.accept().await.unwrap();
            converse(&listener, stream, &response).await
        };
        let (response, request) = join(ask, answer).await;
        [request, response]
    });
    assert_eq!(received.map(Sha256::digest), expected, "seed {seed}");
}

/// Sends and receives at the same time.
async fn converse(peer: &Peer, stream: StreamId, contents: &[u8]) -> Vec<u8> {
    let send = async {
        peer.write_all(stream, contents).await.unwrap();
        peer.finish(stream).unwrap();
    };
    let ((), received) = join(send, peer.read_to_end(stream)).await;
    peer.drop_stream(stream);
    received.unwrap()
}

pub(super) fn payload(seed: u64, len: usize) -> Vec<u8> {
    let mut contents = vec![0; len];
    StdRng::seed_from_u64(seed).fill_bytes(&mut contents);
    contents
}
