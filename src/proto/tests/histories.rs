//! Random sequences of operations: the statistics stay consistent, and nothing is left at the end.

use std::{collections::HashSet, time::Duration};

use futures::FutureExt;
use proptest::prelude::*;

use super::{
    link::Impairments,
    network::Network,
    node::{Answer, Node, Outbox, Reader, Setup},
    peer::Peer,
    routing::assert_ids_balance,
    seeds,
};
use crate::{config::ConfigBuilder, error::HandshakeError, proto::long_header_id};

/// An operation. Numbers choose among what exists at that time.
#[derive(Clone, Debug)]
enum Act {
    Abandon(usize),
    Answer(Answer),
    AnswerHeld {
        node: usize,
        accept: bool,
    },
    Close(usize),
    /// Closes a connection, and waits for that twice.
    CloseTwice(usize),
    Dial {
        from: usize,
        right_peer: bool,
    },
    Impair {
        loss: f64,
        duplication: f64,
        corruption: f64,
    },
    Pass(Duration),
    Rebind(usize),
    Stream {
        peer: usize,
        len: usize,
        end: StreamEnd,
    },
    Unreachable(usize),
}

#[derive(Clone, Copy, Debug)]
enum StreamEnd {
    Drop,
    Finish,
    Reset,
    Stop,
}

fn act() -> impl Strategy<Value = Act> {
    let anyone = 0..64_usize;
    let probability = || prop_oneof![3 => Just(0.0), 1 => 0.0..0.3];
    prop_oneof![
        1 => anyone.clone().prop_map(Act::Abandon),
        1 => prop_oneof![
            2 => Just(Answer::Accept),
            1 => Just(Answer::Hold),
            1 => Just(Answer::Refuse),
        ]
        .prop_map(Act::Answer),
        2 => (0..2_usize, any::<bool>())
            .prop_map(|(node, accept)| Act::AnswerHeld { node, accept }),
        1 => anyone.clone().prop_map(Act::Close),
        1 => anyone.clone().prop_map(Act::CloseTwice),
        4 => (0..2_usize, proptest::bool::weighted(0.9))
            .prop_map(|(from, right_peer)| Act::Dial { from, right_peer }),
        2 => (probability(), probability(), probability()).prop_map(
            |(loss, duplication, corruption)| Act::Impair { loss, duplication, corruption }
        ),
        6 => prop_oneof![0..50_u64, 50..5000_u64]
            .prop_map(|milliseconds| Act::Pass(Duration::from_millis(milliseconds))),
        1 => (0..2_usize).prop_map(Act::Rebind),
        6 => (
            anyone,
            1..5000_usize,
            prop_oneof![
                Just(StreamEnd::Drop),
                Just(StreamEnd::Finish),
                Just(StreamEnd::Reset),
                Just(StreamEnd::Stop),
            ],
        )
            .prop_map(|(peer, len, end)| Act::Stream { peer, len, end }),
        1 => (0..2_usize).prop_map(Act::Unreachable),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(seeds().count() as u32))]

    #[test]
    fn after_any_history_the_registry_is_empty(
        seed in any::<u64>(),
        shards in 1..5_u8,
        wrong_readers in any::<bool>(),
        blocking_sockets in any::<bool>(),
        tight_limits in any::<bool>(),
        acts in proptest::collection::vec(act(), 1..60),
        driver_stops in proptest::bool::weighted(0.2),
    ) {
        let setup = Setup {
            configure: if tight_limits { with_tight_limits } else { |config| config },
            outbox: Outbox {
                room: if blocking_sockets { 1 } else { usize::MAX },
                ..Outbox::default()
            },
            reader: if wrong_readers { Reader::NeverTheOwner } else { Reader::Owner },
            shards,
            ..Setup::default()
        };
        let mut history = History {
            network: Network::pair(seed, setup.clone(), setup),
            peers: Vec::new(),
            closed: HashSet::new(),
        };
        for act in acts {
            history.act(act);
            for node in 0..2 {
                assert_ids_balance(&mut history.network, node);
            }
        }
        history.end(driver_stops);
    }
}

/// So that some dials have to prove their address, and some are dropped.
fn with_tight_limits(config: ConfigBuilder) -> ConfigBuilder {
    config
        .max_incoming_handshakes(4)
        .and_then(|config| config.max_handshakes_per_source(2))
        .and_then(|config| config.max_pending_incoming_bytes(32 * 1024))
        .unwrap()
}

struct History {
    network: Network,
    /// Both sides of every connection so far.
    peers: Vec<Peer>,
    /// The connections for whose end a task waits.
    closed: HashSet<usize>,
}

impl History {
    fn act(&mut self, act: Act) {
        let Self {
            network,
            peers,
            closed,
        } = self;
        let chosen = |number: usize| peers.get(number % peers.len().max(1)).cloned();
        match act {
            Act::Abandon(number) => {
                if let Some(peer) = chosen(number) {
                    peer.abandon();
                }
            }
            Act::Answer(answer) => {
                for node in &mut network.nodes {
                    node.answer = answer;
                }
            }
            Act::AnswerHeld { node, accept } => {
                let now = network.now;
                // There may be none, or it may have expired.
                let _ = network.nodes[node].answer_incoming(now, accept);
            }
            Act::Close(number) => {
                if let Some(peer) = chosen(number) {
                    peer.close(1);
                }
            }
            Act::CloseTwice(number) => {
                // Only one task at a time can wait for the end of a connection.
                let index = number % peers.len().max(1);
                if let Some(peer) = chosen(number)
                    && closed.insert(index)
                {
                    network.spawn(async move {
                        let end = peer.closed().await;
                        assert_eq!(peer.closed().await, end);
                    });
                }
            }
            Act::Dial { from, right_peer } => {
                let to = 1 - from;
                let expected = network.nodes[if right_peer { to } else { from }].peer_id();
                let peer = network.dial_expecting(from, to, Some(expected));
                network.spawn(peer.clone().read_all_streams());
                peers.push(peer);
            }
            Act::Impair {
                loss,
                duplication,
                corruption,
            } => network.impair(Impairments {
                jitter: Duration::from_millis(5),
                loss,
                duplication,
                corruption,
                ..Impairments::NONE
            }),
            Act::Pass(time) => network.run_for(time),
            // If nothing can be sent on a new path at once, quinn-proto 0.11.19 trips an assertion
            // in debug builds: the loss detection timer of the old path runs on (quinn #2658).
            Act::Rebind(node) if network.nodes[node].outbox.room == usize::MAX => {
                network.rebind(node);
            }
            Act::Rebind(_) => {}
            Act::Stream { peer, len, end } => {
                if let Some(peer) = chosen(peer) {
                    network.spawn(use_stream(peer, len, end));
                }
            }
            Act::Unreachable(node) => {
                let (now, addr) = (network.now, network.nodes[1 - node].addr());
                for datagram in network.in_flight_to(addr) {
                    let Some(quoted) = long_header_id(&datagram) else {
                        continue;
                    };
                    for core in &mut network.nodes[node].shards {
                        core.unreachable(now, addr, quoted, HandshakeError::Unreachable);
                    }
                }
            }
        }
        for node in 0..2 {
            while let Some(peer) = network.nodes[node].accepted.pop_front() {
                network.spawn(peer.clone().read_all_streams());
                peers.push(peer);
            }
        }
    }

    /// Closes all connections, perhaps after a driver has stopped; its peers notice that on their
    /// own.
    fn end(mut self, driver_stops: bool) {
        if driver_stops {
            self.network.nodes[0].orphan_all();
        }
        self.act(Act::Answer(Answer::Refuse));
        for node in 0..2 {
            while !self.network.nodes[node].unanswered_incoming.is_empty() {
                self.act(Act::AnswerHeld {
                    node,
                    accept: false,
                });
            }
        }
        for peer in &self.peers {
            peer.close(0);
        }
        self.network.run_until_empty();
        self.network.settle();
        self.network.nodes.iter().for_each(Node::assert_empty);
        assert_eq!(self.network.waiting_tasks(), 0, "someone still waits");
        for peer in &self.peers {
            assert!(peer.loss().is_some());
            assert_eq!(peer.open_streams(), 0);
        }
        for node in &self.network.nodes {
            let (registry, transport) = node.stats();
            assert_eq!(registry.issued_ids, registry.retired_ids);
            assert!(transport.handshakes_timed_out <= transport.handshakes_failed);
        }
    }
}

/// Opens a stream if that is possible now, and ends it.
async fn use_stream(peer: Peer, len: usize, end: StreamEnd) {
    if peer.with(|connection| connection.authenticated().is_none()) {
        return;
    }
    let Some(Ok(stream)) = peer.open().now_or_never() else {
        return;
    };
    // Each call may fail because of the connection or the peer.
    let _ = peer.write_all(stream, &vec![0; len]).await;
    match end {
        StreamEnd::Drop => {}
        StreamEnd::Finish => {
            let _ = peer.finish(stream);
            let _ = peer.read_to_end(stream).await;
        }
        StreamEnd::Reset => drop(peer.reset(stream, 1)),
        StreamEnd::Stop => drop(peer.stop(stream, 1)),
    }
    peer.drop_stream(stream);
}
