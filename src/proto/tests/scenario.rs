//! Random disturbances of a network: received data equals sent data, every wait ends, and nothing
//! is left.
//!
//! The seed determines a scenario: the nodes, the links, the disturbances and their times, and the
//! conversations of the peers.

mod draw;
mod excuses;
mod figures;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    net::SocketAddr,
    panic,
    rc::Rc,
    time::{Duration, Instant},
};

use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use self::{
    draw::{draw_link, draw_setup},
    excuses::{is_invalid_token, is_misread, is_silence, is_unfinished, watch},
    figures::Figures,
};
use super::{
    conversation::{self, Heard, Plan},
    link::{Impairments, Way},
    network::{Fault, Network},
    node::Node,
    peer::Peer,
    seed_range,
    trials::play_all,
    wire::Stuck,
};
use crate::error::HandshakeError;

#[test]
fn whatever_befalls_a_network_is_survived() {
    let outcomes = play_all(
        "proto::tests::scenario",
        seed_range(QUICK_SCENARIOS),
        |seed| {
            let outcome = play_or_trip(seed)?;
            // A replay costs as much as another seed.
            if seed.is_multiple_of(REPLAYED) {
                assert_eq!(play(seed).trace, outcome.trace, "not the same again");
                assert_ne!(
                    Some(outcome.trace),
                    play_or_trip(seed + 1).map(|next| next.trace)
                );
            }
            Some(outcome.figures)
        },
    );
    let mut sum = Figures::default();
    for figures in outcomes.iter().flatten() {
        sum += *figures;
    }
    let tripped = outcomes.iter().filter(|outcome| outcome.is_none()).count();
    println!("{tripped} seeds have tripped quinn #2658");
    println!("{} seeds: {sum:#?}", outcomes.len());
    if outcomes.len() < QUICK_SCENARIOS as usize {
        // Few seeds may all be exceptions.
        return;
    }
    assert!(20 * tripped <= outcomes.len(), "{tripped}");
    assert!(10 * sum.excused() <= sum.connections, "{}", sum.excused());
    assert!(sum.rebinds > 0 && sum.cuts > 0);
}

/// `None` if it trips an assertion of quinn-proto 0.11.19 in debug builds: if a peer has moved, and
/// nothing is sent on the new path at once, the loss detection timer of the old path runs on (quinn
/// #2658).
fn play_or_trip(seed: u64) -> Option<Outcome> {
    const ASSERTION: &str = "assertion failed: !self.peer_completed_address_validation()";

    match panic::catch_unwind(|| play(seed)) {
        Ok(outcome) => Some(outcome),
        Err(panic) if panic.downcast_ref() == Some(&ASSERTION) => None,
        Err(panic) => panic::resume_unwind(panic),
    }
}

/// The number of seeds of a quick run.
const QUICK_SCENARIOS: u64 = 1000;

/// One in this many seeds is played twice.
const REPLAYED: u64 = 50;

/// The most dials until a connection must succeed.
const MOST_ATTEMPTS: u32 = 5;

struct Outcome {
    trace: [u8; 32],
    figures: Figures,
}

/// The state of a scenario.
struct Scenario {
    seed: u64,
    network: Network,
    random: StdRng,
    peers: Rc<RefCell<Vec<Peer>>>,
    /// Dialers whose handshakes a listener has given up.
    given_up: Rc<RefCell<BTreeSet<SocketAddr>>>,
    /// Peers whose connections lacked acknowledgements; see [`watch`].
    silent: Rc<RefCell<BTreeSet<SocketAddr>>>,
    figures: Figures,
}

fn play(seed: u64) -> Outcome {
    let mut scenario = Scenario::new(seed);
    let dials = scenario.draw();
    scenario.dial_all(dials);
    scenario.end()
}

/// A dial between two nodes.
#[derive(Clone, Debug)]
struct Dial {
    way: Way,
    plan: Rc<Plan>,
}

/// The result of one dial.
struct Attempt {
    dial: Dial,
    began: Instant,
    dialer: SocketAddr,
    end: Rc<Cell<Option<Result<Heard, HandshakeError>>>>,
}

impl Scenario {
    fn new(seed: u64) -> Self {
        let mut network = Network::new(seed);
        let peers: Rc<RefCell<Vec<Peer>>> = Rc::default();
        let given_up: Rc<RefCell<BTreeSet<_>>> = Rc::default();
        let silent: Rc<RefCell<BTreeSet<_>>> = Rc::default();
        network.serve({
            let peers = Rc::clone(&peers);
            let given_up = Rc::clone(&given_up);
            let silent = Rc::clone(&silent);
            let alarms = network.alarms();
            move |peer| {
                peers.borrow_mut().push(peer.clone());
                let dialer = peer.with(|connection| connection.remote_addr());
                let given_up = Rc::clone(&given_up);
                let silent = Rc::clone(&silent);
                let watch = watch(peer.clone(), alarms.clone());
                async move {
                    let converse = async {
                        let end = conversation::listener(peer, seed).await;
                        if end.is_err_and(|error| error == HandshakeError::TimedOut) {
                            given_up.borrow_mut().insert(dialer);
                        }
                    };
                    let watch = async {
                        if watch.await {
                            silent.borrow_mut().insert(dialer);
                        }
                    };
                    // Each is woken separately.
                    let both = [converse.boxed_local(), watch.boxed_local()];
                    let mut both: FuturesUnordered<_> = both.into_iter().collect();
                    while both.next().await.is_some() {}
                }
                .boxed_local()
            }
        });
        Self {
            seed,
            network,
            // Random numbers other than those of the network and of its links.
            random: StdRng::seed_from_u64(!seed),
            peers,
            given_up,
            silent,
            figures: Figures::default(),
        }
    }

    /// Draws everything except the conversations of the peers.
    fn draw(&mut self) -> Vec<Dial> {
        let random = &mut self.random;
        let nodes = random.random_range(2..=3);
        // A node that others dial does not move.
        let has_moving_dialers = random.random_bool(0.5);
        let setup = draw_setup(random, has_moving_dialers);
        let connections = random.random_range(1..=3);
        let dials = (0..connections)
            .map(|number| {
                let from = random.random_range(1..nodes);
                let way = Way { from, to: 0 };
                Dial {
                    way: if has_moving_dialers || random.random() {
                        way
                    } else {
                        way.back()
                    },
                    plan: Rc::new(Plan::new(self.seed, number)),
                }
            })
            .collect();
        for _ in 0..nodes {
            self.network.add(setup.clone());
        }
        let link = draw_link(random);
        self.network.impair(link);
        for _ in 0..random.random_range(0..=4) {
            self.draw_fault(nodes, has_moving_dialers, link);
        }
        dials
    }

    fn draw_fault(&mut self, nodes: usize, has_moving_dialers: bool, link: Impairments) {
        let random = &mut self.random;
        let after = Duration::from_micros(random.random_range(0..4_000_000));
        let node = random.random_range(1..nodes);
        let figures = &mut self.figures;
        match random.random_range(0..4) {
            0 => {
                let way = Way { from: node, to: 0 };
                let time = Duration::from_millis(random.random_range(50..8000));
                let ways = [way, way.back()];
                let ways = [&ways[..1], &ways[1..], &ways[..]];
                for &way in *ways.choose(random).unwrap() {
                    self.network.schedule(after, Fault::Cut(way, time));
                }
                figures.cuts += 1;
            }
            1 if has_moving_dialers => {
                self.network.schedule(after, Fault::Rebind(node));
                figures.rebinds += 1;
            }
            1 | 2 => {
                let years = random.random_range(-20..=20);
                let node = random.random_range(0..nodes);
                let step = Fault::StepClock(node, years * 365 * 24 * 3600);
                self.network.schedule(after, step);
                figures.clock_steps += 1;
            }
            _ => {
                let other = draw_link(random);
                let time = Duration::from_millis(random.random_range(50..8000));
                self.network.schedule(after, Fault::Impair(other));
                self.network.schedule(after + time, Fault::Impair(link));
                figures.changes_of_the_link += 1;
            }
        }
    }

    fn dial_all(&mut self, dials: Vec<Dial>) {
        let mut due = dials;
        for _ in 0..MOST_ATTEMPTS {
            let attempts: Vec<_> = due.into_iter().map(|dial| self.attempt(dial)).collect();
            self.network.run_until_idle();
            due = attempts
                .into_iter()
                .filter_map(|attempt| self.finish(attempt))
                .collect();
            if due.is_empty() {
                return;
            }
        }
        panic!("still not connected: {due:?}");
    }

    /// Dials after a pause.
    fn attempt(&mut self, dial: Dial) -> Attempt {
        let pause = Duration::from_micros(self.random.random_range(1..1_000_000));
        self.network.run_for(pause);
        let Dial { way, plan } = dial.clone();
        let peer = self.network.dial(way.from, way.to);
        self.figures.connections += 1;
        self.peers.borrow_mut().push(peer.clone());
        if let Some(early_end) = plan.early_end {
            let alarm = self.network.alarms().after(early_end.after);
            let peer = peer.clone();
            self.network.spawn(async move {
                alarm.await;
                if early_end.abandon {
                    peer.abandon();
                } else {
                    peer.close(7);
                }
            });
        }
        let dialer = self.network.public_addr(way.from);
        let watch = watch(peer.clone(), self.network.alarms());
        let silent = Rc::clone(&self.silent);
        self.network.spawn(async move {
            if watch.await {
                silent.borrow_mut().insert(dialer);
            }
        });
        let end: Rc<Cell<Option<_>>> = Rc::default();
        let set_end = Rc::clone(&end);
        self.network.spawn(async move {
            let end = match peer.established().await {
                Ok(_) => conversation::dialer(peer, plan).await.map_err(Into::into),
                Err(error) => Err(error),
            };
            set_end.set(Some(end));
        });
        Attempt {
            dial,
            began: self.network.now,
            dialer,
            end,
        }
    }

    /// Returns the dial if it has failed for an external reason and is to be repeated.
    fn finish(&mut self, attempt: Attempt) -> Option<Dial> {
        let Attempt {
            dial,
            began,
            dialer,
            end,
        } = attempt;
        let figures = &mut self.figures;
        let given_up = self.given_up.borrow().contains(&dialer);
        let is_silent = self.silent.borrow().contains(&dialer);
        match end.take().expect("no task is left") {
            Ok(heard) => {
                figures.heard += heard;
                None
            }
            Err(_) if dial.plan.early_end.is_some() => {
                figures.ended_early += 1;
                None
            }
            Err(error) => {
                let stuck = self.network.stuck(began, dialer);
                // No other reason excuses a handshake that does not complete within five minutes.
                let count = match (stuck, error) {
                    (Some(Stuck::Moved), error)
                        if is_unfinished(&error, given_up)
                            || is_silence(&error)
                            || is_invalid_token(&error) =>
                    {
                        &mut figures.moved_in_handshake
                    }
                    (Some(Stuck::Misread), error)
                        if is_misread(&error) || is_unfinished(&error, given_up) =>
                    {
                        &mut figures.misread
                    }
                    (Some(Stuck::SpoiledRetry), HandshakeError::TimedOut) => {
                        &mut figures.spoiled_retries
                    }
                    (Some(Stuck::StarvedListener), HandshakeError::TimedOut) => {
                        &mut figures.starved_listeners
                    }
                    (Some(Stuck::StarvedDialer), error) if is_unfinished(&error, given_up) => {
                        &mut figures.starved_dialers
                    }
                    (_, error) if is_silent && is_silence(&error) => &mut figures.unacknowledged,
                    (Some(Stuck::Unlucky), error) if is_unfinished(&error, given_up) => {
                        &mut figures.unlucky
                    }
                    (_, error) if is_invalid_token(&error) && figures.clock_steps > 0 => {
                        &mut figures.outdated_tokens
                    }
                    (stuck, error) => panic!("{error:?}, {stuck:?}, {dial:?}"),
                };
                *count += 1;
                Some(dial)
            }
        }
    }

    fn end(mut self) -> Outcome {
        for peer in &*self.peers.borrow() {
            peer.close(0);
        }
        let network = &mut self.network;
        network.run_until_empty();
        network.settle();
        network.nodes.iter().for_each(Node::assert_empty);
        assert_eq!(network.waiting_tasks(), 0, "somebody still waits");
        for peer in &*self.peers.borrow() {
            assert!(peer.loss().is_some());
            assert_eq!(peer.open_streams(), 0);
        }
        for node in &network.nodes {
            let (registry, _) = node.stats();
            assert_eq!(registry.issued_ids, registry.retired_ids);
            assert_eq!(registry.foreign, 0);
        }
        Outcome {
            trace: network.trace(),
            figures: Figures {
                datagrams: network.datagrams_sent(),
                virtual_time: network.elapsed(),
                ..self.figures
            },
        }
    }
}
