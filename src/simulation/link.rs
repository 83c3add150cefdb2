//! What a network does to datagrams: delay, loss, limits.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use quinn_proto::EcnCodepoint;
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// How a link treats datagrams. Each datagram is subject to the probabilities separately.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Impairments {
    /// One-way delay.
    pub(crate) delay: Duration,
    /// The largest random delay in addition, drawn for each datagram, so that some overtake others.
    pub(crate) jitter: Duration,
    pub(crate) loss: f64,
    /// In addition, one in this many datagrams is lost.
    pub(crate) lose_every: Option<u64>,
    pub(crate) duplication: f64,
    /// The probability that one bit is flipped.
    pub(crate) corruption: f64,
    /// Largest UDP payload in bytes; larger datagrams are dropped.
    pub(crate) mtu: usize,
    /// The bottleneck in each direction between each pair of nodes; `None` means unlimited.
    pub(crate) bottleneck: Option<Bottleneck>,
    /// How long a host collects arriving datagrams before it reads them (interrupt moderation).
    pub(crate) gathered: Duration,
    pub(crate) ecn: Ecn,
}

/// The bottleneck of a path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bottleneck {
    pub(crate) bytes_per_second: u32,
    /// Size of the queue in bytes; datagrams that find it full are dropped.
    pub(crate) queue_bytes: u32,
    /// The speed of the sender's interface, before the queue; `None` means unlimited.
    pub(crate) interface_bytes_per_second: Option<u32>,
    /// Bytes of headers of each datagram.
    pub(crate) header_bytes: usize,
}

/// How the path changes the ECN bits of a marked datagram (RFC 3168 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ecn {
    Kept,
    /// Set to Not-ECT, as by routers that interpret the bits in their old meaning.
    Bleached,
    /// Set to CE, regardless of congestion.
    ForgedCe,
    /// Set to ECT(1), which no node sends.
    ForgedEct1,
    /// The datagram is dropped.
    Dropped,
}

impl Impairments {
    /// A round-trip time of 20 ms, and Ethernet's MTU.
    pub(crate) const NONE: Self = Self {
        delay: Duration::from_millis(10),
        jitter: Duration::ZERO,
        loss: 0.0,
        lose_every: None,
        duplication: 0.0,
        corruption: 0.0,
        mtu: 1472,
        bottleneck: None,
        gathered: Duration::ZERO,
        ecn: Ecn::Kept,
    };

    /// Drops everything.
    pub(crate) const DEAD: Self = Self {
        loss: 1.0,
        ..Self::NONE
    };
}

/// One direction between two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Way {
    pub(crate) from: usize,
    pub(crate) to: usize,
}

impl Way {
    pub(crate) fn back(self) -> Self {
        let Self { from, to } = self;
        Self { from: to, to: from }
    }
}

/// The links of a network, and the random fate of datagrams on them.
pub(crate) struct Link {
    pub(crate) impairments: Impairments,
    random: StdRng,
    queues: BTreeMap<Way, Queue>,
    /// When each node that collects datagrams reads them.
    gathering: BTreeMap<Way, Instant>,
    /// Directions that are interrupted, with the end of the interruption.
    cut: BTreeMap<Way, Instant>,
    carried: u64,
}

/// A datagram at the end of a link.
pub(crate) struct Carried {
    pub(crate) arrival: Instant,
    pub(crate) contents: Vec<u8>,
    pub(crate) ecn: Option<EcnCodepoint>,
    pub(crate) is_intact: bool,
}

impl Link {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            impairments: Impairments::NONE,
            random: StdRng::seed_from_u64(seed),
            queues: BTreeMap::new(),
            gathering: BTreeMap::new(),
            cut: BTreeMap::new(),
            carried: 0,
        }
    }

    /// Interrupts this direction until `until`.
    pub(crate) fn cut(&mut self, way: Way, until: Instant) {
        self.cut.insert(way, until);
    }

    /// Carries a datagram that is sent `now`. Returns its arrivals: none, one, or two.
    ///
    /// `way` is `None` if the address belongs to no node.
    pub(crate) fn carry(
        &mut self,
        now: Instant,
        way: Option<Way>,
        contents: Vec<u8>,
        ecn: Option<EcnCodepoint>,
    ) -> impl Iterator<Item = Carried> + use<> {
        let mut carried = [None, None];
        let is_dropped = ecn.is_some() && self.impairments.ecn == Ecn::Dropped;
        let departure = self.depart(now, way, contents.len());
        if let Some(departure) = departure.filter(|_| !is_dropped) {
            let ecn = ecn.and_then(|ecn| self.impairments.ecn.mark(ecn));
            if self.random.random_bool(self.impairments.duplication) {
                carried[1] = Some(self.arrive(way, departure, contents.clone(), ecn));
            }
            carried[0] = Some(self.arrive(way, departure, contents, ecn));
        }
        carried.into_iter().flatten()
    }

    /// When a datagram is on its way to the other end; `None` if it is lost.
    fn depart(&mut self, now: Instant, way: Option<Way>, len: usize) -> Option<Instant> {
        let Impairments {
            loss,
            lose_every,
            mtu,
            bottleneck,
            ..
        } = self.impairments;
        self.carried += 1;
        if lose_every.is_some_and(|every| self.carried.is_multiple_of(every)) {
            return None;
        }
        let is_cut = way
            .and_then(|way| self.cut.get(&way))
            .is_some_and(|&until| now < until);
        if is_cut || len > mtu {
            return None;
        }
        let mut departure = now;
        if let (Some(way), Some(bottleneck)) = (way, bottleneck) {
            departure = self.pass(bottleneck, now, way, len)?;
        }
        // What is lost has used the bottleneck before.
        (!self.random.random_bool(loss)).then_some(departure)
    }

    /// When a datagram has passed the bottleneck; `None` if the queue is full.
    fn pass(
        &mut self,
        bottleneck: Bottleneck,
        now: Instant,
        way: Way,
        len: usize,
    ) -> Option<Instant> {
        let len = len + bottleneck.header_bytes;
        let queue = self.queues.entry(way).or_insert_with(|| Queue::new(now));
        if let Some(rate) = bottleneck.interface_bytes_per_second {
            queue.interface_free = now.max(queue.interface_free) + time_for(len, rate);
        }
        let entered = now.max(queue.interface_free);
        let before = queue.free.saturating_duration_since(entered);
        let rate = bottleneck.bytes_per_second;
        if before > time_for(bottleneck.queue_bytes as usize, rate) {
            return None;
        }
        queue.free = entered + before + time_for(len, rate);
        Some(queue.free)
    }

    fn arrive(
        &mut self,
        way: Option<Way>,
        departure: Instant,
        mut contents: Vec<u8>,
        ecn: Option<EcnCodepoint>,
    ) -> Carried {
        let Impairments {
            delay,
            jitter,
            corruption,
            gathered,
            ..
        } = self.impairments;
        let mut arrival = departure + delay + jitter.mul_f64(self.random.random());
        if let Some(way) = way
            && !gathered.is_zero()
        {
            let looked_at = self.gathering.entry(way).or_insert(arrival);
            if arrival > *looked_at {
                *looked_at = arrival + gathered;
            }
            arrival = *looked_at;
        }
        let is_intact = contents.is_empty() || !self.random.random_bool(corruption);
        if !is_intact {
            let bit = self.random.random_range(0..contents.len() * 8);
            contents[bit / 8] ^= 1 << (bit % 8);
        }
        Carried {
            arrival,
            contents,
            ecn,
            is_intact,
        }
    }
}

impl Bottleneck {
    /// A bottleneck without headers and without a limit at the sender's interface.
    pub(crate) fn new(bytes_per_second: u32, queue_bytes: u32) -> Self {
        Self {
            bytes_per_second,
            queue_bytes,
            interface_bytes_per_second: None,
            header_bytes: 0,
        }
    }
}

/// The state of a bottleneck.
#[derive(Clone, Copy)]
struct Queue {
    /// When the last datagram in the queue has passed.
    free: Instant,
    interface_free: Instant,
}

impl Queue {
    fn new(now: Instant) -> Self {
        Self {
            free: now,
            interface_free: now,
        }
    }
}

fn time_for(bytes: usize, bytes_per_second: u32) -> Duration {
    Duration::from_secs_f64(bytes as f64 / f64::from(bytes_per_second))
}

impl Ecn {
    fn mark(self, sent: EcnCodepoint) -> Option<EcnCodepoint> {
        match self {
            Self::Kept => Some(sent),
            Self::Bleached | Self::Dropped => None,
            Self::ForgedCe => Some(EcnCodepoint::Ce),
            Self::ForgedEct1 => Some(EcnCodepoint::Ect1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_has_used_the_bottleneck() {
        let mut link = Link::new(1);
        link.impairments = Impairments {
            loss: 0.5,
            bottleneck: Some(Bottleneck::new(1_000_000, 2_000_000)),
            ..Impairments::NONE
        };
        let now = crate::net::clock::now();
        let way = Some(Way { from: 0, to: 1 });
        let carried: Vec<_> = (0..1_000)
            .flat_map(|_| link.carry(now, way, vec![0; 1_000], None))
            .collect();
        assert!((450..550).contains(&carried.len()));
        let last = carried.iter().map(|carried| carried.arrival).max().unwrap();
        assert!(last - now > Duration::from_millis(980));
    }
}
