//! The measured values, and their medians and ratios.

use std::collections::{BTreeMap, BTreeSet};

use harness::statistics::Sorted;
use serde::Serialize;

use crate::{
    metric::{Metric, Metrics},
    stack::Facts,
};

/// The label of our stack.
pub const OURS: &str = "ours";

/// The label of our stack's second run in each round. The two runs show how far two measurements of
/// the same stack differ.
pub const AGAIN: &str = "ours again";

/// All rounds of one workload.
#[derive(Debug, Serialize)]
pub struct Table {
    pub scenario: String,
    /// How the stacks were configured, and where they ran.
    pub setting: String,
    /// Why this machine could not measure it.
    pub skipped: Option<String>,
    pub columns: Vec<Column>,
}

/// The results of one stack.
#[derive(Debug, Serialize)]
pub struct Column {
    /// The name of the stack, or `ours again`.
    pub label: String,
    pub facts: Option<Facts>,
    /// One entry for each round; `None` if the round has failed.
    pub rounds: Vec<Option<Metrics>>,
    /// The errors of the failed rounds.
    pub failures: Vec<String>,
}

/// A median with quartiles.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub low: f64,
    pub high: f64,
    pub count: usize,
}

impl Column {
    /// The values of all rounds.
    pub fn all(&self, metric: Metric) -> impl Iterator<Item = f64> {
        let rounds = self.rounds.iter().flatten();
        rounds.filter_map(move |metrics| metrics.get(&metric).copied())
    }

    pub fn values(&self, metric: Metric) -> Option<Spread> {
        Spread::of(self.all(metric))
    }

    /// The ratio to another column, round by round.
    pub fn ratio(&self, other: &Self, metric: Metric) -> Option<Spread> {
        let value = |metrics: &Option<Metrics>| metrics.as_ref()?.get(&metric).copied();
        Spread::of(
            self.rounds
                .iter()
                .zip(&other.rounds)
                .filter_map(|(mine, others)| Some(value(mine)? / value(others)?))
                .filter(|ratio| ratio.is_finite()),
        )
    }
}

impl Table {
    pub fn column(&self, label: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.label == label)
    }

    /// All figures that at least one stack has.
    pub fn metrics(&self) -> BTreeSet<Metric> {
        let rounds = self.columns.iter().flat_map(|column| &column.rounds);
        rounds.flatten().flat_map(BTreeMap::keys).copied().collect()
    }
}

impl Spread {
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let sorted = Sorted::from_iter(values);
        Some(Self {
            median: sorted.quantile(0.5)?,
            low: sorted.quantile(0.25)?,
            high: sorted.quantile(0.75)?,
            count: sorted.values().len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_is_between_the_values() {
        let spread = Spread::of([4.0, 1.0, 2.0, 3.0]).unwrap();
        assert_eq!((spread.low, spread.median, spread.high), (1.75, 2.5, 3.25));
        assert_eq!(Spread::of([]), None);
    }
}
