//! Gives turns to connections.

use std::{
    task::Context,
    time::{Duration, Instant},
};

use super::Driver;
use crate::{driver::wakers, net::clock, proto::Meter};

/// The most turns that are given without a pause. A round gives turns up to three times: light ones
/// before it reads, then any, and any again after requests.
const TURNS_PER_SERVE: usize = 32;

/// For how long turns are begun; then the driver does the rest of its round, and other tasks of the
/// runtime run. Turns after requests have the same time again. Light turns before reading have no
/// limit on their time, only on their number.
///
/// A ping during a bulk transfer waits for the end of a round at both hosts, in both directions.
const SERVE_TIME: Duration = Duration::from_micros(100);

impl Driver {
    /// Gives turns to connections.
    pub(super) fn serve(&mut self) {
        let began = clock::now();
        self.slabs.free_spare(began);
        (self.shard).begin_turns(began, &mut self.outbound, &mut self.wakers);
        wakers::wake(self.wakers.drain(..));
        for _ in 0..TURNS_PER_SERVE {
            // The time of each turn, because round-trip times are measured from it.
            let now = clock::now();
            if now - began > SERVE_TIME || !self.shard.has_ready() {
                break;
            }
            if !self.shard.has_light() && self.scheduler.yield_to_woken() {
                break;
            }
            self.serve_one(now);
        }
    }

    /// Gives turns to connections that are expected to have little to do.
    pub(super) fn serve_light(&mut self) {
        for _ in 0..TURNS_PER_SERVE {
            if !self.shard.has_light() {
                break;
            }
            self.serve_one(clock::now());
        }
    }

    /// Gives one connection a turn, and wakes the tasks that waited for it.
    pub(super) fn serve_one(&mut self, now: Instant) {
        let served = (self.shard).serve(now, &Clocks, &mut self.outbound, &mut self.wakers);
        if let Some(load) = served {
            self.scheduler.note_turn(load, self.wakers.len());
        }
        wakers::wake(self.wakers.drain(..));
    }

    /// Lets connections whose socket is writable again have turns.
    pub(super) fn unblock(&mut self, cx: &mut Context<'_>) {
        if self.outbound.poll_writable(cx).is_ready() {
            self.shard.unblock();
        }
    }
}

/// The clocks that measure turns.
pub(super) struct Clocks;

impl Meter for Clocks {
    fn now(&self) -> Instant {
        clock::now()
    }

    fn cpu_time(&self) -> Duration {
        clock::thread_cpu_time()
    }
}
