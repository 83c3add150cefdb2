//! The hostile peer as the client of one listener.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use super::{Answer, Answers, Role, Told};
use crate::{
    case::{Family, Listener},
    child::Invocation,
};

/// Presents every certificate. If a listener crashes, another one replaces it.
pub fn all(victim: &Invocation, hostile: &Invocation, dir: &Path) -> Result<Answers, String> {
    let mut answers = Answers::new();
    let mut from = 0;
    for _ in 0..LISTENERS {
        let mut listener =
            Listener::start(victim, Family::V4, dir).map_err(|outcome| format!("{outcome:?}"))?;
        let from_here = ["dial", listener.addr(), "--from", &from.to_string()];
        let mut dialer = hostile.with(from_here).start(dir)?;
        loop {
            let Some(line) = dialer.line(Instant::now() + PATIENCE) else {
                return match dialer.wait(PATIENCE) {
                    Some(0) => Ok(answers),
                    code => Err(format!(
                        "the hostile client ends with {code:?}: {}",
                        dialer.errors()
                    )),
                };
            };
            let told: Told = serde_json::from_value(line.clone())
                .map_err(|error| format!("the hostile client says {line}: {error}"))?;
            let is_alive = listener.is_running();
            let answer = if is_alive {
                told.outcome.into()
            } else {
                Answer::Crashed
            };
            answers.insert((told.case, Role::Client), answer);
            if !is_alive {
                from = told.case + 1;
                break;
            }
        }
    }
    Err(format!("{LISTENERS} listeners have crashed"))
}

/// The most listeners that may crash.
const LISTENERS: usize = 8;

/// How long the hostile client may take for one certificate, with some reserve.
const PATIENCE: Duration = Duration::from_secs(30);
