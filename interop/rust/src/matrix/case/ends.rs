//! Checks that the end of a connection reached the other side as required.

use serde_json::Value;

use super::{Case, Direction, Listener};

impl Case {
    /// A side that was told of a close has received it within [`HEARS_MS`], with the code that was
    /// sent if it shows codes.
    pub(super) fn check_ends(
        &self,
        result: &Value,
        listener: &mut Listener,
        shows_code: bool,
    ) -> Result<(), String> {
        let (closed, heard) = (ends(result, "closed"), ends(result, "heard"));
        let peer_id = &result["peer_id"];
        let told = listener.lines_of("disconnected", peer_id, closed.len());
        let asked = listener.lines_of("closing", peer_id, heard.len());
        let (here, there) = match self.direction {
            Direction::Out => ("ours", self.peer),
            Direction::In => (self.peer, "ours"),
        };
        for (who, sent, heard) in [(there, closed, &told[..]), (here, &asked[..], heard)] {
            if sent.len() != heard.len() {
                let (count, all) = (heard.len().min(sent.len()), heard.len().max(sent.len()));
                return Err(format!("{who} has heard of {count} ends out of {all}"));
            }
            // Two connections that end within milliseconds may be reported in either order.
            let by_code = |ends: &[Value]| {
                let mut ends = ends.to_vec();
                ends.sort_by_key(|end| end["code"].as_u64());
                ends
            };
            for (sent, heard) in by_code(sent).iter().zip(&by_code(heard)) {
                check_end(who, sent, heard, who == "ours" || shows_code)?;
            }
        }
        // After everything about packets, because this is only about text.
        let our_ends = match self.direction {
            Direction::Out => heard,
            Direction::In => &told,
        };
        let is_said = our_ends.iter().any(|end| end["error"] == AS_AN_ERROR);
        if is_said && self.operation == "close-hears" {
            return Err(format!("ours says {AS_AN_ERROR:?} of an ordinary close"));
        }
        Ok(())
    }
}

fn check_end(who: &str, sent: &Value, heard: &Value, shows_code: bool) -> Result<(), String> {
    let times = heard["at_ms"].as_u64().zip(sent["at_ms"].as_u64());
    let (heard_ms, sent_ms) = times.ok_or("an end without a time")?;
    let after_ms = heard_ms.saturating_sub(sent_ms);
    if after_ms > HEARS_MS {
        return Err(format!(
            "{who} has heard of the end only after {after_ms} ms: {heard}"
        ));
    }
    let expected = if shows_code {
        &sent["code"]
    } else {
        &Value::Null
    };
    if heard["code"] != *expected {
        return Err(format!(
            "{who} has heard the code {}, not {expected}: {heard}",
            heard["code"]
        ));
    }
    Ok(())
}

/// All connections of the dialer came from the same port.
pub(super) fn check_port(result: &Value, listener: &mut Listener) -> Result<(), String> {
    let count = ends(result, "closed").len() + ends(result, "heard").len();
    let connected = listener.lines_of("connected", &result["peer_id"], count);
    let mut sources: Vec<_> = connected.iter().map(|line| line["from"].as_str()).collect();
    sources.dedup();
    if connected.len() != count || sources.len() != 1 || sources[0].is_none() {
        let came = connected.len();
        return Err(format!(
            "{came} connections of {count} came, from {sources:?}"
        ));
    }
    Ok(())
}

/// All data that the dialer sent before it closed has arrived, and its end.
pub(super) fn check_sunk(
    result: &Value,
    listener: &mut Listener,
    bytes: u64,
) -> Result<(), String> {
    let sunk = listener.lines_of("sunk", &result["peer_id"], 1);
    let sunk = sunk.first().unwrap_or(&Value::Null);
    if sunk["bytes"] != bytes || !sunk["error"].is_null() {
        return Err(format!(
            "of {bytes} bytes and their end the listener has {sunk}"
        ));
    }
    Ok(())
}

fn ends<'a>(result: &'a Value, which: &str) -> &'a [Value] {
    result[which].as_array().map_or(&[], Vec::as_slice)
}

/// How soon the end of a connection must be noticed: a tenth of our idle timeout.
const HEARS_MS: u64 = 1000;

/// Our error for a close with code 0, if it were shown like other codes.
const AS_AN_ERROR: &str = "closed by the peer with code 0x0";
