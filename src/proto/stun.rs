//! Finds the addresses at which others see our listening sockets, with STUN (RFC 8489).

mod message;
mod round;

use std::{
    mem,
    net::SocketAddr,
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

pub(crate) use self::round::Finding;
pub use self::round::MappingBehaviour;
use self::{
    message::{Answer, NoAnswer},
    round::{INITIAL_RTO, Round},
};
use crate::{address, stats::StunStats};

/// Sends STUN requests about sockets, which are identified by their local addresses.
///
/// A request leaves from the socket in question, because a NAT maps each socket separately. An
/// answer counts if it comes from the server that was asked, arrives at the socket that sent the
/// request, and has the random ID of a transaction in progress. Any number of other messages has no
/// effect.
pub(crate) struct StunClient {
    servers: Vec<SocketAddr>,
    interval: Duration,
    sockets: Vec<SocketState>,
    rng: StdRng,
    stats: StunStats,
    /// When the last round began.
    last_begun: Option<Instant>,
}

/// A request, and the socket from which to send it.
pub(crate) struct StunTransmit {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) contents: Vec<u8>,
}

/// The state of one socket.
struct SocketState {
    local_addr: SocketAddr,
    round: Option<Round>,
    /// When the next round is due: it begins then, or when there is room for it. `None` until the
    /// round in progress has a finding, or if no server can be reached from this socket.
    next_round: Option<Instant>,
    finding: Option<Finding>,
    is_reported: bool,
}

impl StunClient {
    /// `interval` is the longest pause between two rounds, and `seed` the only source of
    /// randomness.
    pub(crate) fn new(servers: Vec<SocketAddr>, interval: Duration, seed: [u8; 32]) -> Self {
        Self {
            servers,
            interval,
            sockets: Vec::new(),
            rng: StdRng::from_seed(seed),
            stats: StunStats::default(),
            last_begun: None,
        }
    }

    /// Begins to ask about this socket, or asks again soon, because an interface has gained or lost
    /// an address.
    pub(crate) fn ask_about(&mut self, now: Instant, local_addr: SocketAddr) {
        let soon = now + SETTLING_TIME;
        if let Some(socket) = socket(&mut self.sockets, local_addr) {
            socket.next_round = Some(socket.next_round.map_or(soon, |next| next.min(soon)));
        } else {
            self.sockets.push(SocketState {
                local_addr,
                round: None,
                next_round: Some(soon),
                finding: None,
                is_reported: true,
            });
        }
    }

    /// Stops asking about this socket.
    pub(crate) fn forget(&mut self, local_addr: SocketAddr) {
        self.sockets
            .retain(|socket| socket.local_addr != local_addr);
    }

    /// Handles a datagram that is not QUIC. Returns whether it has changed anything.
    pub(crate) fn handle(
        &mut self,
        now: Instant,
        local_addr: SocketAddr,
        remote_addr: SocketAddr,
        datagram: &[u8],
    ) -> bool {
        if !message::is_stun(datagram) {
            return false;
        }
        match self.accept(now, local_addr, remote_addr, datagram) {
            Ok(()) => true,
            Err(NoAnswer::Malformed) => {
                self.stats.dropped_malformed += 1;
                false
            }
            Err(NoAnswer::NotAResponse) => {
                self.stats.dropped_unexpected += 1;
                false
            }
        }
    }

    /// Handles an ICMP error from the host of `remote_addr` that quotes a datagram to a closed
    /// port. Returns whether that datagram was a request of ours. Only a host that has seen the
    /// request knows its transaction ID.
    pub(crate) fn unreachable(
        &mut self,
        now: Instant,
        local_addr: SocketAddr,
        remote_addr: SocketAddr,
        quoted: &[u8],
    ) -> bool {
        let Some(id) = message::id_of_request(quoted) else {
            return false;
        };
        let Some(socket) = socket(&mut self.sockets, local_addr) else {
            return false;
        };
        match &mut socket.round {
            Some(round) if round.is_waiting_for(id, remote_addr) => {
                round.answered(id, Answer::Refused);
            }
            _ => return false,
        }
        self.stats.unanswered += 1;
        socket.conclude(now, self.interval, &mut self.rng);
        true
    }

    /// When [`poll_transmit`](Self::poll_transmit) has something to do, unless a datagram arrives
    /// earlier.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let next_round = self.next_round().map(|(next, _)| next);
        let rounds = self.rounds().filter_map(Round::next_timeout);
        rounds.chain(next_round).min()
    }

    /// Returns the next request that is due. Call it until it returns `None`.
    pub(crate) fn poll_transmit(&mut self, now: Instant) -> Option<StunTransmit> {
        loop {
            while let Some((next, index)) = self.next_round()
                && next <= now
            {
                self.begin_round(now, index);
            }
            if let Some(transmit) = self.next_request(now) {
                return Some(transmit);
            }
            // Rounds that have ended may have made room for others.
            if self.next_round().is_none_or(|(next, _)| next > now) {
                return None;
            }
        }
    }

    /// Returns the next request that is due in a round in progress.
    fn next_request(&mut self, now: Instant) -> Option<StunTransmit> {
        for socket in &mut self.sockets {
            let Some(round) = &mut socket.round else {
                continue;
            };
            self.stats.unanswered += round.expire(now);
            if let Some((to, contents)) = round.poll_transmit(now, &mut self.rng) {
                self.stats.requests_sent += 1;
                return Some(StunTransmit {
                    from: socket.local_addr,
                    to,
                    contents,
                });
            }
            socket.conclude(now, self.interval, &mut self.rng);
        }
        None
    }

    /// When the next round may begin, and the index of its socket. Sockets get their turns in the
    /// order in which their rounds are due. At [`MAX_ROUNDS`], a round needs the place of another
    /// one: of one that waits for nothing but a late server, or of one whose own next round is due,
    /// which then waits for its turn.
    fn next_round(&self) -> Option<(Instant, usize)> {
        let (again, waiting) = (self.first_due(true), self.first_due(false));
        let next = if self.rounds().count() < MAX_ROUNDS {
            again.into_iter().chain(waiting).min()
        } else {
            let instead = again.map(|(time, index)| {
                let first = waiting.filter(|(due, _)| *due < time);
                (time, first.map_or(index, |(_, first)| first))
            });
            let beside = waiting.and_then(|(due, index)| {
                let (room_at, _) = self.finished_round()?;
                Some((due.max(room_at), index))
            });
            instead.into_iter().chain(beside).min()
        };
        let (time, index) = next?;
        let spaced = self.last_begun.map(|last| last + BETWEEN_ROUNDS);
        Some((spaced.map_or(time, |spaced| time.max(spaced)), index))
    }

    /// Begins the round of a socket. If that is one round too many, another one ends.
    fn begin_round(&mut self, now: Instant, index: usize) {
        let is_one_more = self.sockets[index].round.is_none();
        if is_one_more
            && self.rounds().count() >= MAX_ROUNDS
            && let Some(other) = self.dispensable_round(now)
        {
            let other = &mut self.sockets[other];
            other.conclude(now, self.interval, &mut self.rng);
            self.stats.unanswered += other.abandon();
        }
        let socket = &mut self.sockets[index];
        self.stats.unanswered += socket.abandon();
        if socket.begin(&self.servers) {
            self.last_begun = Some(now);
        }
    }

    /// The index of the socket whose round makes room for another one.
    fn dispensable_round(&self, now: Instant) -> Option<usize> {
        let is_now = |(time, _): &(Instant, usize)| *time <= now;
        let finished = self.finished_round().filter(is_now);
        let again = || self.first_due(true).filter(is_now);
        finished.or_else(again).map(|(_, index)| index)
    }

    /// When the first round is due of the sockets with, or without, a round in progress, and the
    /// index of its socket.
    fn first_due(&self, is_running: bool) -> Option<(Instant, usize)> {
        let sockets = self.sockets.iter().enumerate();
        sockets
            .filter(|(_, socket)| socket.round.is_some() == is_running)
            .filter_map(|(index, socket)| Some((socket.next_round?, index)))
            .min()
    }

    /// When the first of the rounds that have a finding may make room for another one, and the
    /// index of its socket.
    fn finished_round(&self) -> Option<(Instant, usize)> {
        let sockets = self.sockets.iter().enumerate();
        sockets
            .filter_map(|(index, socket)| {
                let found_at = socket.round.as_ref()?.found_at?;
                Some((found_at + FOR_LATE_ANSWERS, index))
            })
            .min()
    }

    /// The rounds in progress.
    fn rounds(&self) -> impl Iterator<Item = &Round> {
        self.sockets
            .iter()
            .filter_map(|socket| socket.round.as_ref())
    }

    /// Returns the next socket with a new finding.
    pub(crate) fn poll_finding(&mut self) -> Option<(SocketAddr, Finding)> {
        self.sockets.iter_mut().find_map(|socket| {
            let finding = socket.finding?;
            let is_new = !mem::replace(&mut socket.is_reported, true);
            is_new.then_some((socket.local_addr, finding))
        })
    }

    /// Takes the counts since the last call.
    pub(crate) fn take_stats(&mut self) -> StunStats {
        mem::take(&mut self.stats)
    }

    fn accept(
        &mut self,
        now: Instant,
        local_addr: SocketAddr,
        remote_addr: SocketAddr,
        datagram: &[u8],
    ) -> Result<(), NoAnswer> {
        let id = message::id_of_response(datagram)?;
        let socket = socket(&mut self.sockets, local_addr).ok_or(NoAnswer::NotAResponse)?;
        let round = match &mut socket.round {
            Some(round) if round.is_waiting_for(id, remote_addr) => round,
            _ => return Err(NoAnswer::NotAResponse),
        };
        let answer = message::read(datagram)?;
        match answer {
            Answer::Mapped(addr) if addr.is_ipv4() != local_addr.is_ipv4() => {
                return Err(NoAnswer::Malformed);
            }
            Answer::Mapped(_) => self.stats.answers += 1,
            Answer::Refused => self.stats.refused += 1,
        }
        round.answered(id, answer);
        socket.conclude(now, self.interval, &mut self.rng);
        Ok(())
    }
}

impl SocketState {
    /// Ends the round; answers to it are then ignored. Returns how many transactions are given up.
    fn abandon(&mut self) -> u64 {
        self.round.take().map_or(0, |round| round.waiting())
    }

    /// Begins a round. Returns `false` if there is no server to ask.
    fn begin(&mut self, servers: &[SocketAddr]) -> bool {
        self.next_round = None;
        let servers: Vec<_> = servers
            .iter()
            .copied()
            .filter(|server| address::can_reach(self.local_addr, *server))
            .collect();
        self.round = (!servers.is_empty()).then(|| Round::new(servers));
        self.round.is_some()
    }

    /// Stores the findings of the round so far. When they are sufficient, schedules the next round.
    fn conclude(&mut self, now: Instant, interval: Duration, rng: &mut StdRng) {
        let Some(round) = &mut self.round else {
            return;
        };
        let Some(finding) = round.finding() else {
            return;
        };
        round.found_at.get_or_insert(now);
        if round.is_over() {
            self.round = None;
        }
        if self.next_round.is_none() {
            let pause = interval.mul_f64(rng.random_range(SHORTEST_PAUSE..=1.0));
            self.next_round = Some(now + pause);
        }
        if self.finding != Some(finding) {
            self.finding = Some(finding);
            self.is_reported = false;
        }
    }
}

fn socket(sockets: &mut [SocketState], local_addr: SocketAddr) -> Option<&mut SocketState> {
    sockets
        .iter_mut()
        .find(|socket| socket.local_addr == local_addr)
}

/// How long to wait after a change, because an interface gets its addresses and routes one after
/// another.
const SETTLING_TIME: Duration = INITIAL_RTO;

/// The most rounds at a time, because at most this many transactions with one server should be
/// outstanding (RFC 8489 §6.2). The sockets are as many as the application has listeners.
const MAX_ROUNDS: usize = 10;

/// The shortest time between the beginnings of two rounds: RFC 8489 §6.2 recommends an RTO between
/// two transactions with one server.
const BETWEEN_ROUNDS: Duration = INITIAL_RTO;

/// How long a round that has a finding goes on for late servers although another socket needs its
/// place. The server that is asked a third time then, 1.5 s after the first time, is asked a fourth
/// time after 2 s, and has half a second to answer.
const FOR_LATE_ANSWERS: Duration = Duration::from_millis(2500);

/// The shortest pause as a part of the interval. The random pause keeps the nodes of a network from
/// asking at the same time (as in RFC 5626 §4.4.1).
const SHORTEST_PAUSE: f64 = 0.8;
