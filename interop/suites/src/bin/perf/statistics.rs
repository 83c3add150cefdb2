//! Quartiles and outliers of samples, in the format of unified-testing.

use std::{fmt::Write, iter};

use harness::statistics::Sorted;

/// Samples; there is at least one.
pub struct Statistics {
    samples: Sorted,
}

/// The unit of the samples.
#[derive(Clone, Copy)]
pub enum Unit {
    Gbps,
    Milliseconds,
}

impl Statistics {
    /// Statistics of at least one sample.
    pub fn of(first: f64, more: impl IntoIterator<Item = f64>) -> Self {
        let samples = iter::once(first).chain(more).collect();
        Self { samples }
    }

    /// A section of the result. Minimum and maximum exclude outliers.
    pub fn yaml(&self, name: &str, unit: Unit) -> String {
        let [q1, median, q3] = [0.25, 0.5, 0.75].map(|share| self.quantile(share));
        let fence = 1.5 * (q3 - q1);
        let (usual, outliers): (Vec<f64>, Vec<f64>) = self
            .samples
            .values()
            .iter()
            .partition(|&&sample| (q1 - fence..=q3 + fence).contains(&sample));
        // The median is always within the fence, and so are its neighbours.
        let min = usual.first().copied().unwrap_or(median);
        let max = usual.last().copied().unwrap_or(median);
        let decimals = unit.decimals();
        let mut text = format!("{name}:\n  iterations: {}\n", self.samples.values().len());
        for (name, value) in [
            ("min", min),
            ("q1", q1),
            ("median", median),
            ("q3", q3),
            ("max", max),
        ] {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "  {name}: {value:.decimals$}");
        }
        for (name, values) in [
            ("outliers", outliers.as_slice()),
            ("samples", self.samples.values()),
        ] {
            let values: Vec<String> = values
                .iter()
                .map(|value| format!("{value:.decimals$}"))
                .collect();
            let _ = writeln!(text, "  {name}: [{}]", values.join(", "));
        }
        let _ = write!(text, "  unit: {}", unit.name());
        text
    }

    fn quantile(&self, share: f64) -> f64 {
        // There is at least one sample.
        self.samples.quantile(share).unwrap_or_default()
    }
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Gbps => "Gbps",
            Self::Milliseconds => "ms",
        }
    }

    fn decimals(self) -> usize {
        match self {
            Self::Gbps => 2,
            Self::Milliseconds => 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outlier_is_not_the_maximum() {
        let statistics = Statistics::of(4.0, [2.0, 100.0, 3.0, 1.0]);
        assert_eq!(
            statistics.yaml("upload", Unit::Gbps),
            "upload:\n  iterations: 5\n  min: 1.00\n  q1: 2.00\n  median: 3.00\n  q3: 4.00\n  max: 4.00\n  \
             outliers: [100.00]\n  samples: [1.00, 2.00, 3.00, 4.00, 100.00]\n  unit: Gbps"
        );
    }

    #[test]
    fn one_sample_is_all_of_them() {
        assert_eq!(
            Statistics::of(0.5, []).yaml("latency", Unit::Milliseconds),
            "latency:\n  iterations: 1\n  min: 0.500\n  q1: 0.500\n  median: 0.500\n  q3: 0.500\n  max: 0.500\n  \
             outliers: []\n  samples: [0.500]\n  unit: ms"
        );
    }
}
