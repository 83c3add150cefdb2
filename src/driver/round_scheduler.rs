//! The order in which a driver and the tasks that it wakes run.

use std::mem;

use crate::proto::Load;

/// Decides from the last rounds of a driver whether the next round waits for other tasks.
///
/// tokio runs a task that another one has woken directly after it. So if many tasks have something
/// to send, the first of them would make the driver send its data in a datagram of its own, before
/// the second task can write. If the driver instead goes to the end of the runtime's queue once, it
/// sends the data of all tasks together.
///
/// But a task that goes to the end of the queue makes tokio wake an idle thread as well, which
/// takes longer than a ping. So the driver waits only if the last round has woken several tasks,
/// or if neither the last one nor this one has received anything.
///
/// During a bulk transfer there is always something to do, and reading the sockets alone takes
/// longer than a ping. So if a [light](Load::Light) turn has woken a single task, the driver lets
/// it run, and sends its answer before anything else.
#[derive(Default)]
pub(super) struct RoundScheduler {
    /// The number of tasks that the last round has woken.
    woken: usize,
    /// The number of tasks that light turns of the last round have woken.
    woken_by_light: usize,
    /// Whether the last round received nothing.
    only_sent: bool,
    /// Whether this round has already been put off.
    put_off: bool,
    /// Whether this round ends early for a task that it has woken.
    has_yielded: bool,
    /// Whether the round before ended early for a task.
    yielded_last_round: bool,
}

impl RoundScheduler {
    /// Whether light turns come before reading the sockets.
    pub(super) fn puts_light_first(&self) -> bool {
        self.woken_by_light <= 1
    }

    /// Decides whether this round is put off until other tasks have run; never twice in
    /// a row.
    pub(super) fn put_off_round(&mut self, has_received: bool) -> bool {
        let crowd = self.woken > 1 || (self.only_sent && !has_received);
        self.put_off = crowd && !self.put_off;
        self.put_off
    }

    /// Begins a round.
    pub(super) fn begin_round(&mut self, has_received: bool) {
        self.woken = 0;
        self.woken_by_light = 0;
        self.only_sent = !has_received;
        self.yielded_last_round = mem::take(&mut self.has_yielded);
    }

    /// Notes how many tasks a turn has woken.
    pub(super) fn note_turn(&mut self, load: Load, woken: usize) {
        self.woken += woken;
        if load == Load::Light {
            self.woken_by_light += woken;
        }
    }

    /// Decides whether this round leaves its heavy turns to the next one, so that a task runs that
    /// it has woken; never twice in a row. To be called when no light turns are left.
    pub(super) fn yield_to_woken(&mut self) -> bool {
        self.has_yielded |= self.woken_by_light > 0 && !self.yielded_last_round;
        self.has_yielded
    }

    /// Whether this round ended early for a task.
    pub(super) fn has_yielded(&self) -> bool {
        self.has_yielded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A round with these turns, each with the number of tasks that it has woken.
    fn round(scheduler: &mut RoundScheduler, has_received: bool, turns: &[(Load, usize)]) {
        scheduler.begin_round(has_received);
        for &(load, woken) in turns {
            scheduler.note_turn(load, woken);
        }
    }

    #[test]
    fn ping_is_answered_at_once() {
        let mut scheduler = RoundScheduler::default();
        for _ in 0..3 {
            assert!(scheduler.puts_light_first());
            assert!(!scheduler.put_off_round(true));
            round(&mut scheduler, true, &[(Load::Light, 1)]);
            assert!(!scheduler.put_off_round(false));
            round(&mut scheduler, false, &[]);
        }
    }

    #[test]
    fn tasks_that_were_woken_together_are_sent_for_together() {
        for load in [Load::Light, Load::Heavy] {
            let mut scheduler = RoundScheduler::default();
            assert!(!scheduler.put_off_round(true));
            round(&mut scheduler, true, &[(load, 1), (load, 2)]);
            assert_eq!(scheduler.puts_light_first(), load == Load::Heavy);
            assert!(scheduler.put_off_round(false));
            assert!(!scheduler.put_off_round(false));
            round(&mut scheduler, false, &[]);
        }
    }

    #[test]
    fn one_round_of_output_after_another_waits_for_more() {
        let mut scheduler = RoundScheduler::default();
        round(&mut scheduler, false, &[]);
        for _ in 0..3 {
            assert!(scheduler.put_off_round(false));
            assert!(!scheduler.put_off_round(false));
            round(&mut scheduler, false, &[]);
        }
        assert!(!scheduler.put_off_round(true));
    }

    #[test]
    fn transfer_yields_to_the_answer_to_a_ping_every_other_round() {
        let mut scheduler = RoundScheduler::default();
        for _ in 0..3 {
            round(&mut scheduler, true, &[(Load::Light, 1)]);
            assert!(scheduler.yield_to_woken() && scheduler.has_yielded());
            assert!(scheduler.puts_light_first());
            round(&mut scheduler, true, &[(Load::Light, 1)]);
            assert!(!scheduler.yield_to_woken() && !scheduler.has_yielded());
        }
    }

    #[test]
    fn transfer_does_not_yield_to_itself() {
        let mut scheduler = RoundScheduler::default();
        round(&mut scheduler, true, &[(Load::Light, 0), (Load::Heavy, 1)]);
        assert!(!scheduler.yield_to_woken());
    }
}
