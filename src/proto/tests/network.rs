//! Nodes, the links between them, and virtual time.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    future::Future,
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
    time::{Duration, Instant},
};

use futures::future::{FutureExt, LocalBoxFuture};
use libp2p_identity::PeerId;
use rand::{SeedableRng, rngs::StdRng};
use sha2::{Digest, Sha256};

use super::{
    link::{Impairments, Link},
    node::{Node, Outgoing, Setup},
    peer::Peer,
};
use crate::net::clock;

/// Virtual time after which something that a test waits for is taken to never happen.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Rounds without time passing after which a simulation is taken to run in circles.
const MOST_ROUNDS: usize = 10_000;

/// A network of nodes. Everything that happens in it is a function of its seed and of the test.
pub(super) struct Network {
    seed: u64,
    random: StdRng,
    began: Instant,
    pub(super) now: Instant,
    pub(super) nodes: Vec<Node>,
    link: Link,
    /// By time of arrival, then in the order of sending.
    in_flight: BTreeMap<(Instant, u64), Outgoing>,
    sent: u64,
    nat: Nat,
    trace: Sha256,
    tasks: Vec<Task>,
}

/// What applications do meanwhile.
struct Task {
    future: LocalBoxFuture<'static, ()>,
    woken: Arc<Woken>,
}

/// Polling only who was woken is what shows a forgotten waker.
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Address translation, for those whom the network has given another address than their own.
#[derive(Default)]
struct Nat {
    public: HashMap<SocketAddr, SocketAddr>,
    given: u8,
}

impl Nat {
    fn rebind(&mut self, own: SocketAddr) -> SocketAddr {
        self.given += 1;
        let public = SocketAddr::from(([203, 0, 113, self.given], 1024));
        self.public.insert(own, public);
        public
    }

    fn outward(&self, own: SocketAddr) -> SocketAddr {
        self.public.get(&own).copied().unwrap_or(own)
    }

    /// `None` for addresses that lead nowhere any more.
    fn inward(&self, to: SocketAddr) -> Option<SocketAddr> {
        if self.public.contains_key(&to) {
            return None;
        }
        let behind = self.public.iter().find(|&(_, &public)| public == to);
        Some(behind.map_or(to, |(&own, _)| own))
    }
}

impl Network {
    pub(super) fn new(seed: u64) -> Self {
        let began = clock::now();
        Self {
            seed,
            random: StdRng::seed_from_u64(seed),
            began,
            now: began,
            nodes: Vec::new(),
            link: Link::new(seed),
            in_flight: BTreeMap::new(),
            sent: 0,
            nat: Nat::default(),
            trace: Sha256::new(),
            tasks: Vec::new(),
        }
    }

    /// A network of two.
    pub(super) fn pair(seed: u64, dialer: Setup, listener: Setup) -> Self {
        let mut network = Self::new(seed);
        network.add(dialer);
        network.add(listener);
        network
    }

    /// Adds a node, and returns its number.
    pub(super) fn add(&mut self, setup: Setup) -> usize {
        let number = self.nodes.len();
        let addr = SocketAddr::from(([192, 0, 2, 1 + number as u8], 4001));
        self.nodes.push(Node::new(addr, setup, &mut self.random));
        number
    }

    pub(super) fn impair(&mut self, impairments: Impairments) {
        self.link.impairments = impairments;
    }

    /// Dials another node.
    pub(super) fn dial(&mut self, from: usize, to: usize) -> Peer {
        let peer_id = self.nodes[to].peer_id();
        self.dial_expecting(from, to, Some(peer_id))
    }

    pub(super) fn dial_expecting(
        &mut self,
        from: usize,
        to: usize,
        expected: Option<PeerId>,
    ) -> Peer {
        let addr = self.nodes[to].addr();
        self.nodes[from].dial(self.now, addr, expected)
    }

    /// Connects two nodes, of which the second one accepts.
    pub(super) fn connect(&mut self, from: usize, to: usize) -> (Peer, Peer) {
        let dialer = self.dial(from, to);
        let dialled = dialer.clone();
        let peer_id = self.block_on(async move { dialled.established().await });
        assert_eq!(peer_id.unwrap(), self.nodes[to].peer_id());
        let listener = self.nodes[to].accepted.pop_front().unwrap();
        let accepted = listener.clone();
        let peer_id = self.block_on(async move { accepted.established().await });
        assert_eq!(peer_id.unwrap(), self.nodes[from].peer_id());
        (dialer, listener)
    }

    /// The NAT before this node gives it another address, which is returned.
    pub(super) fn rebind(&mut self, node: usize) -> SocketAddr {
        self.nat.rebind(self.nodes[node].addr())
    }

    /// Has an application do this, from the next round on.
    pub(super) fn spawn(&mut self, future: impl Future<Output = ()> + 'static) {
        self.tasks.push(Task {
            future: future.boxed_local(),
            woken: Arc::new(Woken(AtomicBool::new(true))),
        });
    }

    /// Lets time pass until this is done.
    pub(super) fn block_on<T: 'static>(&mut self, future: impl Future<Output = T> + 'static) -> T {
        let output = Rc::new(RefCell::new(None));
        let result = Rc::clone(&output);
        self.spawn(async move {
            let done = future.await;
            *result.borrow_mut() = Some(done);
        });
        let limit = self.now + PATIENCE;
        loop {
            self.settle();
            if let Some(output) = output.take() {
                return output;
            }
            assert!(self.advance(limit), "nothing happens any more");
        }
    }

    /// Lets this much time pass.
    pub(super) fn run_for(&mut self, time: Duration) {
        let limit = self.now + time;
        loop {
            self.settle();
            if !self.advance(limit) {
                return;
            }
        }
    }

    /// Lets time pass until no node has a connection.
    pub(super) fn run_until_empty(&mut self) {
        let limit = self.now + PATIENCE;
        loop {
            self.settle();
            if self.nodes.iter().all(Node::is_empty) {
                return;
            }
            assert!(self.advance(limit), "connections are left over");
        }
    }

    /// Has everyone do what they can without time passing.
    pub(super) fn settle(&mut self) {
        for _ in 0..MOST_ROUNDS {
            let mut progress = self.run_tasks();
            for node in 0..self.nodes.len() {
                progress |= self.nodes[node].turn(self.now);
                for outgoing in self.nodes[node].take_outgoing() {
                    progress = true;
                    self.send(outgoing);
                }
            }
            if !progress {
                return;
            }
        }
        panic!("runs in circles");
    }

    /// Datagrams on their way, in the order of their arrival; they will not arrive.
    pub(super) fn intercept(&mut self) -> Vec<Outgoing> {
        std::mem::take(&mut self.in_flight).into_values().collect()
    }

    /// What is on its way to `addr`.
    pub(super) fn in_flight_to(&self, addr: SocketAddr) -> Vec<Vec<u8>> {
        self.in_flight
            .values()
            .filter(|datagram| datagram.to == addr)
            .map(|datagram| datagram.contents.clone())
            .collect()
    }

    /// Time since the network began.
    pub(super) fn elapsed(&self) -> Duration {
        self.now - self.began
    }

    /// A digest of each datagram that was ever sent: when, by whom, to whom, and its bytes.
    pub(super) fn trace(&self) -> [u8; 32] {
        self.trace.clone().finalize().into()
    }

    /// Tasks that have not ended.
    pub(super) fn waiting_tasks(&self) -> usize {
        self.tasks.len()
    }

    fn run_tasks(&mut self) -> bool {
        let mut progress = false;
        self.tasks.retain_mut(|task| {
            if !task.woken.0.swap(false, Ordering::Relaxed) {
                return true;
            }
            progress = true;
            let waker = Waker::from(Arc::clone(&task.woken));
            let polled = task.future.poll_unpin(&mut Context::from_waker(&waker));
            polled.is_pending()
        });
        progress
    }

    fn send(&mut self, outgoing: Outgoing) {
        let from = self.nat.outward(outgoing.from);
        let to = outgoing.to;
        self.trace.update(self.elapsed().as_nanos().to_be_bytes());
        self.trace.update(format!("{from} {to}"));
        self.trace.update(outgoing.contents.len().to_be_bytes());
        self.trace.update(&outgoing.contents);
        for (arrival, contents) in self.link.carry(self.now, &outgoing.contents) {
            self.sent += 1;
            self.in_flight
                .insert((arrival, self.sent), Outgoing { from, to, contents });
        }
    }

    /// Goes to the next time at which anything happens; `false` if that is after `limit`.
    fn advance(&mut self, limit: Instant) -> bool {
        let arrival = self.in_flight.first_key_value().map(|(&(at, _), _)| at);
        let timeouts = self.nodes.iter().filter_map(Node::next_timeout);
        let next = timeouts.chain(arrival).min();
        let Some(next) = next.filter(|&next| next <= limit) else {
            self.now = limit;
            return false;
        };
        self.now = self.now.max(next);
        while let Some(entry) = self.in_flight.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let Outgoing { from, to, contents } = entry.remove();
            let to = self.nat.inward(to);
            if let Some(node) = self.nodes.iter_mut().find(|node| Some(node.addr()) == to) {
                node.receive(self.now, from, &contents);
            }
        }
        true
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "seed {}, {:?} after the beginning",
                self.seed,
                self.elapsed()
            );
        }
    }
}
