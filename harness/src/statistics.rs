//! Quantiles.

use std::time::Duration;

/// Values in ascending order.
#[derive(Clone, Debug)]
pub struct Sorted(Vec<f64>);

impl Sorted {
    pub fn milliseconds(times: impl IntoIterator<Item = Duration>) -> Self {
        let times = times.into_iter().map(|time| time.as_secs_f64() * 1e3);
        times.collect()
    }

    pub fn values(&self) -> &[f64] {
        &self.0
    }

    /// The value that this share (0 to 1) of the values does not exceed; between two values it is
    /// interpolated. `None` without values.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let place = self.0.len().checked_sub(1)? as f64 * share;
        let below = self.0.get(place.floor() as usize)?;
        let above = self.0.get(place.ceil() as usize)?;
        Some(below + (above - below) * place.fract())
    }
}

impl FromIterator<f64> for Sorted {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Self(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_or_lie_between_them() {
        let sorted = Sorted::from_iter([4.0, 1.0, 2.0, 3.0]);
        assert_eq!(sorted.values(), [1.0, 2.0, 3.0, 4.0]);
        let quantiles = [0.0, 0.25, 0.5, 0.75, 1.0].map(|share| sorted.quantile(share));
        assert_eq!(quantiles, [1.0, 1.75, 2.5, 3.25, 4.0].map(Some));
    }

    #[test]
    fn there_is_none_without_values() {
        assert_eq!(Sorted::from_iter([]).quantile(0.5), None);
    }

    #[test]
    fn one_value_is_all_of_them() {
        let sorted = Sorted::milliseconds([Duration::from_micros(1500)]);
        assert_eq!(sorted.quantile(0.99), Some(1.5));
    }
}
