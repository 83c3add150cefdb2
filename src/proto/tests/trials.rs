//! Many seeds, on all cores.

use std::{
    ops::Range,
    panic::{self, AssertUnwindSafe},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

/// Plays each of the seeds, and returns the results in their order.
///
/// # Panics
///
/// If one of them panicked. Each panic prints how to replay it.
pub(super) fn play_all<T: Send>(
    test: &str,
    seeds: Range<u64>,
    play: impl Fn(u64) -> T + Sync,
) -> Vec<T> {
    let next = AtomicU64::new(seeds.start);
    let outcomes = Mutex::new(Vec::new());
    let failures = Mutex::new(Vec::new());
    let play_some = || loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= seeds.end || failures.lock().unwrap().len() >= MOST_FAILURES {
            return;
        }
        match panic::catch_unwind(AssertUnwindSafe(|| play(seed))) {
            Ok(outcome) => outcomes.lock().unwrap().push((seed, outcome)),
            Err(_) => {
                eprintln!("seed {seed} failed; this replays it:");
                eprintln!("SIM_SEEDS={seed}..{} cargo test --lib {test}", seed + 1);
                failures.lock().unwrap().push(seed);
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(play_some);
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "seeds that failed: {failures:?}");
    let mut outcomes = outcomes.into_inner().unwrap();
    outcomes.sort_by_key(|&(seed, _)| seed);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

/// The number of failures after which no more seeds are tried.
const MOST_FAILURES: usize = 10;
