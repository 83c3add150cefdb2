//! Fuzz target: a peer with keys that sends arbitrary frames.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arbitrary::{Arbitrary, Unstructured};
use futures::FutureExt;

use super::all;
use crate::{
    proto::StreamId,
    simulation::{
        frame::{self, Frame, some},
        network::Network,
        node::Setup,
        peer::Peer,
        rewrite::{Changes, Level, Rewrite},
    },
};

/// Connects two endpoints, one of which is hostile and follows the input. The other one survives,
/// keeps little state, and its connection with a third endpoint on the same shard is not affected.
pub fn endpoints(data: &[u8]) {
    let mut input = Unstructured::new(data);
    if let Ok(plan) = Plan::arbitrary(&mut input) {
        Scene::new(&plan).run(plan.acts);
    }
}

#[derive(Arbitrary, Debug)]
struct Plan {
    hostile_listens: bool,
    /// Changes to the first packets, including those of the handshake.
    #[arbitrary(with = some)]
    handshake: Vec<Edit>,
    #[arbitrary(with = all)]
    acts: Vec<Act>,
}

/// A change of a packet.
#[derive(Arbitrary, Clone, Debug)]
enum Edit {
    /// Replace the payload with these frames and PADDING.
    Frames(#[arbitrary(with = some)] Vec<Frame>),
    /// Insert these frames before the existing ones.
    FramesInFront(#[arbitrary(with = some)] Vec<Frame>),
    /// Change single bytes.
    Flip(#[arbitrary(with = some)] Vec<(u16, u8)>),
    Keep,
}

#[derive(Clone, Debug)]
enum Act {
    HostileCloses,
    /// Delivers its last datagram after its first one, coalesced into one datagram.
    HostileCoalesces,
    /// Its NAT assigns it another address.
    HostileMoves,
    /// Delivers its last datagrams again, this many times.
    HostileRepeats {
        times: u8,
    },
    /// It sends a packet of at least this size, with this change.
    HostileSays {
        size: u16,
        edit: Edit,
    },
    Pass {
        milliseconds: u16,
    },
    VictimCloses,
    VictimOpens,
    VictimResets {
        stream: u8,
    },
    VictimStops {
        stream: u8,
    },
    VictimWrites {
        stream: u8,
        len: u16,
    },
}

/// Acts that end everything are rare, because otherwise no long run would occur.
impl<'a> Arbitrary<'a> for Act {
    fn arbitrary(input: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        Ok(match u8::arbitrary(input)? {
            0..=15 => Self::HostileRepeats {
                times: input.int_in_range(1..=MOST_TIMES)?,
            },
            16..=23 => Self::HostileCoalesces,
            24..=159 => Self::HostileSays {
                size: input.arbitrary()?,
                edit: input.arbitrary()?,
            },
            160..=191 => Self::Pass {
                milliseconds: input.int_in_range(0..=LONGEST_PASS)?,
            },
            192..=207 => Self::VictimOpens,
            208..=231 => Self::VictimWrites {
                stream: input.arbitrary()?,
                len: input.arbitrary()?,
            },
            232..=239 => Self::VictimResets {
                stream: input.arbitrary()?,
            },
            240..=247 => Self::VictimStops {
                stream: input.arbitrary()?,
            },
            248..=253 => Self::HostileMoves,
            254 => Self::HostileCloses,
            255 => Self::VictimCloses,
        })
    }
}

/// The changes of the next packets, in the order of sending.
type Script = Arc<Mutex<VecDeque<Edit>>>;

struct Scene {
    network: Network,
    script: Script,
    /// The two sides of the hostile connection, as far as they exist.
    hostile: Option<Peer>,
    victim: Option<Peer>,
    honest: (Peer, Peer),
    /// The hostile peer's first and last datagrams, as far as they are known.
    first: Vec<Vec<u8>>,
    last: Vec<Vec<u8>>,
    /// A stream on which the hostile peer writes to produce packets.
    carrier: Option<StreamId>,
    /// The streams that the victim has opened.
    streams: Vec<StreamId>,
}

const VICTIM: usize = 0;
const HONEST: usize = 1;
const HOSTILE: usize = 2;

/// Longest pause in milliseconds; lost packets are retransmitted by then.
const LONGEST_PASS: u16 = 1_000;

/// The most repetitions of a datagram at once.
const MOST_TIMES: u8 = 16;

/// The most acts of a run.
const MOST_ACTS: usize = 200;

/// The most streams that the victim opens.
const MOST_STREAMS: usize = 64;

/// The most streams of a victim: those of its peer, limited by its configuration, and its own.
const MOST_OPEN_STREAMS: usize = 256 + MOST_STREAMS;

/// The most IDs of one connection: as many as the peer permits, but no more than quinn-proto keeps.
const MOST_IDS: u64 = 8;

impl Scene {
    fn new(plan: &Plan) -> Self {
        let script = Script::default();
        let mut network = Network::new(1);
        network.add(Setup::default());
        network.add(Setup::default());
        network.add(Setup {
            changes: Changes {
                said: Some(rewrite(Arc::clone(&script))),
                heard: None,
            },
            ..Setup::default()
        });
        let honest = network.connect(HONEST, VICTIM);
        network.run_for(SHORT_WHILE);
        lock(&script).extend(plan.handshake.iter().cloned());
        let (from, to) = if plan.hostile_listens {
            (VICTIM, HOSTILE)
        } else {
            (HOSTILE, VICTIM)
        };
        let dialer = network.dial(from, to);
        network.settle();
        let first = network.in_flight_to(network.nodes[VICTIM].addr());
        network.run_for(SHORT_WHILE);
        let listener = network.nodes[to].accepted.pop_front();
        let (hostile, victim) = if plan.hostile_listens {
            (listener, Some(dialer))
        } else {
            (Some(dialer), listener)
        };
        if let Some(victim) = &victim {
            network.spawn(victim.clone().read_all_streams());
        }
        let carrier = hostile.as_ref().and_then(open);
        Self {
            network,
            script,
            hostile,
            victim,
            honest,
            first,
            last: Vec::new(),
            carrier,
            streams: Vec::new(),
        }
    }

    fn run(mut self, acts: Vec<Act>) {
        for act in acts.into_iter().take(MOST_ACTS) {
            self.act(act);
            self.check();
        }
        self.assert_honest_goes_on();
        self.end();
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::HostileCloses => self.hostile.iter().for_each(|peer| peer.close(1)),
            Act::HostileSays { size, edit } => {
                lock(&self.script).push_back(edit);
                if let (Some(hostile), Some(carrier)) = (&self.hostile, self.carrier) {
                    let data = vec![0; usize::from(size)];
                    // The stream may be blocked, or the connection may have ended.
                    let _ = hostile.write(carrier, &data).now_or_never();
                }
                self.network.settle();
                let victim = self.network.nodes[VICTIM].addr();
                self.last = self.network.in_flight_to(victim);
            }
            Act::HostileRepeats { times } => {
                for _ in 0..times {
                    self.deliver(&self.last.clone());
                }
            }
            Act::HostileCoalesces => {
                let first = self.first.first().cloned().unwrap_or_default();
                let behind: Vec<_> = (self.last.iter())
                    .map(|last| [&first[..], last].concat())
                    .collect();
                self.deliver(&behind);
            }
            Act::HostileMoves => drop(self.network.rebind(HOSTILE)),
            Act::Pass { milliseconds } => {
                let time = Duration::from_millis(milliseconds.into());
                self.network.run_for(time);
            }
            Act::VictimCloses => self.victim.iter().for_each(|peer| peer.close(1)),
            Act::VictimOpens => {
                if self.streams.len() < MOST_STREAMS {
                    let opened = self.victim.as_ref().and_then(open);
                    self.streams.extend(opened);
                }
            }
            Act::VictimWrites { stream, len } => self.with_stream(stream, |peer, stream| {
                let _ = peer.write(stream, &vec![0; len.into()]).now_or_never();
            }),
            Act::VictimResets { stream } => {
                self.with_stream(stream, |peer, stream| drop(peer.reset(stream, 1)));
            }
            Act::VictimStops { stream } => {
                self.with_stream(stream, |peer, stream| drop(peer.stop(stream, 1)));
            }
        }
    }

    /// Delivers datagrams from the hostile peer's external address.
    fn deliver(&mut self, datagrams: &[Vec<u8>]) {
        let from = self.network.public_addr(HOSTILE);
        let now = self.network.now;
        for datagram in datagrams {
            self.network.nodes[VICTIM].receive(now, from, datagram);
        }
        self.network.settle();
    }

    fn with_stream(&self, number: u8, act: impl FnOnce(&Peer, StreamId)) {
        if let (Some(victim), false) = (&self.victim, self.streams.is_empty()) {
            act(
                victim,
                self.streams[usize::from(number) % self.streams.len()],
            );
        }
    }

    /// Checks that the victim keeps little state.
    fn check(&self) {
        if let Some(victim) = &self.victim {
            assert!(victim.open_streams() <= MOST_OPEN_STREAMS);
        }
        let (registry, _) = self.network.nodes[VICTIM].stats();
        let connections = registry.connections + registry.closing;
        assert!(connections <= 2);
        assert!(registry.active_ids <= MOST_IDS * connections as u64);
        assert_eq!(
            registry.issued_ids - registry.retired_ids,
            registry.active_ids
        );
    }

    fn assert_honest_goes_on(&mut self) {
        let (dialer, listener) = self.honest.clone();
        let received = self.network.block_on(async move {
            let stream = dialer.open().await.ok()?;
            dialer.write_all(stream, b"still here").await.ok()?;
            dialer.finish(stream).ok()?;
            let accepted = listener.accept().await.ok()?;
            listener.read_to_end(accepted).await.ok()
        });
        assert_eq!(received.as_deref(), Some(&b"still here"[..]));
    }

    fn end(mut self) {
        let peers = [
            Some(&self.honest.0),
            Some(&self.honest.1),
            self.hostile.as_ref(),
            self.victim.as_ref(),
        ];
        for peer in peers.into_iter().flatten() {
            peer.close(0);
        }
        self.network.run_until_empty();
        self.network.settle();
        self.network.nodes[VICTIM].assert_empty();
        assert_eq!(self.network.waiting_tasks(), 0, "someone still waits");
    }
}

fn rewrite(script: Script) -> Rewrite {
    Arc::new(Mutex::new(move |_: Level, payload: &mut [u8]| {
        let Some(edit) = lock(&script).pop_front() else {
            return;
        };
        match edit {
            Edit::Frames(frames) => frame::overwrite(payload, &frame::encode(&frames)),
            Edit::FramesInFront(frames) => {
                let frames = frame::encode(&frames);
                let len = frames.len().min(payload.len());
                payload[..len].copy_from_slice(&frames[..len]);
            }
            Edit::Flip(flips) => {
                for (index, change) in flips {
                    let index = usize::from(index) % payload.len();
                    payload[index] ^= change;
                }
            }
            Edit::Keep => {}
        }
    }))
}

fn open(peer: &Peer) -> Option<StreamId> {
    peer.open().now_or_never()?.ok()
}

fn lock(script: &Script) -> std::sync::MutexGuard<'_, VecDeque<Edit>> {
    script.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Long enough for a handshake.
const SHORT_WHILE: Duration = Duration::from_millis(200);
