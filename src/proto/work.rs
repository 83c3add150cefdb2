//! Limits on the work that the datagrams of a connection cause, and how long a connection waits
//! that exceeds them.

use std::{
    cmp,
    collections::BTreeMap,
    mem,
    time::{Duration, Instant},
};

use quinn_proto::ConnectionHandle;

/// The clocks that measure a turn.
pub(crate) trait Meter {
    /// The current time.
    fn now(&self) -> Instant;

    /// CPU time of the thread since an arbitrary moment. Reading it costs a system call.
    fn cpu_time(&self) -> Duration;
}

/// The CPU time that one connection's incoming datagrams have cost.
///
/// Each datagram earns the connection time for handling it, many times what an honest one needs. A
/// connection that uses more than it has earned is in debt, and its next turn has to wait (see
/// [`Debtors`]).
///
/// The wall clock is read after each datagram, because that costs almost nothing. But it also runs
/// while the kernel gives the CPU to another thread. So a debt by the wall clock only makes a
/// connection suspect, and the turns of a suspect connection are measured in CPU time as well.
#[derive(Clone, Copy, Debug)]
pub(super) struct Account {
    /// Time that was earned and not used.
    credit: Duration,
    /// When it last earned time by waiting.
    earned_at: Option<Instant>,
    suspect_until: Option<Instant>,
    /// All CPU time used in turns that were measured in CPU time.
    used: Duration,
    /// A debt that is too small to wait for. Earned time pays it first.
    owed: Duration,
}

/// Measures one turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stopwatch {
    began: Instant,
    cpu_began: Option<Duration>,
}

impl Account {
    pub(super) fn new() -> Self {
        Self {
            credit: MAX_CREDIT,
            earned_at: None,
            suspect_until: None,
            used: Duration::ZERO,
            owed: Duration::ZERO,
        }
    }

    /// Begins to measure a turn. Turns of a handshake are always measured in CPU time.
    pub(super) fn begin(
        &mut self,
        now: Instant,
        is_handshake: bool,
        meter: &impl Meter,
    ) -> Stopwatch {
        if self.suspect_until.is_some_and(|until| until <= now) {
            self.suspect_until = None;
        }
        let is_suspect = is_handshake || self.suspect_until.is_some();
        Stopwatch {
            began: now,
            cpu_began: is_suspect.then(|| meter.cpu_time()),
        }
    }

    /// Adds time for datagrams that were received or sent.
    pub(super) fn earn(&mut self, datagrams: u64, bytes: usize) {
        self.save(
            EARNED_PER_DATAGRAM * u32::try_from(datagrams).unwrap_or(u32::MAX)
                + EARNED_PER_BYTE * u32::try_from(bytes).unwrap_or(u32::MAX),
        );
    }

    /// Adds time for waiting, which `connections` share. Small packets that arrive one by one may
    /// cost more than they earn, because their data is no longer in the CPU's caches.
    pub(super) fn earn_by_waiting(&mut self, now: Instant, connections: usize) {
        let since = self.earned_at.replace(now).unwrap_or(now);
        let waited = now.saturating_duration_since(since);
        let shares = u32::try_from(connections).unwrap_or(u32::MAX).max(1);
        self.save(waited / TIME_PER_WAITING / shares);
    }

    fn save(&mut self, earned: Duration) {
        let paid = cmp::min(earned, self.owed);
        self.owed -= paid;
        self.credit = cmp::min(self.credit + (earned - paid), MAX_CREDIT);
    }

    /// Bills a turn. Returns its cost beyond all time that was earned, if any.
    pub(super) fn bill(&mut self, stopwatch: Stopwatch, meter: &impl Meter) -> Option<Duration> {
        let now = meter.now();
        let wall = now.saturating_duration_since(stopwatch.began);
        let cost = match stopwatch.cpu_began {
            // CPU time never exceeds wall-clock time, but the two clocks are not read at the same
            // moment.
            Some(began) => cmp::min(wall, meter.cpu_time().saturating_sub(began)),
            None => wall,
        };
        if stopwatch.cpu_began.is_some() {
            self.used += cost;
        }
        let debt = cost.checked_sub(self.credit).filter(|debt| !debt.is_zero());
        self.credit = self.credit.saturating_sub(cost);
        let debt = debt?;
        self.suspect_until = Some(now + SUSPICION);
        stopwatch.cpu_began?;
        self.owed += debt;
        (self.owed >= LEAST_DEBT).then(|| mem::take(&mut self.owed))
    }

    /// CPU time used in turns that were measured in CPU time. For a handshake, that is all of it.
    pub(super) fn used(&self) -> Duration {
        self.used
    }
}

/// Connections that wait because they are in debt.
///
/// Each debt takes ten times as long as the debt, and all of them are paid at the same time, each
/// with the same part of the time. So connections that cost more than they earn have at most a
/// tenth of the time, however many there are, and a small debt does not wait for large ones. A
/// connection that leaves takes the rest of its debt with it.
#[derive(Debug, Default)]
pub(super) struct Debtors {
    /// In the order in which their debts are paid.
    waiting: BTreeMap<Debt, ConnectionHandle>,
    /// What each debt has been paid that was there since `waiting` was last empty, as of `paid_at`.
    paid: Duration,
    paid_at: Option<Instant>,
    added: u64,
}

/// A debt of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Debt {
    /// The value of [`Debtors::paid`] with which it is paid.
    until: Duration,
    number: u64,
}

impl Debtors {
    pub(super) fn add(&mut self, now: Instant, handle: ConnectionHandle, debt: Duration) -> Debt {
        self.pay(now);
        let debt = Debt {
            until: self.paid + debt * TIME_PER_DEBT,
            number: self.added,
        };
        self.added += 1;
        self.waiting.insert(debt, handle);
        debt
    }

    /// Removes a debt that its connection need not pay any more.
    pub(super) fn remove(&mut self, debt: Debt) {
        self.waiting.remove(&debt);
    }

    /// When the next debt is paid.
    pub(super) fn first(&self) -> Option<Instant> {
        let (debt, _) = self.waiting.first_key_value()?;
        Some(self.paid_at? + debt.until.saturating_sub(self.paid) * self.sharers())
    }

    /// Removes a connection whose debt is paid, and returns it with the debt.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<(Debt, ConnectionHandle)> {
        let due = self.first()?;
        if due > now {
            // So that time does not count twice when one is removed.
            self.pay(now);
            return None;
        }
        let first = self.waiting.pop_first()?;
        self.paid = first.0.until;
        self.paid_at = Some(due);
        Some(first)
    }

    /// Pays all debts with the time that has passed, as far as the first one goes.
    fn pay(&mut self, now: Instant) {
        let paid_at = self.paid_at.replace(now).unwrap_or(now);
        let Some((first, _)) = self.waiting.first_key_value() else {
            self.paid = Duration::ZERO;
            return;
        };
        let each = now.saturating_duration_since(paid_at) / self.sharers();
        self.paid = cmp::min(self.paid + each, first.until);
    }

    /// The number of debts among which time is divided; at least one.
    fn sharers(&self) -> u32 {
        u32::try_from(self.waiting.len()).unwrap_or(u32::MAX).max(1)
    }
}

/// How much faster optimised code is than code without optimisation.
const SPEED: u64 = if cfg!(debug_assertions) { 1 } else { 16 };

/// What takes this number of nanoseconds without optimisation, in code that is `speed` times as
/// fast.
const fn takes(nanos: u64, speed: u64) -> Duration {
    Duration::from_nanos(nanos / speed)
}

/// The most time that a turn handles incoming datagrams, while other connections wait.
pub(super) const TURN_TIME: Duration = takes(1_600_000, SPEED);

/// A datagram of any size takes 1 to 3 µs on a fast machine.
const EARNED_PER_DATAGRAM: Duration = takes(64_000, SPEED);

/// Some twenty times what decryption and the rest take for a byte on a fast machine. What
/// 45 Mbit/s of full datagrams earn is less than a tenth of a CPU.
const EARNED_PER_BYTE: Duration = takes(160, SPEED);

/// The smallest debt for which a connection waits.
const LEAST_DEBT: Duration = takes(8_000_000, SPEED);

/// The most time that a connection can save. An acknowledgement of everything in flight on a long
/// path takes about as long.
const MAX_CREDIT: Duration = takes(32_000_000, SPEED);

/// CPU time that a handshake may take before its peer is authenticated. An honest one takes up to
/// 1 ms on a fast machine.
pub(super) const HANDSHAKE_TIME: Duration = takes(160_000_000, SPEED);

/// How long a connection is measured in CPU time after it last cost too much.
const SUSPICION: Duration = Duration::from_secs(10);

/// All connections together earn one part in this many of the time by waiting.
const TIME_PER_WAITING: u32 = 20;

/// The time to pay a debt, as a multiple of the debt.
const TIME_PER_DEBT: u32 = 10;

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn less_time_is_earned_in_code_that_is_faster() {
        assert_eq!(takes(160, 16), Duration::from_nanos(10));
        assert_eq!(TURN_TIME, Duration::from_micros(1_600 / SPEED));
    }

    #[test]
    fn waiting_earns_a_twentieth_of_the_time_for_all_together() {
        let clocks = Clocks::new();
        let mut account = Account::new();
        account.credit = Duration::ZERO;
        account.earn_by_waiting(clocks.now.get(), 10);
        assert_eq!(account.credit, Duration::ZERO);
        clocks.pass(20 * MAX_CREDIT, Duration::ZERO);
        account.earn_by_waiting(clocks.now.get(), 10);
        assert_eq!(account.credit, MAX_CREDIT / 10);
        account.credit = Duration::ZERO;
        account.owed = MAX_CREDIT / 20;
        clocks.pass(20 * MAX_CREDIT, Duration::ZERO);
        account.earn_by_waiting(clocks.now.get(), 10);
        assert_eq!(account.owed, Duration::ZERO);
        assert_eq!(account.credit, MAX_CREDIT / 20);
        clocks.pass(Duration::from_secs(3600), Duration::ZERO);
        account.earn_by_waiting(clocks.now.get(), 10);
        assert_eq!(account.credit, MAX_CREDIT);
    }

    /// Clocks that the test sets.
    struct Clocks {
        now: Cell<Instant>,
        cpu: Cell<Duration>,
    }

    impl Clocks {
        fn new() -> Self {
            Self {
                now: Cell::new(crate::net::clock::now()),
                cpu: Cell::default(),
            }
        }

        fn pass(&self, wall: Duration, cpu: Duration) {
            self.now.set(self.now.get() + wall);
            self.cpu.set(self.cpu.get() + cpu);
        }

        /// A turn with one full datagram that takes this long.
        fn turn(&self, account: &mut Account, wall: Duration, cpu: Duration) -> Option<Duration> {
            let stopwatch = account.begin(self.now.get(), false, self);
            account.earn(1, 1_452);
            self.pass(wall, cpu);
            account.bill(stopwatch, self)
        }
    }

    impl Meter for Clocks {
        fn now(&self) -> Instant {
            self.now.get()
        }

        fn cpu_time(&self) -> Duration {
            self.cpu.get()
        }
    }

    const EARNED: Duration = Duration::from_nanos(
        (EARNED_PER_DATAGRAM.as_nanos() + 1_452 * EARNED_PER_BYTE.as_nanos()) as u64,
    );

    #[test]
    fn what_is_earned_may_be_used_for_ever() {
        let clocks = Clocks::new();
        let mut account = Account::new();
        for _ in 0..100_000 {
            assert_eq!(clocks.turn(&mut account, EARNED, EARNED), None);
        }
        assert_eq!(account.suspect_until, None);
    }

    #[test]
    fn cpu_time_that_was_not_earned_is_a_debt() {
        let clocks = Clocks::new();
        let mut account = Account::new();
        let cost = MAX_CREDIT + Duration::from_millis(5);
        // The first time, another thread may have had the CPU.
        assert_eq!(clocks.turn(&mut account, cost, cost), None);
        assert_eq!(
            clocks.turn(&mut account, cost, cost),
            Some(cost.checked_sub(EARNED).unwrap())
        );
        // After a long time it is no longer suspect, but has no savings.
        clocks.pass(SUSPICION * 2, Duration::ZERO);
        let over = EARNED + LEAST_DEBT / 4;
        assert_eq!(clocks.turn(&mut account, over, over), None);
        let debts = (0..8).filter_map(|_| clocks.turn(&mut account, over, over));
        assert_eq!(debts.collect::<Vec<_>>(), [LEAST_DEBT; 2]);
    }

    #[test]
    fn connection_does_not_pay_for_time_in_which_others_had_the_cpu() {
        let clocks = Clocks::new();
        let mut account = Account::new();
        let wall = Duration::from_millis(10);
        for _ in 0..1_000 {
            assert_eq!(clocks.turn(&mut account, wall, EARNED), None);
        }
        assert!(account.suspect_until.is_some());
    }

    #[test]
    fn all_of_a_handshake_is_measured() {
        let clocks = Clocks::new();
        let mut account = Account::new();
        let each = Duration::from_micros(10);
        for _ in 0..100 {
            let stopwatch = account.begin(clocks.now.get(), true, &clocks);
            account.earn(1, 1_200);
            clocks.pass(each * 3, each);
            assert_eq!(account.bill(stopwatch, &clocks), None);
        }
        assert_eq!(account.used(), each * 100);
    }

    #[test]
    fn debts_of_all_are_paid_at_the_same_time() {
        let now = crate::net::clock::now();
        let mut debtors = Debtors::default();
        let debt = Duration::from_millis(10);
        let [large, small, later] = [0, 1, 2].map(ConnectionHandle);
        debtors.add(now, large, 3 * debt);
        debtors.add(now, small, debt);
        // Each has half of the time.
        let paid = now + 2 * debt * TIME_PER_DEBT;
        assert_eq!(debtors.first(), Some(paid));
        assert_eq!(debtors.pop_due(paid - debt), None);
        assert_eq!(debtors.pop_due(paid).map(|(_, handle)| handle), Some(small));
        assert_eq!(debtors.pop_due(paid), None);
        // From here on there are two again.
        debtors.add(paid, later, 2 * debt);
        let all_paid = now + 6 * debt * TIME_PER_DEBT;
        assert_eq!(debtors.pop_due(all_paid - debt), None);
        assert_eq!(
            debtors.pop_due(all_paid).map(|(_, handle)| handle),
            Some(large)
        );
        assert_eq!(
            debtors.pop_due(all_paid).map(|(_, handle)| handle),
            Some(later)
        );
        assert_eq!(debtors.first(), None);
        // A later debtor does not wait for debts that are paid.
        let now = all_paid + debt;
        debtors.add(now, later, debt);
        assert_eq!(debtors.first(), Some(now + debt * TIME_PER_DEBT));
    }

    #[test]
    fn who_leaves_takes_the_rest_of_its_debt_along() {
        let now = crate::net::clock::now();
        let mut debtors = Debtors::default();
        let debt = Duration::from_millis(10);
        let [one, other] = [0, 1].map(ConnectionHandle);
        let leaves = debtors.add(now, one, 100 * debt);
        debtors.add(now, other, debt);
        // Half of this time was for the other one.
        let now = now + debt * TIME_PER_DEBT;
        assert_eq!(debtors.pop_due(now), None);
        debtors.remove(leaves);
        let paid = now + debt * TIME_PER_DEBT / 2;
        assert_eq!(debtors.first(), Some(paid));
        assert_eq!(debtors.pop_due(paid).map(|(_, handle)| handle), Some(other));
    }
}
