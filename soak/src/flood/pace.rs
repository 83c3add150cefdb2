//! Limits a rate.

use std::{
    thread,
    time::{Duration, Instant},
};

pub struct Pace {
    start: Instant,
    per_second: u64,
    done: u64,
}

impl Pace {
    /// The rate must be at least one.
    pub fn begin(per_second: u64) -> Self {
        Self {
            start: Instant::now(),
            per_second: per_second.max(1),
            done: 0,
        }
    }

    /// Call after each item: waits until the next one is due.
    pub fn wait(&mut self) {
        self.done += 1;
        let due = Duration::from_nanos(self.done * 1_000_000_000 / self.per_second);
        // Several at a time, because sleeping is imprecise.
        if let Some(early) = due.checked_sub(self.elapsed())
            && early > TICK
        {
            thread::sleep(early);
        }
    }

    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}

const TICK: Duration = Duration::from_millis(1);
