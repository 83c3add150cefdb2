//! When and what to send so that the NATs on the path let a peer's first packet in.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use quinn_proto::Transmit;
use rand::{Rng, RngExt, rngs::StdRng};

use crate::address::Host;

/// Identifies a hole punch within its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PunchKey(u64);

/// The hole punches of a shard.
///
/// While a peer behind a NAT dials us, we send to its address from the socket that it dials. These
/// datagrams open our NAT for the peer's packets; nobody is meant to read them ([DCUtR]).
///
/// All punches to one host share one schedule. So the host receives as many datagrams as for one
/// punch, regardless of how many punches name it. But the first datagrams of a few punches may be
/// sent at once, because peers behind one NAT have one host.
///
/// [DCUtR]: https://github.com/libp2p/specs/blob/master/relay/DCUtR.md
pub(super) struct Punches<S> {
    punches: HashMap<PunchKey, Punch<S>>,
    /// When each punch ends.
    ends: BTreeSet<(Instant, PunchKey)>,
    hosts: HashMap<Host, Schedule>,
    /// When the next datagram to each host with punches is due.
    due: BTreeSet<(Instant, Host)>,
    /// When each host without punches may be forgotten.
    idle: BTreeSet<(Instant, Host)>,
    next_key: u64,
}

struct Punch<S> {
    socket: S,
    remote_addr: SocketAddr,
    host: Host,
    until: Instant,
}

/// The punches towards one host, and when they are sent.
struct Schedule {
    /// Punches without a datagram so far, oldest first.
    new: VecDeque<PunchKey>,
    /// The other punches, in turn.
    begun: VecDeque<PunchKey>,
    next: Instant,
    /// The start of the last [`BURST_TIME`] in which up to [`BURST`] datagrams do not wait for
    /// `next`.
    burst_began: Instant,
    burst_sent: usize,
}

impl<S: Clone> Punches<S> {
    /// Begins to send to `remote_addr` from time to time until `until`.
    pub(super) fn begin(
        &mut self,
        now: Instant,
        until: Instant,
        remote_addr: SocketAddr,
        socket: S,
    ) -> PunchKey {
        let key = PunchKey(self.next_key);
        self.next_key += 1;
        let host = Host::of(remote_addr.ip());
        self.forget_hosts(now);
        self.change(host, now, |schedule| schedule.new.push_back(key));
        self.ends.insert((until, key));
        self.punches.insert(
            key,
            Punch {
                socket,
                remote_addr,
                host,
                until,
            },
        );
        key
    }

    pub(super) fn end(&mut self, key: PunchKey) {
        let Some(punch) = self.punches.remove(&key) else {
            return;
        };
        self.ends.remove(&(punch.until, key));
        // The schedule exists, so the time is not used.
        self.change(punch.host, punch.until, |schedule| schedule.remove(key));
    }

    pub(super) fn is_active(&self, key: PunchKey) -> bool {
        self.punches.contains_key(&key)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.punches.is_empty()
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let due = self.due.first().map(|&(due, _)| due);
        let end = self.ends.first().map(|&(end, _)| end);
        due.into_iter().chain(end).min()
    }

    /// Returns the next datagram that is due, with its contents in `buf`. Ends punches whose time
    /// is over.
    pub(super) fn poll_transmit(
        &mut self,
        now: Instant,
        rng: &mut StdRng,
        buf: &mut Vec<u8>,
    ) -> Option<(S, Transmit)> {
        while let Some(&(end, key)) = self.ends.first()
            && end <= now
        {
            self.end(key);
        }
        let &(due, host) = self.due.first()?;
        if due > now {
            return None;
        }
        let pause = rng.random_range(SHORTEST_PAUSE..=LONGEST_PAUSE);
        let key = self.change(host, now, |schedule| schedule.send(now, pause))?;
        let punch = self.punches.get(&key)?;
        let size = rng.random_range(SMALLEST..=LARGEST);
        buf.clear();
        buf.resize(size, 0);
        rng.fill_bytes(buf);
        let transmit = Transmit {
            destination: punch.remote_addr,
            ecn: None,
            size,
            segment_size: None,
            src_ip: None,
        };
        Some((punch.socket.clone(), transmit))
    }

    /// Changes the schedule of a host, and updates when it is due.
    fn change<T>(
        &mut self,
        host: Host,
        now: Instant,
        change: impl FnOnce(&mut Schedule) -> T,
    ) -> T {
        let schedule = self.hosts.entry(host).or_insert_with(|| Schedule::new(now));
        match schedule.due() {
            Some(due) => self.due.remove(&(due, host)),
            None => self.idle.remove(&(schedule.forgotten(), host)),
        };
        let result = change(schedule);
        match schedule.due() {
            Some(due) => self.due.insert((due, host)),
            None => self.idle.insert((schedule.forgotten(), host)),
        };
        result
    }

    /// Forgets hosts without punches once their schedule has no effect any more, or earlier if
    /// there are too many of them.
    fn forget_hosts(&mut self, now: Instant) {
        while let Some(&(forgotten, host)) = self.idle.first()
            && (forgotten <= now || self.idle.len() > MAX_IDLE_HOSTS)
        {
            self.idle.pop_first();
            self.hosts.remove(&host);
        }
    }
}

impl<S> Default for Punches<S> {
    fn default() -> Self {
        Self {
            punches: HashMap::new(),
            ends: BTreeSet::new(),
            hosts: HashMap::new(),
            due: BTreeSet::new(),
            idle: BTreeSet::new(),
            next_key: 0,
        }
    }
}

impl Schedule {
    fn new(now: Instant) -> Self {
        Self {
            new: VecDeque::new(),
            begun: VecDeque::new(),
            next: now,
            burst_began: now,
            burst_sent: 0,
        }
    }

    /// When the next datagram is due, if there is a punch.
    fn due(&self) -> Option<Instant> {
        if !self.new.is_empty() {
            // The first datagram of a punch is sent early, because the peer sends its first packet
            // at this moment.
            let burst = if self.burst_sent < BURST {
                self.burst_began
            } else {
                self.burst_began + BURST_TIME
            };
            Some(self.next.min(burst))
        } else if !self.begun.is_empty() {
            Some(self.next)
        } else {
            None
        }
    }

    /// When the schedule no longer restricts a new punch.
    fn forgotten(&self) -> Instant {
        self.next.max(self.burst_began + BURST_TIME)
    }

    /// Takes the punch to send for now. The next datagram is due after `pause`.
    fn send(&mut self, now: Instant, pause: Duration) -> Option<PunchKey> {
        let key = self.new.pop_front().or_else(|| self.begun.pop_front())?;
        self.begun.push_back(key);
        if now < self.next {
            if self.burst_began + BURST_TIME <= now {
                self.burst_began = now;
                self.burst_sent = 0;
            }
            self.burst_sent += 1;
        }
        self.next = now + pause;
        Some(key)
    }

    fn remove(&mut self, key: PunchKey) {
        self.new.retain(|other| *other != key);
        self.begun.retain(|other| *other != key);
    }
}

/// Pauses between two datagrams to a host, as in the DCUtR specification for a peer. On average a
/// host gets 9.5 datagrams a second, of 14 bytes.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// The most first datagrams of punches that do not wait for the end of a pause: this many peers
/// behind one NAT may dial at the same moment.
const BURST: usize = 8;

/// The time in which at most [`BURST`] of them are sent. A hole punch takes as long, unless
/// [`handshake_timeout`](crate::ConfigBuilder::handshake_timeout) is changed.
const BURST_TIME: Duration = Duration::from_secs(5);

/// The most hosts remembered without punches. They are remembered so that ending a punch and
/// beginning another one gains nothing. A punch may end as soon as it has begun, because another
/// one takes its place (`expected_peers`), so the number of punches at once does not limit the
/// number of these hosts. With more than 1,024 in [`BURST_TIME`], the first of them are forgotten
/// early and may get another [`BURST`]. That costs more than it gains: a thousand punches, with one
/// datagram each, for some nine more datagrams to one host.
const MAX_IDLE_HOSTS: usize = 1024;

/// Sizes of the datagrams in bytes: too small for a QUIC endpoint to answer with a stateless reset
/// (RFC 9000 §10.3).
const SMALLEST: usize = 8;
const LARGEST: usize = 20;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;

    use super::*;
    use crate::net::clock;

    #[derive(Clone, Copy, Debug)]
    enum Act {
        Begin { host: u8, lasts: u64 },
        End { which: usize },
        Pass { time: u64 },
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            (0..4_u8, 0..3_000_u64).prop_map(|(host, lasts)| Act::Begin { host, lasts }),
            any::<usize>().prop_map(|which| Act::End { which }),
            (0..2_000_u64).prop_map(|time| Act::Pass { time }),
        ]
    }

    impl Punches<()> {
        fn send_all(&mut self, now: Instant, rng: &mut StdRng) -> usize {
            let mut buf = Vec::new();
            let mut sent = 0;
            while self.poll_transmit(now, rng, &mut buf).is_some() {
                sent += 1;
            }
            sent
        }

        fn assert_counts_are_right(&self) {
            assert_eq!(self.punches.len(), self.ends.len());
            assert_eq!(self.hosts.len(), self.due.len() + self.idle.len());
            let mut keys = Vec::new();
            for (host, schedule) in &self.hosts {
                keys.extend(schedule.new.iter().chain(&schedule.begun));
                match schedule.due() {
                    Some(due) => assert!(self.due.contains(&(due, *host))),
                    None => assert!(self.idle.contains(&(schedule.forgotten(), *host))),
                }
            }
            assert_eq!(keys.len(), self.punches.len());
            assert!(keys.iter().all(|key| self.is_active(*key)));
        }
    }

    proptest! {
        #[test]
        fn counts_are_right_whatever_is_begun_and_ended(
            acts in prop::collection::vec(act(), 0..80),
        ) {
            let mut now = clock::now();
            let mut rng = StdRng::seed_from_u64(1);
            let mut punches = Punches::default();
            let mut begun = Vec::new();
            for act in acts {
                match act {
                    Act::Begin { host, lasts } => {
                        let until = now + Duration::from_millis(lasts);
                        let remote_addr = ([192, 0, 2, host], 1).into();
                        begun.push(punches.begin(now, until, remote_addr, ()));
                    }
                    Act::End { which } if !begun.is_empty() => {
                        punches.end(begun[which % begun.len()]);
                    }
                    Act::End { .. } => {}
                    Act::Pass { time } => now += Duration::from_millis(time),
                }
                // One datagram for each host, and the burst.
                prop_assert!(punches.send_all(now, &mut rng) <= 4 * (1 + BURST));
                punches.assert_counts_are_right();
            }
            punches.send_all(now + Duration::from_secs(3), &mut rng);
            prop_assert!(punches.is_empty());
            prop_assert_eq!(punches.next_timeout(), None);
        }
    }

    #[test]
    fn few_hosts_are_remembered() {
        let now = clock::now();
        let mut punches = Punches::default();
        for number in 0..5_000_u16 {
            let [high, low] = number.to_be_bytes();
            let key = punches.begin(now, now, ([10, 0, high, low], 1).into(), ());
            punches.end(key);
            assert!(punches.hosts.len() <= MAX_IDLE_HOSTS + 2);
        }
    }
}
