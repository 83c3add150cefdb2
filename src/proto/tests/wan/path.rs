//! A path, and what is sent on it: `rate=1000,rtt=63,loss=0.1`.

use std::{fmt, time::Duration};

use super::super::link::{Bottleneck, Impairments};

/// IPv4 and UDP.
const HEADER_BYTES: usize = 28;

/// The fastest interface there is.
const INTERFACE_BYTES_PER_SECOND: u32 = 1_250_000_000;

/// A full datagram, with its headers.
const DATAGRAM_BYTES: f64 = 1_480.0;

/// How long hosts gather what arrives.
const GATHERED: Duration = Duration::from_micros(50);

#[derive(Clone, Copy, Debug)]
pub(super) struct WanPath {
    /// In Mb/s.
    pub(super) rate: f64,
    /// In ms.
    rtt: f64,
    /// In percent, in both directions.
    loss: f64,
    /// In products of rate and round trip.
    queue: f64,
    /// All windows, in MB; 0 is as they are by default.
    pub(super) windows: u32,
    /// Whether the preset for throughput is used.
    pub(super) is_for_throughput: bool,
    /// Whether NewReno is used.
    pub(super) is_reno: bool,
    /// Whether BBR is used.
    pub(super) is_bbr: bool,
    /// CUBIC and BBR in turn, for one connection after another.
    pub(super) rivals: Rivals,
    /// Whether quinn-proto's congestion control is used in place of ours, and windows do not grow.
    pub(super) is_quinn: bool,
    /// Bytes of each write.
    write: usize,
    /// In Mb/s, what the reader takes at most; 0 is as fast as it comes.
    reads: f64,
    pub(super) flows: u32,
    /// In seconds, by how much one flow begins after another.
    apart: f64,
    /// In ms, how often the last flow writes, once each time; 0 is as often as anything is taken.
    /// If it is answered, how long it is silent after each answer.
    every: f64,
    /// Bytes with which each write of the last flow is answered, before it writes again; 0 is
    /// without answers.
    answer: usize,
    pub(super) back: Back,
    /// Whether paths are remembered.
    pub(super) remembers: bool,
    /// In Mb/s, the rate while an earlier connection transfers 40 MB; 0 is without one.
    before: f64,
    /// In ms, by how much timers are late at most.
    late: f64,
    seconds: f64,
    pub(super) seed: u64,
}

/// What the listener sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Back {
    Nothing,
    /// As much as the dialer, on a stream of its own.
    AsMuch,
    /// What it has read, on the same stream.
    Echo,
}

/// When a flow writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writing {
    /// As long as anything is taken.
    Always,
    /// Once, and again after each pause.
    NowAndThen { pause: Duration },
    /// Once, and again after each pause that follows an answer of `answer` bytes.
    Asking { answer: usize, pause: Duration },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rivals {
    No,
    CubicFirst,
    BbrFirst,
}

impl WanPath {
    pub(super) fn parse(text: &str) -> Self {
        let mut path = Self {
            rate: 100.0,
            rtt: 63.0,
            loss: 0.0,
            queue: 1.0,
            windows: 0,
            is_for_throughput: false,
            is_reno: false,
            is_bbr: false,
            rivals: Rivals::No,
            is_quinn: false,
            write: 64 * 1024,
            reads: 0.0,
            flows: 1,
            apart: 1.0,
            every: 0.0,
            answer: 0,
            back: Back::Nothing,
            remembers: false,
            before: 0.0,
            late: 0.0,
            seconds: 20.0,
            seed: 1,
        };
        for part in text.split(',') {
            let (name, value) = part.split_once('=').expect("NAME=VALUE");
            let number: f64 = value.parse().expect("a number");
            match name {
                "rate" => path.rate = number,
                "rtt" => path.rtt = number,
                "loss" => path.loss = number,
                "queue" => path.queue = number,
                "windows" => path.windows = number as u32,
                "throughput" => path.is_for_throughput = number != 0.0,
                "reno" => path.is_reno = number != 0.0,
                "bbr" => path.is_bbr = number != 0.0,
                "rivals" => {
                    path.rivals = match value {
                        "0" => Rivals::No,
                        "1" => Rivals::CubicFirst,
                        "2" => Rivals::BbrFirst,
                        _ => panic!("no rivals: {value}"),
                    }
                }
                "quinn" => path.is_quinn = number != 0.0,
                "write" => path.write = number as usize,
                "reads" => path.reads = number,
                "flows" => path.flows = number as u32,
                "apart" => path.apart = number,
                "every" => path.every = number,
                "answer" => path.answer = number as usize,
                "back" => {
                    path.back = match value {
                        "0" => Back::Nothing,
                        "1" => Back::AsMuch,
                        "2" => Back::Echo,
                        _ => panic!("nothing to send back: {value}"),
                    }
                }
                "remembers" => path.remembers = number != 0.0,
                "before" => path.before = number,
                "late" => path.late = number,
                "seconds" => path.seconds = number,
                "seed" => path.seed = number as u64,
                _ => panic!("no part of a path: {name}"),
            }
        }
        path
    }

    /// The path as it was for the earlier connection, if there was one.
    pub(super) fn earlier(&self) -> Option<Self> {
        (self.before > 0.0).then_some(Self {
            rate: self.before,
            ..*self
        })
    }

    pub(super) fn time(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// When a flow begins, after the first one.
    pub(super) fn beginning(&self, flow: u32) -> Duration {
        Duration::from_secs_f64(self.apart * f64::from(flow))
    }

    /// How a flow writes.
    pub(super) fn writing(&self, flow: u32) -> Writing {
        let pause = Duration::from_secs_f64(self.every / 1e3);
        match (self.every > 0.0, self.answer) {
            (false, 0) => Writing::Always,
            _ if flow + 1 < self.flows => Writing::Always,
            (true, 0) => Writing::NowAndThen { pause },
            (_, answer) => Writing::Asking { answer, pause },
        }
    }

    /// Bytes of each write of a flow.
    pub(super) fn write(&self, flow: u32) -> usize {
        let is_beside = self.every > 0.0 || self.answer > 0;
        if is_beside && self.writing(flow) == Writing::Always {
            64 * 1024
        } else {
            self.write
        }
    }

    /// The round trip of a full datagram without a queue, which passes the bottleneck and is
    /// gathered at both ends. That of a small answer is left out.
    pub(super) fn round_trip(&self) -> Duration {
        let sending = DATAGRAM_BYTES * 8.0 / (self.rate * 1e6);
        Duration::from_secs_f64(self.rtt / 1e3 + sending) + 2 * GATHERED
    }

    /// By how much timers are late at most.
    pub(super) fn lateness(&self) -> Duration {
        Duration::from_secs_f64(self.late / 1e3)
    }

    /// How many flows there are: one of each connection, or one in each direction.
    pub(super) fn flow_count(&self) -> usize {
        let of_each = if self.back == Back::Nothing { 1 } else { 2 };
        of_each * self.flows as usize
    }

    /// How long the reader takes for `bytes` bytes.
    pub(super) fn reading_time(&self, bytes: usize) -> Duration {
        if self.reads == 0.0 {
            return Duration::ZERO;
        }
        Duration::from_secs_f64(bytes as f64 * 8.0 / (self.reads * 1e6))
    }

    pub(super) fn impairments(&self) -> Impairments {
        let bytes_per_second = self.rate * 1e6 / 8.0;
        let product = bytes_per_second * self.rtt / 1e3;
        Impairments {
            delay: Duration::from_secs_f64(self.rtt / 2e3),
            loss: self.loss / 100.0,
            bottleneck: Some(Bottleneck {
                bytes_per_second: bytes_per_second as u32,
                // Two datagrams at least.
                queue_bytes: (product * self.queue).max(3000.0) as u32,
                interface_bytes_per_second: Some(INTERFACE_BYTES_PER_SECOND),
                header_bytes: HEADER_BYTES,
            }),
            gathered: GATHERED,
            ..Impairments::NONE
        }
    }
}

impl fmt::Display for WanPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            rate,
            rtt,
            loss,
            queue,
            windows,
            is_for_throughput,
            is_reno,
            is_bbr,
            rivals,
            is_quinn,
            write,
            reads,
            flows,
            apart,
            every,
            answer,
            back,
            remembers,
            before,
            late,
            seconds,
            seed,
        } = self;
        write!(
            f,
            "rate={rate},rtt={rtt},loss={loss},queue={queue},windows={windows},\
             throughput={},reno={},bbr={},rivals={},quinn={},\
             write={write},reads={reads},flows={flows},apart={apart},every={every},\
             answer={answer},back={},remembers={},before={before},late={late},\
             seconds={seconds},seed={seed}",
            u8::from(*is_for_throughput),
            u8::from(*is_reno),
            u8::from(*is_bbr),
            *rivals as u8,
            u8::from(*is_quinn),
            *back as u8,
            u8::from(*remembers),
        )
    }
}
