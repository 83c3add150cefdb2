//! Detects growth.

/// A straight line through points, by least squares.
#[derive(Clone, Copy, Debug)]
pub struct Trend {
    pub slope: f64,
    /// Standard error of the slope.
    pub error: f64,
    /// The value of the line at 0.
    pub base: f64,
}

impl Trend {
    /// `None` for fewer than three points, or if all have the same position.
    pub fn of(points: &[(f64, f64)]) -> Option<Self> {
        let count = points.len() as f64;
        if points.len() < 3 {
            return None;
        }
        let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
        let (mean_x, mean_y) = (mean(|point| point.0), mean(|point| point.1));
        let spread: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
        if spread == 0.0 {
            return None;
        }
        let common: f64 = points
            .iter()
            .map(|(x, y)| (x - mean_x) * (y - mean_y))
            .sum();
        let slope = common / spread;
        let base = mean_y - slope * mean_x;
        let rest: f64 = points
            .iter()
            .map(|(x, y)| (y - base - slope * x).powi(2))
            .sum();
        Some(Self {
            slope,
            error: (rest / (count - 2.0) / spread).sqrt(),
            base,
        })
    }

    pub fn at(&self, x: f64) -> f64 {
        self.base + self.slope * x
    }

    /// Whether it rises faster than `slope`, beyond the uncertainty of the points.
    pub fn exceeds(&self, slope: f64) -> bool {
        self.slope - CERTAINTY * self.error > slope
    }
}

/// Standard errors. Random scatter exceeds that once in forty times.
const CERTAINTY: f64 = 2.0;

#[cfg(test)]
mod tests {
    use super::*;

    /// Data that scatters by 1000 and grows by `growth` in each step.
    fn scattered(growth: f64) -> Trend {
        let points: Vec<_> = (0..20)
            .map(|x| {
                let noise = f64::from(x * 7919 % 20) * 50.0;
                (f64::from(x), 1e6 + noise + growth * f64::from(x))
            })
            .collect();
        Trend::of(&points).unwrap()
    }

    #[test]
    fn line_is_found() {
        let trend = Trend::of(&[(0.0, 5.0), (1.0, 7.0), (2.0, 9.0)]).unwrap();
        assert!((trend.slope - 2.0).abs() < 1e-9);
        assert!((trend.at(10.0) - 25.0).abs() < 1e-9);
        assert!(trend.error < 1e-9);
        assert!(trend.exceeds(1.0) && !trend.exceeds(2.5));
    }

    #[test]
    fn growth_is_told_from_scatter() {
        assert!(!scattered(0.0).exceeds(16.0));
        assert!(scattered(100.0).exceeds(16.0));
    }

    #[test]
    fn two_points_are_no_trend() {
        assert!(Trend::of(&[(0.0, 0.0), (1.0, 1.0)]).is_none());
        assert!(Trend::of(&[(1.0, 0.0), (1.0, 1.0), (1.0, 2.0)]).is_none());
    }
}
