//! In what order a driver and the tasks that it wakes take their turns.

use std::mem;

use crate::proto::Load;

/// Looks at how the last rounds of a driver have come about.
///
/// tokio runs a task that was woken by another one right after it. So the first of many tasks that has something
/// to send would have the driver send it, alone in its datagram, before the second one gets to write. Once
/// round the queue of the runtime, and what all of them have written goes out together.
///
/// But a task that goes round the queue has tokio wake an idle thread as well, which takes longer than a ping.
/// So the driver only waits where it has seen a crowd.
///
/// Beside a transfer there is always something to do: reading the sockets alone takes longer than a ping. So the driver
/// makes way for a single task that was woken by a [light](Load::Light) turn, and sends its answer before anything else.
#[derive(Default)]
pub(super) struct Pace {
    /// Tasks that the last round has woken.
    woken: usize,
    /// Those of them that light turns have woken.
    woken_by_light: usize,
    /// Whether the last round was for output only.
    only_sent: bool,
    /// Whether this round was put off already.
    has_waited: bool,
    /// Whether this round ends for a task that it has woken.
    makes_way: bool,
    /// Whether the one before has done so.
    made_way: bool,
}

impl Pace {
    /// Whether light turns come before reading the sockets.
    pub(super) fn sends_first(&self) -> bool {
        self.woken_by_light <= 1
    }

    /// Whether this round should wait until others have run; never twice in a row.
    pub(super) fn waits(&mut self, has_received: bool) -> bool {
        let crowd = self.woken > 1 || (self.only_sent && !has_received);
        self.has_waited = crowd && !self.has_waited;
        self.has_waited
    }

    /// A round begins.
    pub(super) fn begin(&mut self, has_received: bool) {
        self.woken = 0;
        self.woken_by_light = 0;
        self.only_sent = !has_received;
        self.made_way = mem::take(&mut self.makes_way);
    }

    /// A turn has woken so many tasks.
    pub(super) fn note(&mut self, load: Load, woken: usize) {
        self.woken += woken;
        if load == Load::Light {
            self.woken_by_light += woken;
        }
    }

    /// Whether to leave heavy turns to the next round, now that there are no others; never twice in a row.
    pub(super) fn makes_way(&mut self) -> bool {
        self.makes_way |= self.woken_by_light > 0 && !self.made_way;
        self.makes_way
    }

    /// Whether this round has made way for a task.
    pub(super) fn has_made_way(&self) -> bool {
        self.makes_way
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A round in which these turns have woken so many tasks.
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
