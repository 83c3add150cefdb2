//! The result of the transport and the hole-punch tests.

use std::time::Duration;

use serde_json::json;

/// The time until the peer had answered.
pub struct Latency {
    /// From the dial to the first pong.
    pub handshake_plus_one_rtt: Duration,
    /// The ping alone.
    pub ping_rtt: Duration,
}

impl Latency {
    /// The format of unified-testing.
    pub fn yaml(&self) -> String {
        format!(
            "latency:\n  handshake_plus_one_rtt: {:.3}\n  ping_rtt: {:.3}\n  unit: ms",
            millis(self.handshake_plus_one_rtt),
            millis(self.ping_rtt)
        )
    }

    /// The format of the transport test of test-plans, which spells one of its names with three
    /// l's.
    pub fn json(&self) -> String {
        json!({
            "handshakePlusOneRTTMillis": millis(self.handshake_plus_one_rtt),
            "pingRTTMilllis": millis(self.ping_rtt),
        })
        .to_string()
    }
}

pub fn millis(duration: Duration) -> f64 {
    // In microseconds; more digits would be meaningless.
    duration.as_micros() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATENCY: Latency = Latency {
        handshake_plus_one_rtt: Duration::from_micros(5011),
        ping_rtt: Duration::from_micros(599),
    };

    #[test]
    fn yaml_is_that_of_the_documentation() {
        assert_eq!(
            LATENCY.yaml(),
            "latency:\n  handshake_plus_one_rtt: 5.011\n  ping_rtt: 0.599\n  unit: ms"
        );
    }

    #[test]
    fn json_has_three_ls() {
        assert_eq!(
            LATENCY.json(),
            r#"{"handshakePlusOneRTTMillis":5.011,"pingRTTMilllis":0.599}"#
        );
    }
}
