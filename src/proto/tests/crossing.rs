//! Crossing dials: two nodes that dial each other at once, and a node that dials itself.

use libp2p_identity::PeerId;

use super::{
    network::Network,
    node::{Node, Setup},
    peer::Peer,
    transfer::exchange_between,
};
use crate::{authenticator::CertificateError, error::HandshakeError};

#[test]
fn crossed_dials_make_two_connections_each_time_in_the_same_way() {
    for shards in [1, 4] {
        let [one, two] = [(); 2].map(|()| cross(shards));
        assert_eq!(one, two);
    }
}

fn cross(shards: u8) -> [u8; 32] {
    let setup = setup(shards);
    let mut network = Network::pair(1, setup.clone(), setup);
    let dialers = [network.dial(0, 1), network.dial(1, 0)];
    for (dialer, other) in dialers.iter().zip([1, 0]) {
        let peer_id = network.nodes[other].peer_id();
        assert_eq!(outcome(&mut network, dialer), Ok(peer_id));
    }
    network.run_for(std::time::Duration::from_secs(1));
    for (dialer, other) in dialers.iter().zip([1, 0]) {
        let listener = network.nodes[other].accepted.pop_front().unwrap();
        assert!(network.nodes[other].accepted.is_empty());
        exchange_between(&mut network, dialer, &listener, 1, 20_000);
    }
    for node in &network.nodes {
        let (registry, transport) = node.stats();
        assert_eq!((registry.connections, registry.peers), (2, 1));
        assert_eq!((transport.dials, transport.incoming), (1, 1));
    }
    // One connection is enough; closing the other one does not affect it.
    dialers[0].close(0);
    network.run_for(std::time::Duration::from_secs(2));
    assert_eq!(network.nodes[0].stats().0.connections, 1);
    assert_eq!(dialers[1].loss(), None);
    dialers[1].close(0);
    network.run_until_empty();
    network.nodes.iter().for_each(Node::assert_empty);
    network.trace()
}

#[test]
fn node_that_dials_itself_reaches_itself() {
    for shards in [1, 4] {
        let mut network = Network::new(1);
        let node = network.add(setup(shards));
        let (dialer, listener) = network.connect(node, node);
        exchange_between(&mut network, &dialer, &listener, 1, 20_000);
        let (registry, transport) = network.nodes[node].stats();
        assert_eq!((registry.connections, registry.peers), (2, 1));
        assert_eq!(transport.handshakes_completed, 2);
        dialer.close(0);
        network.run_until_empty();
        network.nodes[node].assert_empty();
    }
}

#[test]
fn node_that_finds_itself_in_place_of_another_fails_the_dial() {
    let mut network = Network::new(1);
    let node = network.add(setup(1));
    let expected = PeerId::random();
    let dialer = network.dial_expecting(node, node, Some(expected));
    let mismatch = CertificateError::PeerMismatch {
        expected: Box::new(expected),
        actual: Box::new(network.nodes[node].peer_id()),
    };
    assert_eq!(outcome(&mut network, &dialer), Err(mismatch.into()));
    network.run_until_empty();
    network.nodes[node].assert_empty();
}

fn setup(shards: u8) -> Setup {
    Setup {
        shards,
        ..Setup::default()
    }
}

fn outcome(network: &mut Network, peer: &Peer) -> Result<PeerId, HandshakeError> {
    let peer = peer.clone();
    network.block_on(async move { peer.established().await })
}
