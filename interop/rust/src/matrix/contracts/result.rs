//! The output that a dialer must print, as the suites' scripts read it.

use regex::Regex;
use serde_json::Value;

/// Bytes that the perf tests transfer.
pub const PERF_BYTES: u64 = 1 << 20;

/// The format of a result.
#[derive(Clone, Copy, Debug)]
pub enum Format {
    /// unified-testing, transport and hole-punch.
    Latency,
    /// unified-testing, perf.
    Perf,
    /// test-plans, transport.
    LatencyJson,
    /// test-plans, perf.
    PerfJson,
    /// test-plans, hole-punch.
    HolePunchJson,
}

impl Format {
    /// A summary of the standard output.
    pub fn check(self, output: &str) -> Result<String, String> {
        let found = match self {
            Self::Latency => latency(output),
            Self::Perf => perf(output),
            Self::LatencyJson => latency_json(output),
            Self::PerfJson => perf_json(output),
            Self::HolePunchJson => hole_punch_json(output),
        };
        found.ok_or_else(|| format!("this is not its result: {output:?}"))
    }
}

fn latency(output: &str) -> Option<String> {
    let lines = grep(
        output,
        r"^(latency:|  (handshake_plus_one_rtt|ping_rtt|unit):)",
    )?;
    let number = r"(\d+(?:\.\d+)?)";
    let pattern = format!(
        r"^latency:\n  handshake_plus_one_rtt: {number}\n  ping_rtt: {number}\n  unit: ms$"
    );
    let found = Regex::new(&pattern).ok()?.captures(&lines)?;
    let (handshake, ping): (f64, f64) = (found[1].parse().ok()?, found[2].parse().ok()?);
    took(handshake, ping)
}

fn perf(output: &str) -> Option<String> {
    let lines = grep(
        output,
        r"^(upload:|download:|latency:|  (iterations|min|q1|median|q3|max|outliers|samples|unit):)",
    )?;
    let number = r"\d+(?:\.\d+)?(?:e-\d+)?";
    let list = format!(r"\[(?:{number}(?:, {number})*)?\]");
    let section = |name: &str, unit: &str| {
        format!(
            r"{name}:\n  iterations: \d+\n  min: {number}\n  q1: {number}\n  median: ({number})\n  q3: {number}\n  max: {number}\n  outliers: {list}\n  samples: {list}\n  unit: {unit}"
        )
    };
    let pattern = format!(
        r"^{}\n{}\n{}$",
        section("upload", "Gbps"),
        section("download", "Gbps"),
        section("latency", "ms")
    );
    let found = Regex::new(&pattern).ok()?.captures(&lines)?;
    Some(format!(
        "{} Gbit/s up, {} Gbit/s down, {} ms",
        &found[1], &found[2], &found[3]
    ))
}

/// The lines that a script picks from the log of the dialer.
fn grep(output: &str, pattern: &str) -> Option<String> {
    let pattern = Regex::new(pattern).ok()?;
    let lines: Vec<&str> = output
        .lines()
        .filter(|line| pattern.is_match(line))
        .collect();
    Some(lines.join("\n"))
}

fn latency_json(output: &str) -> Option<String> {
    // From the first brace on.
    let result = objects(output).next()?;
    took(
        result["handshakePlusOneRTTMillis"].as_f64()?,
        result["pingRTTMilllis"].as_f64()?,
    )
}

fn perf_json(output: &str) -> Option<String> {
    let last = objects(output).last()?;
    let complete = last["type"] == "final"
        && last["uploadBytes"] == PERF_BYTES
        && last["downloadBytes"] == PERF_BYTES;
    let seconds = last["timeSeconds"].as_f64().filter(|_| complete)?;
    Some(format!("{:.1} ms", seconds * 1000.0))
}

fn hole_punch_json(output: &str) -> Option<String> {
    // The script takes the last line.
    let result: Value = serde_json::from_str(output.lines().last()?).ok()?;
    let ping = result["rtt_to_holepunched_peer_millis"].as_f64()?;
    Some(format!("ping {ping:.2} ms"))
}

fn objects(output: &str) -> impl Iterator<Item = Value> {
    output
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(Value::is_object)
}

fn took(handshake_plus_one_rtt: f64, ping: f64) -> Option<String> {
    // A ping without a handshake does not count.
    (ping > 0.0 && handshake_plus_one_rtt > ping)
        .then(|| format!("handshake and ping {handshake_plus_one_rtt:.1} ms, ping {ping:.2} ms"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_documentation_pass() {
        let latency = "# Measurements from dialer\nlatency:\n  handshake_plus_one_rtt: 5.011\n  ping_rtt: 0.599\n  unit: ms\n";
        assert!(Format::Latency.check(latency).is_ok());
        let section = |name: &str, unit: &str| {
            format!(
                "{name}:\n  iterations: 3\n  min: 2.04\n  q1: 2.05\n  median: 2.06\n  q3: 2.06\n  max: 2.07\n  outliers: []\n  samples: [2.02, 2.04, 2.05]\n  unit: {unit}\n"
            )
        };
        let perf = format!(
            "{}{}{}",
            section("upload", "Gbps"),
            section("download", "Gbps"),
            section("latency", "ms")
        );
        assert!(Format::Perf.check(&perf).is_ok());
        let json = r#"{"handshakePlusOneRTTMillis":5.0,"pingRTTMilllis":0.5}"#;
        assert!(Format::LatencyJson.check(json).is_ok());
        assert!(
            Format::HolePunchJson
                .check(r#"{ "rtt_to_holepunched_peer_millis": 12 }"#)
                .is_ok()
        );
    }

    #[test]
    fn less_than_that_fails() {
        for (format, output) in [
            (Format::Latency, ""),
            (Format::Latency, "latency:\n  ping_rtt: 0.599\n  unit: ms\n"),
            (
                Format::Latency,
                "latency:\n  handshake_plus_one_rtt: 0.1\n  ping_rtt: 0.599\n  unit: ms\n",
            ),
            (Format::Perf, "upload:\n  iterations: 3\n"),
            (
                Format::LatencyJson,
                r#"{"handshakePlusOneRTTMillis":5.0,"pingRTTMillis":0.5}"#,
            ),
            (
                Format::PerfJson,
                r#"{"type":"intermediary","timeSeconds":1.0,"uploadBytes":1,"downloadBytes":0}"#,
            ),
            (Format::HolePunchJson, "{}"),
        ] {
            assert!(format.check(output).is_err(), "{format:?}: {output}");
        }
    }
}
