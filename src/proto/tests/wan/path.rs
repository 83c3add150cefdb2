//! A path, and what is sent on it: `rate=1000,rtt=63,loss=0.1`.

use std::{fmt, time::Duration};

use super::super::link::{Bottleneck, Impairments};

/// IPv4 and UDP.
const HEADER_BYTES: usize = 28;

/// The fastest interface there is.
const INTERFACE_BYTES_PER_SECOND: u32 = 1_250_000_000;

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
    /// Whether quinn-proto's congestion control is used in place of ours, and windows do not grow.
    pub(super) is_quinn: bool,
    /// Bytes of each write.
    pub(super) write: usize,
    /// In Mb/s, what the reader takes at most; 0 is as fast as it comes.
    reads: f64,
    pub(super) flows: u32,
    seconds: f64,
    pub(super) seed: u64,
}

impl WanPath {
    pub(super) fn parse(text: &str) -> Self {
        let mut path = Self {
            rate: 100.0,
            rtt: 63.0,
            loss: 0.0,
            queue: 1.0,
            windows: 0,
            is_quinn: false,
            write: 64 * 1024,
            reads: 0.0,
            flows: 1,
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
                "quinn" => path.is_quinn = number != 0.0,
                "write" => path.write = number as usize,
                "reads" => path.reads = number,
                "flows" => path.flows = number as u32,
                "seconds" => path.seconds = number,
                "seed" => path.seed = number as u64,
                _ => panic!("no part of a path: {name}"),
            }
        }
        path
    }

    pub(super) fn time(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// How long the reader takes for so many bytes.
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
            is_quinn,
            write,
            reads,
            flows,
            seconds,
            seed,
        } = self;
        write!(
            f,
            "rate={rate},rtt={rtt},loss={loss},queue={queue},windows={windows},quinn={},\
             write={write},reads={reads},flows={flows},seconds={seconds},seed={seed}",
            u8::from(*is_quinn)
        )
    }
}
