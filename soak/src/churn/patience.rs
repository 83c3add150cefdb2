//! Waiting, counted in turns of the runtime and not by the clock: after a suspension, a process
//! must not conclude that everything took too long.

use std::time::Duration;

/// Waits until the condition holds, at most a minute.
pub async fn until(mut is_so: impl FnMut() -> bool) {
    for _ in 0..TURNS {
        if is_so() {
            return;
        }
        tokio::time::sleep(TURN).await;
    }
}

/// `None` if it takes more than two minutes.
pub async fn bounded<T>(work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        done = work => Some(done),
        () = async {
            for _ in 0..2 * SECONDS {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        } => None,
    }
}

const SECONDS: u32 = 60;

const TURN: Duration = Duration::from_millis(10);

const TURNS: u32 = SECONDS * 100;
