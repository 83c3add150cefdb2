//! What a network does to datagrams.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use quinn_proto::EcnCodepoint;
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// How a link treats datagrams. Probabilities are per datagram.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Impairments {
    /// One-way delay.
    pub(crate) delay: Duration,
    /// Up to this much more, apart for each datagram, so that some overtake others.
    pub(crate) jitter: Duration,
    pub(crate) loss: f64,
    /// Of so many datagrams one is lost, in addition.
    pub(crate) lose_every: Option<u64>,
    pub(crate) duplication: f64,
    /// One bit is flipped.
    pub(crate) corruption: f64,
    /// Larger datagrams vanish, in bytes of UDP payload.
    pub(crate) mtu: usize,
    /// Where datagrams queue up, in each direction of each pair of nodes; `None` is as fast as they come.
    pub(crate) bottleneck: Option<Bottleneck>,
    pub(crate) ecn: Ecn,
}

/// The slowest part of a way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bottleneck {
    pub(crate) bytes_per_second: u32,
    /// Datagrams that find so much before them vanish, in bytes.
    pub(crate) queue_bytes: u32,
}

/// What becomes of the ECN bits of a marked datagram (RFC 3168 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ecn {
    Kept,
    /// Not-ECT, as routers have it that know the old meaning of the bits.
    Bleached,
    /// Congestion experienced, whether there is any or not.
    ForgedCe,
    /// ECT(1), which nobody has sent.
    ForgedEct1,
    /// The datagram is dropped for them.
    Dropped,
}

impl Impairments {
    /// A round trip of 20 ms, and Ethernet.
    pub(crate) const NONE: Self = Self {
        delay: Duration::from_millis(10),
        jitter: Duration::ZERO,
        loss: 0.0,
        lose_every: None,
        duplication: 0.0,
        corruption: 0.0,
        mtu: 1472,
        bottleneck: None,
        ecn: Ecn::Kept,
    };

    /// Nothing arrives.
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

/// The links of a network, and the luck of the datagrams on them.
pub(crate) struct Link {
    pub(crate) impairments: Impairments,
    random: StdRng,
    /// When the last datagram that queues up at the bottleneck has passed it.
    queues: BTreeMap<Way, Instant>,
    /// Nothing arrives until then.
    cut: BTreeMap<Way, Instant>,
    carried: u64,
}

/// A datagram as it comes out of a link.
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
            cut: BTreeMap::new(),
            carried: 0,
        }
    }

    /// Nothing gets through this way until then.
    pub(crate) fn cut(&mut self, way: Way, until: Instant) {
        self.cut.insert(way, until);
    }

    /// When a datagram that is sent `now` arrives, and what is left of it: nothing, once, or twice.
    ///
    /// `way` is `None` if it leads to no node.
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
                carried[1] = Some(self.arrive(departure, contents.clone(), ecn));
            }
            carried[0] = Some(self.arrive(departure, contents, ecn));
        }
        carried.into_iter().flatten()
    }

    /// When a datagram has passed the bottleneck, if it does.
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
        if is_cut || len > mtu || self.random.random_bool(loss) {
            return None;
        }
        let (Some(way), Some(bottleneck)) = (way, bottleneck) else {
            return Some(now);
        };
        let free = self.queues.entry(way).or_insert(now);
        let before = free.saturating_duration_since(now);
        if before > bottleneck.time_for(bottleneck.queue_bytes as usize) {
            return None;
        }
        *free = now + before + bottleneck.time_for(len);
        Some(*free)
    }

    fn arrive(
        &mut self,
        departure: Instant,
        mut contents: Vec<u8>,
        ecn: Option<EcnCodepoint>,
    ) -> Carried {
        let Impairments {
            delay,
            jitter,
            corruption,
            ..
        } = self.impairments;
        let arrival = departure + delay + jitter.mul_f64(self.random.random());
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
    fn time_for(self, bytes: usize) -> Duration {
        Duration::from_secs_f64(bytes as f64 / f64::from(self.bytes_per_second))
    }
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
