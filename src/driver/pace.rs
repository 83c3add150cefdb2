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
/// takes longer than a ping. So the driver waits only if recent rounds have woken several tasks.
///
/// During a bulk transfer there is always something to do, and reading the sockets alone takes
/// longer than a ping. So if a [light](Load::Light) turn has woken a single task, the driver lets
/// it run, and sends its answer before anything else.
#[derive(Default)]
pub(super) struct Pace {
    /// The number of tasks that the last round has woken.
    woken: usize,
    /// The number of tasks that light turns of the last round have woken.
    woken_by_light: usize,
    /// Whether the last round received nothing.
    only_sent: bool,
    /// Whether this round has already been put off.
    has_waited: bool,
    /// Whether this round ends early for a task that it has woken.
    makes_way: bool,
    /// Whether the round before ended early for a task.
    made_way: bool,
}

impl Pace {
    /// Whether light turns come before reading the sockets.
    pub(super) fn sends_first(&self) -> bool {
        self.woken_by_light <= 1
    }

    /// Whether to put this round off until other tasks have run; never twice in a row.
    pub(super) fn waits(&mut self, has_received: bool) -> bool {
        let crowd = self.woken > 1 || (self.only_sent && !has_received);
        self.has_waited = crowd && !self.has_waited;
        self.has_waited
    }

    /// Begins a round.
    pub(super) fn begin(&mut self, has_received: bool) {
        self.woken = 0;
        self.woken_by_light = 0;
        self.only_sent = !has_received;
        self.made_way = mem::take(&mut self.makes_way);
    }

    /// Notes how many tasks a turn has woken.
    pub(super) fn note(&mut self, load: Load, woken: usize) {
        self.woken += woken;
        if load == Load::Light {
            self.woken_by_light += woken;
        }
    }

    /// Whether to leave heavy turns to the next round, to be called when no light ones are left;
    /// never twice in a row.
    pub(super) fn makes_way(&mut self) -> bool {
        self.makes_way |= self.woken_by_light > 0 && !self.made_way;
        self.makes_way
    }

    /// Whether this round ended early for a task.
    pub(super) fn has_made_way(&self) -> bool {
        self.makes_way
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A round with these turns, each with the number of tasks that it has woken.
    fn round(pace: &mut Pace, has_received: bool, turns: &[(Load, usize)]) {
        pace.begin(has_received);
        for &(load, woken) in turns {
            pace.note(load, woken);
        }
    }

    #[test]
    fn ping_is_answered_at_once() {
        let mut pace = Pace::default();
        for _ in 0..3 {
            assert!(pace.sends_first());
            assert!(!pace.waits(true));
            round(&mut pace, true, &[(Load::Light, 1)]);
            assert!(!pace.waits(false));
            round(&mut pace, false, &[]);
        }
    }

    #[test]
    fn tasks_that_were_woken_together_are_sent_for_together() {
        for load in [Load::Light, Load::Heavy] {
            let mut pace = Pace::default();
            assert!(!pace.waits(true));
            round(&mut pace, true, &[(load, 1), (load, 2)]);
            assert_eq!(pace.sends_first(), load == Load::Heavy);
            assert!(pace.waits(false));
            assert!(!pace.waits(false));
            round(&mut pace, false, &[]);
        }
    }

    #[test]
    fn one_round_of_output_after_another_waits_for_more() {
        let mut pace = Pace::default();
        round(&mut pace, false, &[]);
        for _ in 0..3 {
            assert!(pace.waits(false));
            assert!(!pace.waits(false));
            round(&mut pace, false, &[]);
        }
        assert!(!pace.waits(true));
    }

    #[test]
    fn transfer_makes_way_for_the_answer_to_a_ping_every_other_round() {
        let mut pace = Pace::default();
        for _ in 0..3 {
            round(&mut pace, true, &[(Load::Light, 1)]);
            assert!(pace.makes_way() && pace.has_made_way());
            assert!(pace.sends_first());
            round(&mut pace, true, &[(Load::Light, 1)]);
            assert!(!pace.makes_way() && !pace.has_made_way());
        }
    }

    #[test]
    fn transfer_does_not_make_way_for_itself() {
        let mut pace = Pace::default();
        round(&mut pace, true, &[(Load::Light, 0), (Load::Heavy, 1)]);
        assert!(!pace.makes_way());
    }
}
