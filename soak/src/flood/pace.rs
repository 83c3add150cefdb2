//! So many a second.

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
    /// At least one.
    pub fn begin(per_second: u64) -> Self {
        Self {
            start: Instant::now(),
            per_second: per_second.max(1),
            done: 0,
        }
    }

    /// Another one is done; waits until it is time for the next.
    pub fn wait(&mut self) {
        self.done += 1;
        let due = Duration::from_nanos(self.done * 1_000_000_000 / self.per_second);
        // A few at a time: the scheduler has its own idea of how long it sleeps.
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
