//! One round of requests to several servers about one socket.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use rand::{RngExt, rngs::StdRng};

use super::message::{self, Answer, TransactionId};

/// How a NAT chooses the external address of a socket (RFC 4787 §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MappingBehaviour {
    /// The address is the same for every remote host, so other hosts can use it. A host without a
    /// NAT also has this behaviour.
    EndpointIndependent,
    /// The address differs for each remote address, or for each remote port (*address-dependent*
    /// and *address and port-dependent mapping* in RFC 4787, often called a symmetric NAT). The
    /// address that one host sees is useless to others.
    EndpointDependent,
}

/// The result of a round so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// The address that a server has reported. The behaviour is known once servers at two IP
    /// addresses have answered, or any two servers with different addresses.
    Mapped {
        addr: SocketAddr,
        behaviour: Option<MappingBehaviour>,
    },
    /// No server has answered.
    Unanswered,
}

/// The transactions of a round.
pub(super) struct Round {
    asked: Vec<Asked>,
    /// The servers not asked yet, in order of preference.
    unasked: Vec<SocketAddr>,
    /// Since when nothing is to come but answers of late servers.
    late_since: Option<Instant>,
}

struct Asked {
    server: SocketAddr,
    id: TransactionId,
    state: State,
}

#[derive(Clone, Copy)]
enum State {
    Waiting {
        sent: u32,
        /// The time of the next transmission, or of giving up.
        next: Instant,
    },
    Answered(SocketAddr),
    Failed,
}

impl Round {
    pub(super) fn new(servers: Vec<SocketAddr>) -> Self {
        Self {
            asked: Vec::new(),
            unasked: servers,
            late_since: None,
        }
    }

    /// Gives up transactions that have timed out. Returns how many.
    pub(super) fn expire(&mut self, now: Instant) -> u64 {
        let mut expired = 0;
        for asked in &mut self.asked {
            if matches!(asked.state, State::Waiting { sent, next } if sent >= MAX_TRANSMISSIONS && next <= now)
            {
                asked.state = State::Failed;
                expired += 1;
            }
        }
        expired
    }

    /// Returns the next request that is due, and the server to which to send it.
    pub(super) fn poll_transmit(
        &mut self,
        now: Instant,
        rng: &mut StdRng,
    ) -> Option<(SocketAddr, Vec<u8>)> {
        while let Some(index) = self.next_server() {
            self.asked.push(Asked {
                server: self.unasked.remove(index),
                id: TransactionId::from(rng.random::<u128>()),
                state: State::Waiting { sent: 0, next: now },
            });
        }
        self.asked.iter_mut().find_map(|asked| {
            let State::Waiting { sent, next } = &mut asked.state else {
                return None;
            };
            if *next > now || *sent >= MAX_TRANSMISSIONS {
                return None;
            }
            *sent += 1;
            *next = now
                + if *sent == MAX_TRANSMISSIONS {
                    INITIAL_RTO * LAST_WAIT
                } else {
                    INITIAL_RTO * 2_u32.pow(*sent - 1)
                };
            Some((asked.server, message::binding_request(asked.id)))
        })
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.asked
            .iter()
            .filter_map(|asked| match asked.state {
                State::Waiting { next, .. } => Some(next),
                State::Answered(_) | State::Failed => None,
            })
            .min()
    }

    /// Whether this transaction with this server is in progress.
    pub(super) fn is_waiting_for(&self, id: TransactionId, server: SocketAddr) -> bool {
        self.asked.iter().any(|asked| asked.expects(id, server))
    }

    /// Notes the answer of a server, or that it is unreachable.
    pub(super) fn answered(&mut self, id: TransactionId, answer: Answer) {
        if let Some(asked) = self.asked.iter_mut().find(|asked| asked.id == id) {
            asked.state = match answer {
                Answer::Mapped(addr) => State::Answered(addr),
                Answer::Refused => State::Failed,
            };
        }
    }

    /// The result so far; `None` while it is worth waiting. A better result may follow.
    pub(super) fn finding(&self) -> Option<Finding> {
        if !self.is_late() {
            return None;
        }
        let behaviour = self.behaviour();
        match self.answers().next() {
            Some((_, addr)) => Some(Finding::Mapped { addr, behaviour }),
            None if self.has(Asked::is_waiting) => None,
            None => Some(Finding::Unanswered),
        }
    }

    /// Whether nothing is to come but answers of late servers.
    fn is_late(&self) -> bool {
        self.behaviour().is_some() || (self.next_server().is_none() && !self.has(Asked::is_on_time))
    }

    /// Notes the time if nothing is to come any more but answers of late servers.
    pub(super) fn note_lateness(&mut self, now: Instant) {
        if self.is_late() {
            self.late_since.get_or_insert(now);
        }
    }

    /// When it may make room for the round of another socket.
    pub(super) fn room_at(&self) -> Option<Instant> {
        Some(self.late_since? + FOR_LATE_ANSWERS)
    }

    /// Gives up all transactions in progress. Returns how many.
    pub(super) fn give_up(&mut self) -> u64 {
        let given_up = self.waiting();
        for asked in self.asked.iter_mut().filter(|asked| asked.is_waiting()) {
            asked.state = State::Failed;
        }
        given_up
    }

    /// The number of transactions in progress.
    pub(super) fn waiting(&self) -> u64 {
        let waiting = self.asked.iter().filter(|asked| asked.is_waiting());
        waiting.count() as u64
    }

    /// Whether no better result can follow.
    pub(super) fn is_over(&self) -> bool {
        self.behaviour().is_some() || (self.next_server().is_none() && !self.has(Asked::is_waiting))
    }

    fn behaviour(&self) -> Option<MappingBehaviour> {
        let (server, addr) = self.answers().next()?;
        if self.answers().any(|(_, other)| other != addr) {
            Some(MappingBehaviour::EndpointDependent)
        } else if self.answers().any(|(other, _)| other.ip() != server.ip()) {
            Some(MappingBehaviour::EndpointIndependent)
        } else {
            // Two ports of one host do not show what another host would see (RFC 5780 §4.3).
            None
        }
    }

    /// The index in `unasked` of the server to ask now, if more answers are needed. Servers at
    /// different IP addresses are preferred. A server that is late no longer counts as an expected
    /// answer.
    fn next_server(&self) -> Option<usize> {
        let promising = || self.asked.iter().filter(|asked| asked.is_promising());
        let knows = |ip: IpAddr| promising().any(|asked| asked.server.ip() == ip);
        if self.behaviour().is_some() {
            return None;
        }
        let mut ips: Vec<_> = promising().map(|asked| asked.server.ip()).collect();
        ips.sort_unstable();
        ips.dedup();
        let elsewhere = self.unasked.iter().position(|server| !knows(server.ip()));
        if ips.len() < WANTED_ANSWERS && elsewhere.is_some() {
            return elsewhere;
        }
        (promising().count() < WANTED_ANSWERS && !self.unasked.is_empty()).then_some(0)
    }

    fn answers(&self) -> impl Iterator<Item = (SocketAddr, SocketAddr)> {
        self.asked.iter().filter_map(|asked| match asked.state {
            State::Answered(addr) => Some((asked.server, addr)),
            State::Waiting { .. } | State::Failed => None,
        })
    }

    fn has(&self, is_so: impl Fn(&Asked) -> bool) -> bool {
        self.asked.iter().any(is_so)
    }
}

impl Asked {
    fn expects(&self, id: TransactionId, server: SocketAddr) -> bool {
        // The zone and the flow label of an IPv6 address may be present in one direction and not in
        // the other.
        let from_it = (self.server.ip(), self.server.port()) == (server.ip(), server.port());
        self.is_waiting() && self.id == id && from_it
    }

    fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting { .. })
    }

    fn is_on_time(&self) -> bool {
        matches!(self.state, State::Waiting { sent, .. } if sent < LATE_AFTER)
    }

    fn is_promising(&self) -> bool {
        self.is_on_time() || matches!(self.state, State::Answered(_))
    }
}

/// RTO of the first request, because nothing is known about the path (RFC 8489 §6.2.1). It doubles
/// with each transmission.
pub(super) const INITIAL_RTO: Duration = Duration::from_millis(500);

/// Rc: the most requests to one server, each with the same transaction ID (RFC 8489 §6.2.1).
const MAX_TRANSMISSIONS: u32 = 7;

/// Rm: the time to wait after the last request, as a multiple of the first RTO (RFC 8489 §6.2.1).
/// It ends 39.5 s after the first request.
const LAST_WAIT: u32 = 16;

/// With the third request, after 1.5 s, a server is late, and the next one is asked as well. The
/// late one may still answer.
const LATE_AFTER: u32 = 3;

/// How long a round goes on for late servers although another socket needs its place. The server
/// that is asked a third time then, 1.5 s after the first time, is asked a fourth time after 2 s,
/// and has half a second to answer.
const FOR_LATE_ANSWERS: Duration = Duration::from_millis(2500);

/// Two answers show the behaviour of the NAT.
const WANTED_ANSWERS: usize = 2;
