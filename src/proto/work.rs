//! Limits on the work that the datagrams of a connection cause, and how long a connection waits
//! that exceeds them.

use std::{
    cmp,
    collections::{BTreeMap, BTreeSet, VecDeque},
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
/// Paying a debt takes ten times as long as the time that it is for. Half of the time pays the
/// debt that has waited longest, and the other half pays all debts, each with the same part. So
/// connections that cost more than they earn have at most a tenth of the time, however many there
/// are. A small debt does not wait for large ones, nor a large one for small ones that come again
/// and again. A connection that leaves takes the rest of its debt with it.
#[derive(Debug, Default)]
pub(super) struct Debtors {
    /// In the order in which they were added.
    waiting: BTreeMap<Debt, Debtor>,
    /// In the order in which equal parts pay them.
    by_rest: BTreeSet<(Duration, Debt)>,
    /// Debts that are paid and were not removed yet.
    due: VecDeque<(Debt, ConnectionHandle)>,
    /// What equal parts have paid of each debt that was there since `waiting` was last empty, as of
    /// `paid_at`.
    paid: Duration,
    paid_at: Option<Instant>,
    added: u64,
}

/// A debt of one connection, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Debt(u64);

#[derive(Clone, Copy, Debug)]
struct Debtor {
    handle: ConnectionHandle,
    /// The value of [`Debtors::paid`] with which its debt is paid.
    until: Duration,
}

impl Debtors {
    pub(super) fn add(&mut self, now: Instant, handle: ConnectionHandle, debt: Duration) -> Debt {
        self.pay(now);
        if self.waiting.is_empty() {
            self.paid = Duration::ZERO;
            self.paid_at = Some(now);
        }
        let number = Debt(self.added);
        self.added += 1;
        let until = self.paid + debt * TIME_PER_DEBT;
        self.waiting.insert(number, Debtor { handle, until });
        self.by_rest.insert((until, number));
        number
    }

    /// Removes a debt that its connection need not pay any more.
    pub(super) fn remove(&mut self, debt: Debt) {
        if self.take(debt).is_none() {
            self.due.retain(|&(due, _)| due != debt);
        }
    }

    /// When the next debt is paid.
    pub(super) fn first(&self) -> Option<Instant> {
        if !self.due.is_empty() {
            return self.paid_at;
        }
        let (part, _) = self.next()?;
        Some(self.paid_at? + self.time_for(part))
    }

    /// Removes a connection whose debt is paid, and returns it with the debt.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<(Debt, ConnectionHandle)> {
        // Also if none is due, so that time does not count twice when one is removed.
        self.pay(now);
        self.due.pop_front()
    }

    /// Pays debts with the time that has passed. Time that is too short to pay a nanosecond of each
    /// is left for the next call.
    fn pay(&mut self, now: Instant) {
        while let Some((rest, next)) = self.next()
            && let Some(paid_at) = self.paid_at
        {
            let passed = now.saturating_duration_since(paid_at);
            let part = cmp::min(passed / (2 * self.sharers()), rest);
            self.paid += part;
            self.paid_at = Some(paid_at + self.time_for(part));
            // The other half of the time.
            let half = part * self.sharers();
            if let Some(mut oldest) = self.waiting.first_entry() {
                let until = oldest.get().until;
                self.by_rest.remove(&(until, *oldest.key()));
                oldest.get_mut().until = until.saturating_sub(half);
                self.by_rest.insert((oldest.get().until, *oldest.key()));
            }
            if part < rest {
                return;
            }
            let handle = self.take(next);
            self.due.extend(handle.map(|handle| (next, handle)));
        }
    }

    /// Removes a debt that is not paid.
    fn take(&mut self, debt: Debt) -> Option<ConnectionHandle> {
        let Debtor { handle, until } = self.waiting.remove(&debt)?;
        self.by_rest.remove(&(until, debt));
        Some(handle)
    }

    /// The debt that is paid next, and what equal parts pay of each debt until then.
    fn next(&self) -> Option<(Duration, Debt)> {
        let rest = |until: Duration| until.saturating_sub(self.paid);
        let &(until, least) = self.by_rest.first()?;
        let (&oldest, debtor) = self.waiting.first_key_value()?;
        // The oldest debt gets as much as all parts together, and a part.
        let parts = self.sharers() + 1;
        let nanosecond = Duration::from_nanos(1);
        let until_oldest = (rest(debtor.until) + nanosecond * (parts - 1)) / parts;
        Some(cmp::min((until_oldest, oldest), (rest(until), least)))
    }

    /// The time in which equal parts pay this much of each debt.
    fn time_for(&self, part: Duration) -> Duration {
        2 * part * self.sharers()
    }

    /// The number of debts among which time is divided; at least one. Connections are far fewer
    /// than the limit, with which the numbers of this type cannot overflow.
    fn sharers(&self) -> u32 {
        const MOST: u32 = 1 << 24;

        u32::try_from(self.waiting.len()).map_or(MOST, |count| count.clamp(1, MOST))
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
        debtors.add(now, large, 6 * debt);
        debtors.add(now, small, debt);
        // The older one has half of the time, and half of the other half.
        let paid = now + 4 * debt * TIME_PER_DEBT;
        assert_eq!(debtors.first(), Some(paid));
        assert_eq!(debtors.pop_due(paid - debt), None);
        assert_eq!(debtors.pop_due(paid).map(|(_, handle)| handle), Some(small));
        assert_eq!(debtors.pop_due(paid), None);
        // From here on there are two again. Half of the older one is left.
        debtors.add(paid, later, debt);
        let all_paid = paid + 4 * debt * TIME_PER_DEBT;
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

    /// Takes the next debtor at the moment when its debt is paid.
    fn next(debtors: &mut Debtors) -> (Instant, ConnectionHandle) {
        let at = debtors.first().unwrap();
        let (_, handle) = debtors.pop_due(at).unwrap();
        (at, handle)
    }

    /// Neither of many small debts, which are run up again as soon as they are paid, nor of many
    /// large ones.
    #[test]
    fn no_debt_waits_much_longer_than_in_the_better_of_two_orders() {
        const SMALL: Duration = Duration::from_micros(500);
        const LARGE: Duration = Duration::from_millis(5);

        let honest = ConnectionHandle(1_000);
        for (attackers, theirs, own) in [(200, SMALL, LARGE), (200, LARGE, SMALL)] {
            let began = crate::net::clock::now();
            let mut debtors = Debtors::default();
            for attacker in 0..attackers {
                debtors.add(began, ConnectionHandle(attacker), theirs);
            }
            debtors.add(began, honest, own);
            let paid_at = loop {
                let (at, handle) = next(&mut debtors);
                if handle == honest {
                    break at;
                }
                debtors.add(at, handle, theirs);
            };
            let attackers = attackers as u32;
            let one_after_the_other = (theirs * attackers + own) * TIME_PER_DEBT;
            let all_at_once = own * (attackers + 1) * TIME_PER_DEBT;
            let better = cmp::min(one_after_the_other, all_at_once);
            let waited = paid_at - began;
            assert!(waited <= 2 * better, "{waited:?} of {better:?}");
        }
    }

    /// A round may take less time than would pay a nanosecond of each debt.
    #[test]
    fn no_time_is_lost_however_often_debts_are_looked_at() {
        const DEBTORS: u32 = 1_000;
        const DEBT: Duration = Duration::from_micros(1);
        const ROUND: Duration = Duration::from_nanos(999);

        let began = crate::net::clock::now();
        let mut debtors = Debtors::default();
        for debtor in 0..DEBTORS as usize {
            debtors.add(began, ConnectionHandle(debtor), DEBT);
        }
        let all = DEBT * DEBTORS * TIME_PER_DEBT;
        let mut now = began;
        while debtors.first().is_some() && now < began + 2 * all {
            now += ROUND;
            while debtors.pop_due(now).is_some() {}
        }
        let took = now - began;
        assert!(took >= all && took < all + all / 50, "{took:?} of {all:?}");

        // Nor when a debt is added while another one is paid and was not removed.
        let began = crate::net::clock::now();
        let mut debtors = Debtors::default();
        let [one, two, three] = [1, 2, 3].map(ConnectionHandle);
        let paid = |debt: Duration| began + debt * TIME_PER_DEBT;
        // The first one is paid after 4, and then the second one pays alone.
        debtors.add(began, one, 3 * DEBT);
        let debt = debtors.add(began, two, 9 * DEBT);
        debtors.add(paid(6 * DEBT), three, 10 * DEBT);
        assert_eq!(next(&mut debtors).1, one);
        // It has three quarters of the time now.
        assert_eq!(debtors.first(), Some(paid(14 * DEBT)));
        debtors.remove(debt);
        assert_eq!(debtors.first(), Some(paid(16 * DEBT)));
        // Time in which nobody was in debt pays nothing.
        debtors.add(paid(20 * DEBT), one, DEBT);
        assert_eq!(next(&mut debtors).1, three);
        assert_eq!(debtors.first(), Some(paid(21 * DEBT)));
    }

    #[test]
    fn who_leaves_takes_the_rest_of_its_debt_along() {
        let now = crate::net::clock::now();
        let mut debtors = Debtors::default();
        let debt = Duration::from_millis(10);
        let [one, other] = [0, 1].map(ConnectionHandle);
        let leaves = debtors.add(now, one, 100 * debt);
        debtors.add(now, other, debt);
        // A quarter of this time was for the other one.
        let now = now + debt * TIME_PER_DEBT;
        assert_eq!(debtors.pop_due(now), None);
        debtors.remove(leaves);
        let paid = now + 3 * debt * TIME_PER_DEBT / 4;
        assert_eq!(debtors.first(), Some(paid));
        assert_eq!(debtors.pop_due(paid).map(|(_, handle)| handle), Some(other));
    }
}
