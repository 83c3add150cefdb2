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
    /// IPv4 and IPv6. Their sockets never ask the same server, so they do not wait for each other.
    families: [Family; 2],
    rng: StdRng,
    stats: StunStats,
}

/// The sockets of one address family.
#[derive(Default)]
struct Family {
    sockets: Vec<SocketState>,
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
    /// `interval` is the longest pause between two rounds about a socket, but the pause is at least
    /// [`BETWEEN_ROUNDS`] for each socket of the family. `seed` is the only source of randomness.
    pub(crate) fn new(servers: Vec<SocketAddr>, interval: Duration, seed: [u8; 32]) -> Self {
        Self {
            servers,
            interval,
            families: Default::default(),
            rng: StdRng::from_seed(seed),
            stats: StunStats::default(),
        }
    }

    /// Begins to ask about this socket, or asks again soon, because an interface has gained or lost
    /// an address.
    pub(crate) fn ask_about(&mut self, now: Instant, local_addr: SocketAddr) {
        let soon = now + SETTLING_TIME;
        if let Some(socket) = self.family(local_addr).socket(local_addr) {
            socket.next_round = Some(socket.next_round.map_or(soon, |next| next.min(soon)));
        } else {
            self.family(local_addr).sockets.push(SocketState {
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
        self.family(local_addr)
            .sockets
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
        let family = &mut self.families[family_index(local_addr)];
        let Some(socket) = family.socket(local_addr) else {
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
        let rounds = (self.families.iter())
            .flat_map(Family::rounds)
            .filter_map(Round::next_timeout);
        rounds.chain(next_round).min()
    }

    /// Returns the next request that is due. Call it until it returns `None`.
    pub(crate) fn poll_transmit(&mut self, now: Instant) -> Option<StunTransmit> {
        loop {
            while let Some((next, socket)) = self.next_round()
                && next <= now
            {
                self.begin_round(now, socket);
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
        for socket in self
            .families
            .iter_mut()
            .flat_map(|family| &mut family.sockets)
        {
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

    /// When the next round may begin, and the indices of the family and the socket.
    fn next_round(&self) -> Option<(Instant, (usize, usize))> {
        let families = self.families.iter().enumerate();
        families
            .filter_map(|(family, state)| {
                let (time, index) = state.next_round()?;
                Some((time, (family, index)))
            })
            .min()
    }

    /// Begins the round of a socket. If that is one round too many, another one ends.
    fn begin_round(&mut self, now: Instant, (family, index): (usize, usize)) {
        let family = &mut self.families[family];
        if family.sockets[index].round.is_none()
            && family.rounds().count() >= MAX_ROUNDS
            && let Some(other) = family.dispensable_round(now)
        {
            let other = &mut family.sockets[other];
            // With a finding, which it may lack so far, its next round is scheduled.
            self.stats.unanswered += other.give_up_if_late(now);
            other.conclude(now, self.interval, &mut self.rng);
            self.stats.unanswered += other.abandon();
        }
        let socket = &mut family.sockets[index];
        self.stats.unanswered += socket.abandon();
        if socket.begin(&self.servers) {
            family.last_begun = Some(now);
        }
    }

    fn family(&mut self, local_addr: SocketAddr) -> &mut Family {
        &mut self.families[family_index(local_addr)]
    }

    /// Returns the next socket with a new finding.
    pub(crate) fn poll_finding(&mut self) -> Option<(SocketAddr, Finding)> {
        let mut sockets = (self.families.iter_mut()).flat_map(|family| &mut family.sockets);
        sockets.find_map(|socket| {
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
        let family = &mut self.families[family_index(local_addr)];
        let socket = family.socket(local_addr).ok_or(NoAnswer::NotAResponse)?;
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

impl Family {
    /// When the next round may begin, and the index of its socket. Sockets get their turns in the
    /// order in which their rounds are due. At [`MAX_ROUNDS`], a round needs the place of another
    /// one: of one that waits for nothing but late servers, or of one whose own next round is due,
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
                let (room_at, _) = self.late_round()?;
                Some((due.max(room_at), index))
            });
            instead.into_iter().chain(beside).min()
        };
        let (time, index) = next?;
        let spaced = self.last_begun.map(|last| last + BETWEEN_ROUNDS);
        Some((spaced.map_or(time, |spaced| time.max(spaced)), index))
    }

    /// The index of the socket whose round makes room for another one.
    fn dispensable_round(&self, now: Instant) -> Option<usize> {
        let is_now = |(time, _): &(Instant, usize)| *time <= now;
        let late = self.late_round().filter(is_now);
        let again = || self.first_due(true).filter(is_now);
        late.or_else(again).map(|(_, index)| index)
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

    /// When the first of the rounds that wait only for late servers may make room for another one,
    /// and the index of its socket.
    fn late_round(&self) -> Option<(Instant, usize)> {
        let sockets = self.sockets.iter().enumerate();
        sockets
            .filter_map(|(index, socket)| Some((socket.round.as_ref()?.room_at()?, index)))
            .min()
    }

    /// The rounds in progress.
    fn rounds(&self) -> impl Iterator<Item = &Round> {
        self.sockets
            .iter()
            .filter_map(|socket| socket.round.as_ref())
    }

    fn socket(&mut self, local_addr: SocketAddr) -> Option<&mut SocketState> {
        self.sockets
            .iter_mut()
            .find(|socket| socket.local_addr == local_addr)
    }
}

impl SocketState {
    /// Ends the round; answers to it are then ignored. Returns how many transactions are given up.
    fn abandon(&mut self) -> u64 {
        self.round.take().map_or(0, |round| round.waiting())
    }

    /// Gives up servers that have been late for long. Returns how many.
    fn give_up_if_late(&mut self, now: Instant) -> u64 {
        match &mut self.round {
            Some(round) if round.room_at().is_some_and(|room_at| room_at <= now) => round.give_up(),
            _ => 0,
        }
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
        round.note_lateness(now);
        let Some(finding) = round.finding() else {
            return;
        };
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

/// The index of the family of this address.
fn family_index(local_addr: SocketAddr) -> usize {
    usize::from(local_addr.is_ipv6())
}

/// How long to wait after a change, because an interface gets its addresses and routes one after
/// another.
const SETTLING_TIME: Duration = INITIAL_RTO;

/// The most rounds of one family at a time, because at most this many transactions with one server
/// should be outstanding (RFC 8489 §6.2). The sockets are as many as the application has listeners.
const MAX_ROUNDS: usize = 10;

/// The shortest time between the beginnings of two rounds of one family: RFC 8489 §6.2 recommends
/// an RTO between two transactions with one server.
const BETWEEN_ROUNDS: Duration = INITIAL_RTO;

/// The shortest pause as a part of the interval. The random pause keeps the nodes of a network from
/// asking at the same time (as in RFC 5626 §4.4.1).
const SHORTEST_PAUSE: f64 = 0.8;
