//! A running attack: what it has sent, its rate, and its end.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use super::Attacked;

pub struct Run<'a> {
    stop: &'a AtomicBool,
    start: Instant,
    /// When the next datagram may be sent.
    due: Instant,
    bits_per_second: u64,
    /// How long answers may take.
    pub linger: Duration,
    pub attacked: Attacked,
}

impl<'a> Run<'a> {
    pub fn begin(stop: &'a AtomicBool, megabits: u64, linger: Duration) -> Self {
        let start = Instant::now();
        Self {
            stop,
            start,
            due: start,
            bits_per_second: megabits * 1_000_000,
            linger,
            attacked: Attacked::default(),
        }
    }

    /// Whether to go on: until it is told to stop, or has lasted as long or sent as much as any
    /// attack may.
    pub fn goes_on(&self) -> bool {
        !self.stop.load(Relaxed)
            && self.start.elapsed() < LONGEST
            && self.attacked.bytes < MOST_BYTES
    }

    /// Notes that this much UDP payload was sent; waits until more may be sent.
    pub fn sent(&mut self, datagrams: u64, bytes: usize) {
        self.attacked.datagrams += datagrams;
        self.attacked.bytes += bytes as u64;
        let on_the_wire = bytes as u64 + datagrams * HEADERS;
        let time = Duration::from_nanos(on_the_wire * 8_000_000_000 / self.bits_per_second);
        // Delays are not made up for later, because that would change the rate.
        self.due = self.due.max(Instant::now() - CATCH_UP) + time;
        let early = self.due.saturating_duration_since(Instant::now());
        // Several at a time, because sleeping is imprecise.
        if early > TICK {
            thread::sleep(early);
        }
    }

    /// Waits to be told to stop, after everything is done.
    pub fn wait(&self) {
        while self.goes_on() {
            thread::sleep(TICK);
        }
    }

    pub fn end(mut self) -> Attacked {
        self.attacked.seconds = self.start.elapsed().as_secs_f64();
        self.attacked
    }
}

/// Longest duration of an attack.
const LONGEST: Duration = Duration::from_secs(120);

/// Most UDP payload of an attack; a victim that holds twice as much is at its limit.
const MOST_BYTES: u64 = 1_500_000_000;

/// Bytes of the headers of IPv4, UDP and Ethernet.
const HEADERS: u64 = 20 + 8 + 14;

const CATCH_UP: Duration = Duration::from_millis(20);

const TICK: Duration = Duration::from_millis(1);
