//! Nodes, the links between them, and virtual time.

mod timers;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    future::Future,
    mem,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    time::{Duration, Instant},
};

use aws_lc_rs::digest;
use futures::future::LocalBoxFuture;
use libp2p_identity::PeerId;
use rand::{SeedableRng, rngs::StdRng};

use self::timers::Timers;
use super::{
    link::{Impairments, Link, Way},
    nat::Nat,
    node::{Node, Outgoing, Setup},
    peer::{Peer, Stirred},
    spoofer::Spoofer,
    tasks::{Alarms, Tasks},
    wire::{Handshakes, Stuck},
};
use crate::net::clock;

/// Virtual time after which a test stops waiting for something. Connections over the worst links
/// have taken an hour.
const PATIENCE: Duration = Duration::from_secs(6 * 3600);

/// Rounds without progress of time after which a simulation is considered to be in an endless loop.
const MOST_ROUNDS: usize = 10_000;

/// A network of nodes. Its seed and the test determine everything that happens in it.
///
/// The cost of a step does not depend on the number of nodes: idle nodes are not polled.
pub(crate) struct Network {
    seed: u64,
    random: StdRng,
    began: Instant,
    pub(crate) now: Instant,
    pub(crate) nodes: Vec<Node>,
    by_addr: BTreeMap<SocketAddr, usize>,
    /// Nodes that may have something to do.
    stirred: Stirred,
    timers: Timers,
    link: Link,
    /// By time of arrival, then in the order of sending.
    in_flight: BTreeMap<(Instant, u64), InFlight>,
    sent: u64,
    /// By time, then in the order of scheduling.
    faults: BTreeMap<(Instant, u64), Fault>,
    scheduled: u64,
    nat: Nat,
    pub(crate) spoofer: Option<Spoofer>,
    handshakes: Handshakes,
    trace: digest::Context,
    /// Whether `handshakes` and `trace` are recorded. That costs more than most of what is
    /// simulated.
    is_recorded: bool,
    /// The node whose CPU time is counted.
    cpu_of: Option<usize>,
    cpu_time: Rc<Cell<Duration>>,
    tasks: Tasks,
    alarms: Alarms,
    service: Option<Service>,
}

/// What the application does with each accepted connection.
pub(crate) type Service = Rc<dyn Fn(Peer) -> LocalBoxFuture<'static, ()>>;

/// A disturbance of a network.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Interrupts this direction for this time.
    Cut(Way, Duration),
    Impair(Impairments),
    /// A node moves to another socket.
    Move(usize),
    /// The NAT of a node assigns it another address.
    Rebind(usize),
    /// The clock of a node is changed by this many seconds.
    StepClock(usize, i64),
}

struct InFlight {
    datagram: Outgoing,
    is_intact: bool,
}

impl Network {
    pub(crate) fn new(seed: u64) -> Self {
        let began = clock::now();
        Self {
            seed,
            random: StdRng::seed_from_u64(seed),
            began,
            now: began,
            nodes: Vec::new(),
            by_addr: BTreeMap::new(),
            stirred: Stirred::default(),
            timers: Timers::new(seed),
            link: Link::new(seed),
            in_flight: BTreeMap::new(),
            sent: 0,
            faults: BTreeMap::new(),
            scheduled: 0,
            nat: Nat::default(),
            spoofer: None,
            handshakes: Handshakes::default(),
            trace: digest::Context::new(&digest::SHA256),
            is_recorded: true,
            cpu_of: None,
            cpu_time: Rc::default(),
            tasks: Tasks::default(),
            alarms: Alarms::new(began),
            service: None,
        }
    }

    /// A network of two nodes.
    pub(crate) fn pair(seed: u64, dialer: Setup, listener: Setup) -> Self {
        let mut network = Self::new(seed);
        network.add(dialer);
        network.add(listener);
        network
    }

    /// Adds a node, and returns its number.
    pub(crate) fn add(&mut self, setup: Setup) -> usize {
        let number = self.nodes.len();
        let [a, b, c] = [16, 8, 0].map(|shift| ((number + 1) >> shift) as u8);
        let addr = SocketAddr::from(([10, a, b, c], 4001));
        let stirred = (number, Rc::clone(&self.stirred));
        let node = Node::new(addr, setup, &mut self.random, stirred);
        self.nodes.push(node);
        self.by_addr.insert(addr, number);
        self.timers.add();
        number
    }

    /// Replaces a node with a new one at the same address, without closing its connections.
    pub(crate) fn restart(&mut self, number: usize, setup: Setup) {
        let addr = self.nodes[number].addr();
        let stirred = (number, Rc::clone(&self.stirred));
        self.nodes[number] = Node::new(addr, setup, &mut self.random, stirred);
    }

    /// Sets what happens to accepted connections from now on, instead of waiting for the test to
    /// take them.
    pub(crate) fn serve(
        &mut self,
        service: impl Fn(Peer) -> LocalBoxFuture<'static, ()> + 'static,
    ) {
        self.service = Some(Rc::new(service));
    }

    pub(crate) fn impair(&mut self, impairments: Impairments) {
        self.link.impairments = impairments;
    }

    /// Lets the timers of all nodes be late by up to this much.
    pub(crate) fn delay_timers(&mut self, late: Duration) {
        self.timers.late = late;
    }

    /// Schedules a disturbance.
    pub(crate) fn schedule(&mut self, after: Duration, fault: Fault) {
        self.scheduled += 1;
        self.faults
            .insert((self.now + after, self.scheduled), fault);
    }

    /// Dials another node.
    pub(crate) fn dial(&mut self, from: usize, to: usize) -> Peer {
        let peer_id = self.nodes[to].peer_id();
        self.dial_expecting(from, to, Some(peer_id))
    }

    pub(crate) fn dial_expecting(
        &mut self,
        from: usize,
        to: usize,
        expected: Option<PeerId>,
    ) -> Peer {
        let addr = self.nodes[to].addr();
        let peer = self.nodes[from].dial(self.now, addr, expected);
        self.stirred.borrow_mut().insert(from);
        peer
    }

    /// Connects two nodes, of which the second one accepts.
    pub(crate) fn connect(&mut self, from: usize, to: usize) -> (Peer, Peer) {
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

    /// Makes the NAT of this node assign another address, and returns the address.
    pub(crate) fn rebind(&mut self, node: usize) -> SocketAddr {
        self.nat.rebind(self.nodes[node].addr())
    }

    /// Moves this node to a socket at another port, which is returned. The old socket is still
    /// read.
    pub(crate) fn move_socket(&mut self, node: usize) -> SocketAddr {
        let mut addr = self.nodes[node].addr();
        addr.set_port(addr.port() + 1);
        self.nodes[node].move_to(addr);
        self.by_addr.insert(addr, node);
        addr
    }

    /// Gives the host of this node these addresses, of which its kernel chooses the first. The
    /// previous addresses become invalid.
    pub(crate) fn readdress(&mut self, node: usize, ips: &[IpAddr]) {
        self.by_addr.retain(|_, at| *at != node);
        for &ip in ips {
            let addr = SocketAddr::new(ip, self.nodes[node].addr().port());
            self.by_addr.insert(addr, node);
        }
        self.nodes[node].outbox.ips = Some(ips.to_vec());
    }

    /// Spawns a task of an application, which runs from the next round on.
    pub(crate) fn spawn(&mut self, future: impl Future<Output = ()> + 'static) {
        self.tasks.spawn(future);
    }

    pub(crate) fn alarms(&self) -> Alarms {
        self.alarms.clone()
    }

    /// Lets time pass until the future is ready.
    pub(crate) fn block_on<T: 'static>(&mut self, future: impl Future<Output = T> + 'static) -> T {
        let output = Rc::new(RefCell::new(None));
        let result = Rc::clone(&output);
        self.spawn(async move {
            let done = future.await;
            *result.borrow_mut() = Some(done);
        });
        self.run_until(|_| output.take(), "nothing happens any more")
    }

    /// Lets this much time pass.
    pub(crate) fn run_for(&mut self, time: Duration) {
        self.settle();
        self.pass(time);
    }

    /// Lets this much time pass, if the test has changed nothing in the nodes directly.
    pub(crate) fn pass(&mut self, time: Duration) {
        let limit = self.now + time;
        self.settle_stirred();
        while self.advance(limit) {
            self.settle_stirred();
        }
    }

    /// Lets time pass until all tasks have ended.
    pub(crate) fn run_until_idle(&mut self) {
        let is_idle = |network: &Self| (network.tasks.len() == 0).then_some(());
        self.run_until(is_idle, "somebody waits for ever");
    }

    /// Lets time pass until no node has a connection.
    pub(crate) fn run_until_empty(&mut self) {
        let is_empty = |network: &Self| network.nodes.iter().all(Node::is_empty).then_some(());
        self.run_until(is_empty, "connections are left over");
    }

    fn run_until<T>(&mut self, condition: impl Fn(&Self) -> Option<T>, otherwise: &str) -> T {
        let limit = self.now + PATIENCE;
        self.settle();
        loop {
            if let Some(result) = condition(self) {
                return result;
            }
            assert!(self.advance(limit), "{otherwise}");
            self.settle_stirred();
        }
    }

    /// Runs all nodes and tasks until nothing is left to do without time passing.
    pub(crate) fn settle(&mut self) {
        // Tests may have changed nodes directly.
        self.stirred.borrow_mut().extend(0..self.nodes.len());
        self.settle_stirred();
    }

    fn settle_stirred(&mut self) {
        for _ in 0..MOST_ROUNDS {
            let progress = self.tasks.run();
            let stirred = mem::take(&mut *self.stirred.borrow_mut());
            if !progress && stirred.is_empty() {
                return;
            }
            for node in stirred {
                self.turn(node);
            }
        }
        panic!("runs in circles");
    }

    /// Stops recording the trace and the handshakes, for simulations of many datagrams.
    pub(crate) fn record_nothing(&mut self) {
        self.is_recorded = false;
    }

    /// Counts the CPU time of a node from now on, in the returned cell.
    pub(crate) fn count_cpu_time(&mut self, node: usize) -> Rc<Cell<Duration>> {
        self.cpu_of = Some(node);
        Rc::clone(&self.cpu_time)
    }

    fn turn(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        let stopwatch = (self.cpu_of == Some(number)).then(clock::thread_cpu_time);
        node.turn(self.now);
        book(&self.cpu_time, stopwatch);
        let outgoing = node.take_outgoing();
        // Some had no room to send, or have just been accepted.
        if node.has_ready() {
            self.stirred.borrow_mut().insert(number);
        }
        self.timers.arm(self.now, number, node.next_timeout());
        if let Some(service) = &self.service {
            for peer in mem::take(&mut node.accepted) {
                self.tasks.spawn(service(peer));
            }
        }
        for outgoing in outgoing {
            self.send(number, outgoing);
        }
    }

    /// Removes and returns the datagrams in flight, in the order of their arrival.
    pub(crate) fn intercept(&mut self) -> Vec<Outgoing> {
        let in_flight = mem::take(&mut self.in_flight).into_values();
        in_flight.map(|in_flight| in_flight.datagram).collect()
    }

    /// The contents of datagrams in flight to `addr`.
    pub(crate) fn in_flight_to(&self, addr: SocketAddr) -> Vec<Vec<u8>> {
        self.in_flight
            .values()
            .filter(|in_flight| in_flight.datagram.to == addr)
            .map(|in_flight| in_flight.datagram.contents.clone())
            .collect()
    }

    /// Time since the start of the simulation.
    pub(crate) fn elapsed(&self) -> Duration {
        self.now - self.began
    }

    /// The number of datagrams sent so far.
    pub(crate) fn datagrams_sent(&self) -> u64 {
        self.sent
    }

    /// The reason why the handshake that `dialer` began at `began` does not complete.
    pub(crate) fn stuck(&self, began: Instant, dialer: SocketAddr) -> Option<Stuck> {
        self.handshakes.stuck(began, dialer)
    }

    /// The number of 0-RTT packets sent so far.
    pub(crate) fn zero_rtt_packets(&self) -> usize {
        self.handshakes.zero_rtt_packets()
    }

    /// The address at which others see a node.
    pub(crate) fn public_addr(&self, node: usize) -> SocketAddr {
        self.nat.outward(self.nodes[node].addr())
    }

    /// A digest of every datagram sent so far: time, sender, destination, and contents.
    pub(crate) fn trace(&self) -> [u8; 32] {
        self.trace.clone().finish().as_ref().try_into().unwrap()
    }

    /// The number of tasks that have not ended.
    pub(crate) fn waiting_tasks(&self) -> usize {
        self.tasks.len()
    }

    fn send(&mut self, sender: usize, outgoing: Outgoing) {
        let Outgoing {
            from,
            to,
            contents,
            ecn,
        } = outgoing;
        let from = self.nat.outward(from);
        if self.is_recorded {
            self.trace.update(&self.elapsed().as_nanos().to_be_bytes());
            self.trace.update(format!("{from} {to} {ecn:?}").as_bytes());
            self.trace.update(&contents.len().to_be_bytes());
            self.trace.update(&contents);
            self.handshakes.sent(self.now, from, &contents);
        }
        self.spoof(sender, to, &contents);
        let receiver = self.node_at(to);
        let way = receiver.map(|to| Way { from: sender, to });
        for carried in self.link.carry(self.now, way, contents, ecn) {
            self.sent += 1;
            let datagram = Outgoing {
                from,
                to,
                contents: carried.contents,
                ecn: carried.ecn,
            };
            let in_flight = InFlight {
                datagram,
                is_intact: carried.is_intact,
            };
            self.in_flight
                .insert((carried.arrival, self.sent), in_flight);
        }
    }

    fn spoof(&mut self, sender: usize, to: SocketAddr, contents: &[u8]) {
        let Some(spoofer) = &mut self.spoofer else {
            return;
        };
        if !spoofer.see(sender, to, contents.len()) {
            return;
        }
        self.sent += 1;
        let in_flight = InFlight {
            datagram: Outgoing {
                from: spoofer.addr,
                to,
                contents: contents.to_vec(),
                ecn: None,
            },
            is_intact: true,
        };
        // Before anything else that is sent now.
        self.in_flight.insert((self.now, self.sent), in_flight);
    }

    fn node_at(&self, addr: SocketAddr) -> Option<usize> {
        let spoofed = self.spoofer.as_ref();
        if let Some(victim) = spoofed.and_then(|spoofer| spoofer.victim_at(addr)) {
            return Some(victim);
        }
        self.by_addr.get(&self.nat.inward(addr)?).copied()
    }

    /// Advances to the next time at which anything happens. Returns `false` if that is after
    /// `limit`.
    fn advance(&mut self, limit: Instant) -> bool {
        let arrival = self.in_flight.first_key_value().map(|(&(at, _), _)| at);
        let fault = self.faults.first_key_value().map(|(&(at, _), _)| at);
        let next = [arrival, fault, self.timers.first(), self.alarms.first()];
        let Some(next) = next.into_iter().flatten().min() else {
            self.now = limit;
            return false;
        };
        if next > limit {
            self.now = limit;
            return false;
        }
        self.now = self.now.max(next);
        self.alarms.ring(self.now);
        while let Some(node) = self.timers.pop_due(self.now) {
            self.stirred.borrow_mut().insert(node);
        }
        while let Some(entry) = self.faults.first_entry()
            && entry.key().0 <= self.now
        {
            let fault = entry.remove();
            self.suffer(fault);
        }
        while let Some(entry) = self.in_flight.first_entry()
            && entry.key().0 <= self.now
        {
            let InFlight {
                datagram,
                is_intact,
            } = entry.remove();
            self.deliver(datagram, is_intact);
        }
        true
    }

    fn suffer(&mut self, fault: Fault) {
        match fault {
            Fault::Cut(way, time) => self.link.cut(way, self.now + time),
            Fault::Impair(impairments) => self.link.impairments = impairments,
            Fault::Move(node) => {
                self.move_socket(node);
                self.stirred.borrow_mut().insert(node);
            }
            Fault::Rebind(node) => drop(self.rebind(node)),
            Fault::StepClock(node, seconds) => self.nodes[node].wall_clock.step(seconds),
        }
    }

    fn deliver(&mut self, datagram: Outgoing, is_intact: bool) {
        let Some(node) = self.node_at(datagram.to) else {
            return;
        };
        if self.is_recorded {
            self.handshakes.arrived(&datagram.contents, is_intact);
        }
        let Outgoing {
            from,
            to,
            contents,
            ecn,
        } = datagram;
        let stopwatch = (self.cpu_of == Some(node)).then(clock::thread_cpu_time);
        if self.nodes[node].outbox.ips.is_some() {
            self.nodes[node].receive_at(to.ip(), self.now, from, &contents);
        } else {
            self.nodes[node].receive_marked(self.now, from, &contents, ecn);
        }
        book(&self.cpu_time, stopwatch);
        self.stirred.borrow_mut().insert(node);
    }
}

/// Adds the CPU time since `stopwatch`, if it is counted.
pub(crate) fn book(total: &Cell<Duration>, stopwatch: Option<Duration>) {
    if let Some(before) = stopwatch {
        total.set(total.get() + (clock::thread_cpu_time() - before));
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
