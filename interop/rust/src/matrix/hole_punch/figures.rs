//! The results of the runs, as a table and as a file.

use std::time::SystemTime;

use harness::{
    scene::{Nat, Ports, Strangers},
    statistics::Sorted,
};
use serde::Serialize;

use crate::table::{date, markdown};

use super::{Expect, Pair, attempt::Attempt};

#[derive(Default)]
pub struct Figures {
    pub sets: Vec<Set>,
}

/// All runs of a pair behind such NATs.
#[derive(Serialize)]
pub struct Set {
    dialer: &'static str,
    listener: &'static str,
    /// The behaviour of the routers.
    ports: &'static str,
    strangers: &'static str,
    pub attempts: Vec<Attempt>,
    #[serde(skip)]
    expect: Expect,
}

/// The contents of the file.
#[derive(Serialize)]
struct Document<'a> {
    date: String,
    set: Vec<Summary<'a>>,
}

#[derive(Serialize)]
struct Summary<'a> {
    runs: usize,
    direct: usize,
    relayed_kept: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    median_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    longest_ms: Option<f64>,
    #[serde(flatten)]
    set: &'a Set,
}

impl Figures {
    pub fn table(&self) -> String {
        if self.sets.is_empty() {
            return String::new();
        }
        let column = |title: &str, cell: &dyn Fn(&Set) -> String| {
            let mut column = vec![title.to_owned()];
            column.extend(self.sets.iter().map(cell));
            column
        };
        markdown(&[
            column("dialer → listener", &|set| {
                format!("{} → {}", set.dialer, set.listener)
            }),
            column("ports", &|set| set.ports.to_owned()),
            column("strangers", &|set| set.strangers.to_owned()),
            column("direct", &|set| {
                format!("{} of {}", set.direct(), set.attempts.len())
            }),
            column("relayed kept", &|set| {
                format!("{} of {}", set.relayed_kept(), set.attempts.len())
            }),
            column("median", &|set| ms(set.sorted_ms().quantile(0.5))),
            column("longest", &|set| ms(set.sorted_ms().quantile(1.0))),
            column("by attempt", &Set::by_attempt),
        ])
    }

    pub fn document(&self) -> Result<String, String> {
        let document = Document {
            date: date(SystemTime::now()),
            set: self.sets.iter().map(Summary::of).collect(),
        };
        let text = toml::to_string(&document).map_err(|error| error.to_string())?;
        Ok(format!(
            "# Hole punching: every run of the last long one.\n\
             # Written by `interop/run --only hole-punch --runs N`.\n\
             # Times are from the relayed connection to the direct one.\n\n{text}"
        ))
    }
}

impl Set {
    pub fn new(pair: &Pair) -> Self {
        let Nat { ports, strangers } = pair.nat;
        Self {
            dialer: pair.dialer,
            listener: pair.listener,
            ports: match ports {
                Ports::Kept => "kept",
                Ports::Random => "random",
            },
            strangers: match strangers {
                Strangers::Dropped => "dropped",
                Strangers::Rejected => "rejected",
                Strangers::Taken => "taken",
            },
            attempts: Vec::new(),
            expect: pair.expect,
        }
    }

    pub fn describe(&self) -> String {
        format!(
            "{} → {}, ports {}, strangers {}",
            self.dialer, self.listener, self.ports, self.strangers
        )
    }

    /// The failure of the set, if any.
    pub fn failure(&self) -> Option<String> {
        let runs = self.attempts.len();
        let (direct, relayed) = (self.direct(), self.relayed_kept());
        let is_as_expected = match self.expect {
            Expect::Direct => direct * 50 >= runs * 49 && relayed == runs,
            Expect::Relayed => direct == 0 && relayed == runs,
            Expect::Any => true,
        };
        let errors = self
            .attempts
            .iter()
            .filter_map(|attempt| attempt.error.as_deref());
        (!is_as_expected).then(|| {
            format!(
                "hole punch, {}: {direct} of {runs} direct, {relayed} relayed kept; {}",
                self.describe(),
                errors.collect::<Vec<_>>().join("; ")
            )
        })
    }

    fn direct(&self) -> usize {
        let direct = |attempt: &&Attempt| attempt.is_direct();
        self.attempts.iter().filter(direct).count()
    }

    fn relayed_kept(&self) -> usize {
        let kept = |attempt: &&Attempt| attempt.keeps_relayed();
        self.attempts.iter().filter(kept).count()
    }

    fn sorted_ms(&self) -> Sorted {
        let times = self.attempts.iter().filter_map(|attempt| attempt.direct_ms);
        times.collect()
    }

    /// "48, 2": the number of successes at the first attempt, at the second one, and so on.
    fn by_attempt(&self) -> String {
        let by = |number| {
            let made_it = |attempt: &&Attempt| attempt.attempts == Some(number);
            self.attempts.iter().filter(made_it).count()
        };
        let mut counts = [by(1), by(2), by(3)].to_vec();
        while counts.last() == Some(&0) {
            counts.pop();
        }
        let counts: Vec<String> = counts.iter().map(ToString::to_string).collect();
        counts.join(", ")
    }
}

impl<'a> Summary<'a> {
    fn of(set: &'a Set) -> Self {
        let times = set.sorted_ms();
        Self {
            runs: set.attempts.len(),
            direct: set.direct(),
            relayed_kept: set.relayed_kept(),
            median_ms: times.quantile(0.5),
            longest_ms: times.quantile(1.0),
            set,
        }
    }
}

fn ms(time: Option<f64>) -> String {
    time.map_or_else(String::new, |ms| format!("{ms:.1} ms"))
}
