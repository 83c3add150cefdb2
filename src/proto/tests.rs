//! What simulated nodes do in simulated networks.
//!
//! A test that fails prints its seed, and the same seed replays the same run bit for bit. The environment
//! variable `SIM_SEEDS` says which seeds the loops try instead of those that a quick run can afford: so many from 0 on,
//! or from one up to another, so that a seed can be looked at alone:
//!
//! ```text
//! SIM_SEEDS=10000 cargo test --release --lib proto::tests::scenario -- --nocapture
//! SIM_SEEDS=17..18 cargo test --lib proto::tests::transfer
//! ```

use std::ops::Range;

mod admission;
mod closing;
mod conversation;
mod crossing;
mod crowd;
mod crypto;
mod doubts;
mod ends;
mod fairness;
mod forgery;
mod frames;
mod handshake;
mod histories;
mod hole_punch;
mod id_quota;
mod lingering;
mod memory;
mod migration;
mod paths;
mod received;
mod replay;
mod resets;
mod retry;
mod routing;
mod scenario;
mod scene;
mod silence;
mod source_address;
mod streams;
#[cfg(feature = "nat")]
mod stun;
mod timing;
mod transfer;
mod trials;
mod wan;
mod windows;

use super::simulation::{link, mangle, network, node, peer, spoofer, tasks, wire};

/// Seeds that a loop tries unless the environment says otherwise.
const QUICK_SEEDS: u64 = 50;

/// What a loop over seeds goes through.
fn seeds() -> Range<u64> {
    seed_range(QUICK_SEEDS)
}

/// As many seeds as given, unless the environment says otherwise.
fn seed_range(quick: u64) -> Range<u64> {
    let Ok(wanted) = std::env::var("SIM_SEEDS") else {
        return 0..quick;
    };
    let number = |text: &str| {
        text.parse()
            .unwrap_or_else(|_| panic!("SIM_SEEDS is neither a number nor FROM..TO: {wanted}"))
    };
    match wanted.split_once("..") {
        Some((from, to)) => number(from)..number(to),
        None => 0..number(&wanted),
    }
}
