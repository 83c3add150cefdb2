//! The requirements for each attack.

use anyhow::Error;

use super::{
    FORGOTTEN_BYTES,
    catalogue::{Attack, Failing, IDLE_TIMEOUT, Kind},
    client::Measured,
    site::{FORGET, Outcome, Plan},
    victim::{Closed, Window},
};
use crate::figures::Figures;

/// The figures without an attack, for comparison.
#[derive(Default)]
pub struct Alone {
    paced: f64,
    unpaced: f64,
    /// CPU time of the victim.
    cpu_ms_per_second: f64,
}

/// The judge of one attack.
pub struct Judge<'a> {
    figures: &'a mut Figures,
    attack: &'a Attack,
    plan: &'a Plan,
    alone: &'a Alone,
}

impl<'a> Judge<'a> {
    pub fn new(
        figures: &'a mut Figures,
        attack: &'a Attack,
        plan: &'a Plan,
        alone: &'a Alone,
    ) -> Self {
        Self {
            figures,
            attack,
            plan,
            alone,
        }
    }

    /// Without an attack, the same must hold; otherwise the machine is too busy.
    pub fn alone(&mut self, outcome: &Outcome) -> Alone {
        let paced = outcome.paced.as_ref().map(|(window, _)| window);
        let alone = Alone {
            paced: paced.map_or(0.0, rate),
            unpaced: outcome.unpaced.as_ref().map_or(0.0, rate),
            cpu_ms_per_second: paced.map_or(0.0, |window| {
                window.cpu.as_secs_f64() * 1e3 / window.seconds
            }),
        };
        let mut transfer = format!("{:.0} MB/s", alone.paced);
        if outcome.unpaced.is_some() {
            transfer += &format!("; as fast as it goes, {:.0} MB/s", alone.unpaced);
        }
        let wanted = self.plan.megabytes as f64;
        self.demand(
            "transfer",
            transfer,
            &format!("at least {wanted:.0} MB/s, less {SLACK_PERCENT} %"),
            alone.paced >= wanted * (100.0 - SLACK_PERCENT) / 100.0,
        );
        if let Some((window, measured)) = &outcome.paced {
            self.judge_answers(measured);
            self.tell("CPU time of the victim", cpu(window));
        }
        self.tell_memory(outcome);
        alone
    }

    pub fn failed(&mut self, error: &Error) {
        self.demand("the attack", format!("{error:#}"), "one that ends", false);
    }

    pub fn judge(&mut self, outcome: &Outcome) {
        let kind = self.attack.kind;
        self.tell_attack(outcome);
        if let Some((window, measured)) = &outcome.paced {
            if kind.is_finite() {
                // Attacks on memory are as fast as possible.
                self.tell("transfer meanwhile", transfer(window));
            } else {
                self.judge_transfer(window, outcome.unpaced.as_ref());
                self.judge_answers(measured);
            }
            self.tell("CPU time of the victim", cpu(window));
        }
        match kind {
            Kind::Holding(_)
            | Kind::Garbage
            | Kind::Resets
            | Kind::Amplifying(_)
            | Kind::Pieces { connections: 1, .. } => self.judge_memory(outcome, ONE_CONNECTION),
            Kind::InitialHolding { .. } | Kind::InitialPieces { .. } => {
                self.tell(
                    "handshakes that are not complete",
                    outcome.after.handshaking.to_string(),
                );
                self.judge_memory(outcome, ALL_HANDSHAKES);
            }
            Kind::Windows { .. } | Kind::Answers { .. } => {
                let budget = megabytes(ALL_CONNECTIONS);
                let value = format!("{}; {budget} would be enough", memory(outcome));
                self.tell("memory of the victim", value);
            }
            _ => self.tell_memory(outcome),
        }
        self.judge_amplification(outcome);
        match kind {
            Kind::Failing(Failing::LargeKeys) => self.tell_handshakes(outcome),
            Kind::Failing(_) => self.judge_dial(outcome),
            Kind::Ending { .. } => self.judge_end(outcome),
            Kind::Silent { idle_timeout } => {
                if let Some(closed) = &outcome.closed {
                    self.judge_close(closed, idle_timeout.is_some());
                }
            }
            _ => {}
        }
    }

    fn tell_attack(&mut self, outcome: &Outcome) {
        let attacked = &outcome.attacked;
        let megabits = attacked.bytes as f64 * 8e-6 / attacked.seconds.max(1e-3);
        let mut sent = format!(
            "{} datagrams, {} in {:.1} s ({megabits:.0} Mbit/s)",
            attacked.datagrams,
            megabytes(attacked.bytes),
            attacked.seconds
        );
        if attacked.begun > 0 {
            let (begun, ended) = (attacked.begun, attacked.ended);
            sent += &format!("; {begun} connections, {ended} of them ended by the victim");
        }
        if let Some(streams) = attacked.streams {
            sent += &format!("; {streams} streams");
        }
        self.tell("sent", sent);
    }

    fn judge_transfer(&mut self, window: &Window, unpaced: Option<&Window>) {
        let kept = percent(rate(window), self.alone.paced);
        let mut value = format!("{kept:.1} %, {:.0} MB/s", rate(window));
        if let Some(unpaced) = unpaced {
            let kept = percent(rate(unpaced), self.alone.unpaced);
            value += &format!(
                "; as fast as it goes, {kept:.0} %, {:.0} MB/s",
                rate(unpaced)
            );
        }
        value += &lost(window);
        self.demand(
            "transfer kept",
            value,
            &format!("at least {KEPT_PERCENT} %"),
            kept >= KEPT_PERCENT,
        );
    }

    fn judge_answers(&mut self, measured: &Measured) {
        let Measured {
            pings,
            answered,
            median_ms,
            p95_ms,
            p99_ms,
            slowest_ms,
            dials,
            succeeded,
            slowest_dial_ms,
        } = *measured;
        // In one second, a single stall of the machine affects more than one of a hundred pings.
        let (part, time) = if self.plan.is_long() {
            (99, p99_ms)
        } else {
            (95, p95_ms)
        };
        self.demand(
            "pings",
            format!(
                "{median_ms:.1} ms median, {p95_ms:.1} ms for 95 %, {p99_ms:.1} ms for 99 %, {slowest_ms:.1} ms at most; \
                 {answered} of {pings} answered"
            ),
            &format!("{part} % in less than {PING_MS} ms"),
            time < PING_MS && pings >= FEWEST_PINGS * self.plan.seconds,
        );
        self.demand(
            "dials",
            format!("{succeeded} of {dials}, {slowest_dial_ms:.0} ms at most"),
            &format!("at least {DIALS_PERCENT} %"),
            percent(succeeded as f64, dials as f64) >= DIALS_PERCENT,
        );
    }

    fn tell_memory(&mut self, outcome: &Outcome) {
        self.tell("memory of the victim", memory(outcome));
    }

    fn judge_memory(&mut self, outcome: &Outcome, most: u64) {
        let wanted = format!("at most {} more", megabytes(most));
        self.demand(
            "memory of the victim",
            memory(outcome),
            &wanted,
            growth(outcome) <= most,
        );
    }

    fn judge_amplification(&mut self, outcome: &Outcome) {
        let Some(amplified) = &outcome.attacked.amplified else {
            return;
        };
        // The packet socket may have missed packets of any kind.
        let complete = (amplified.seen + OTHERS) as f64 >= amplified.counted as f64 * COMPLETE;
        self.demand(
            "bytes sent for each byte received",
            format!(
                "{:.1} at most, {:.2} on average, at {} addresses; {} of {} packets seen",
                amplified.worst,
                amplified.mean,
                amplified.addresses,
                amplified.seen,
                amplified.counted
            ),
            &format!("at most {MOST_BYTES}, at each address"),
            complete && amplified.worst <= MOST_BYTES,
        );
    }

    /// Figures other than those of the transfer.
    fn tell_handshakes(&mut self, outcome: &Outcome) {
        let Some((window, _)) = &outcome.paced else {
            return;
        };
        let attacked = &outcome.attacked;
        let failed = attacked.ended as f64 * window.seconds / attacked.seconds;
        let cpu = window.cpu.as_secs_f64() * 1e3 - self.alone.cpu_ms_per_second * window.seconds;
        self.tell(
            "CPU time for each handshake",
            format!("{:.1} ms, {failed:.0} of them", cpu / failed),
        );
    }

    fn judge_dial(&mut self, outcome: &Outcome) {
        let time = outcome.attacked.dial_ms.unwrap_or(f64::INFINITY);
        self.demand(
            "dial from the same address",
            format!("{time:.0} ms"),
            &format!("at most {DIAL_MS} ms"),
            time <= DIAL_MS,
        );
    }

    fn judge_end(&mut self, outcome: &Outcome) {
        let Some(left) = &outcome.left else {
            return;
        };
        let grown = left.bytes.saturating_sub(outcome.before.bytes);
        let back = match outcome.back_after {
            Some(time) => format!("gone after {:.1} s", time.as_secs_f64()),
            None => format!("not gone after {} s", self.plan.patience.as_secs()),
        };
        let soon = FORGET.as_secs();
        self.demand(
            &format!("memory {soon} s after the end"),
            format!("{} more; {back}", megabytes(grown)),
            &format!("at most {} more", megabytes(FORGOTTEN_BYTES)),
            grown <= FORGOTTEN_BYTES,
        );
        let more = left.connections.saturating_sub(outcome.before.connections);
        self.demand(
            &format!("connections {soon} s after the end"),
            format!("{more} more, {} of them in the application", left.strangers),
            &format!("at most {FORGOTTEN_CONNECTIONS} more"),
            more <= FORGOTTEN_CONNECTIONS,
        );
    }

    fn judge_close(&mut self, closed: &Closed, is_idle: bool) {
        let Closed {
            before,
            left,
            seconds,
        } = *closed;
        let (name, most) = if is_idle {
            (
                "idle timeout of 1 s",
                IDLE_TIMEOUT as f64 / 1e3 + IDLE_SLACK,
            )
        } else {
            ("close", CLOSE_SECONDS)
        };
        let value = format!("{left} of {before} left after {seconds:.1} s");
        self.demand(
            name,
            value,
            &format!("all within {most} s"),
            left == 0 && before > 0 && seconds <= most,
        );
    }

    fn tell(&mut self, what: &str, value: String) {
        let name = format!("{}: {what}", self.attack.name);
        self.figures.tell(&name, value);
    }

    fn demand(&mut self, what: &str, value: String, wanted: &str, met: bool) {
        let name = format!("{}: {what}", self.attack.name);
        self.figures.demand(&name, value, wanted, met);
    }
}

fn memory(outcome: &Outcome) -> String {
    let most = megabytes(growth(outcome));
    format!(
        "{} before, {most} more at most",
        megabytes(outcome.before.bytes)
    )
}

/// The largest growth of memory since before the attack.
fn growth(outcome: &Outcome) -> u64 {
    outcome.after.peak.saturating_sub(outcome.before.bytes)
}

fn cpu(window: &Window) -> String {
    let share = percent(window.cpu.as_secs_f64(), window.seconds);
    format!(
        "{:.1} s in {:.1} s, {share:.0} %",
        window.cpu.as_secs_f64(),
        window.seconds
    )
}

fn transfer(window: &Window) -> String {
    format!("{:.0} MB/s{}", rate(window), lost(window))
}

/// Datagrams that were lost because of full buffers, if any.
fn lost(window: &Window) -> String {
    match window.overrun {
        0 => String::new(),
        lost => format!("; {lost} datagrams lost in full buffers"),
    }
}

/// In megabytes per second.
fn rate(window: &Window) -> f64 {
    window.transferred as f64 / 1e6 / window.seconds
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

fn percent(part: f64, whole: f64) -> f64 {
    100.0 * part / whole
}

/// The least that must be left under an attack.
const KEPT_PERCENT: f64 = 80.0;
const PING_MS: f64 = 50.0;
const DIALS_PERCENT: f64 = 95.0;

/// Tolerance of the transfer's rate without an attack, in percent.
const SLACK_PERCENT: f64 = 10.0;

/// Of the 200 pings in each second.
const FEWEST_PINGS: u64 = 100;

/// The receive window of a connection, and 16 MiB.
const ONE_CONNECTION: u64 = 15_000_000 + 16 * 1024 * 1024;

/// Of 1,024 handshakes, the most at a time.
const ALL_HANDSHAKES: u64 = 64_000_000;

/// Of all connections together. There is no setting for it yet, so it is reported and not required.
const ALL_CONNECTIONS: u64 = 256 * 1024 * 1024;

/// RFC 9000 §8.1.
const MOST_BYTES: f64 = 3.0;

/// Packets of ARP and IPv6, which the interface counts as well.
const OTHERS: u64 = 16;

/// The part of the other packets that must have been captured.
const COMPLETE: f64 = 0.99;

const DIAL_MS: f64 = 1000.0;

/// Recent dials.
const FORGOTTEN_CONNECTIONS: u64 = 4;

/// Limits in seconds.
const CLOSE_SECONDS: f64 = 1.5;
const IDLE_SLACK: f64 = 2.0;
