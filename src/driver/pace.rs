//! Whether a driver lets the application's tasks run before it sends what they have written.

/// Looks at how the last rounds of a driver have come about.
///
/// tokio runs a task that was woken by another one right after it. So the first of many tasks that has something
/// to send would have the driver send it, alone in its datagram, before the second one gets to write. Once
/// round the queue of the runtime, and what all of them have written goes out together.
///
/// But a task that goes round the queue has tokio wake an idle thread as well, which takes longer than a ping.
/// So the driver only waits where it has seen a crowd.
#[derive(Default)]
pub(super) struct Pace {
    /// Tasks that the last round has woken.
    woken: usize,
    /// Whether the last round was for output only.
    only_sent: bool,
    /// Whether this round was put off already.
    has_waited: bool,
}

impl Pace {
    /// Whether this round should wait until others have run; never twice in a row.
    pub(super) fn waits(&mut self, has_received: bool) -> bool {
        let crowd = self.woken > 1 || (self.only_sent && !has_received);
        self.has_waited = crowd && !self.has_waited;
        self.has_waited
    }

    /// A round is over that has woken so many tasks.
    pub(super) fn note(&mut self, has_received: bool, woken: usize) {
        self.woken = woken;
        self.only_sent = !has_received;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ping_is_answered_at_once() {
        let mut pace = Pace::default();
        for _ in 0..3 {
            assert!(!pace.waits(true));
            pace.note(true, 1);
            assert!(!pace.waits(false));
            pace.note(false, 0);
        }
    }

    #[test]
    fn tasks_that_were_woken_together_are_sent_for_together() {
        let mut pace = Pace::default();
        assert!(!pace.waits(true));
        pace.note(true, 3);
        assert!(pace.waits(false));
        assert!(!pace.waits(false));
        pace.note(false, 0);
    }

    #[test]
    fn one_round_of_output_after_another_waits_for_more() {
        let mut pace = Pace::default();
        pace.note(false, 0);
        for _ in 0..3 {
            assert!(pace.waits(false));
            assert!(!pace.waits(false));
            pace.note(false, 0);
        }
        assert!(!pace.waits(true));
    }
}
