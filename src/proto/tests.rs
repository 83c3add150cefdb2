//! Tests with simulated nodes in simulated networks.
//!
//! A test that fails prints its seed, and the same seed replays the same run bit for bit. The
//! environment variable `SIM_SEEDS` replaces the few seeds of a quick run: either a number of seeds
//! from 0 on, or a range, so that one seed can be run alone:
//!
//! ```text
//! SIM_SEEDS=10000 cargo test --release --lib proto::tests::scenario -- --nocapture
//! SIM_SEEDS=17..18 cargo test --lib proto::tests::transfer
//! ```

use std::ops::Range;

mod admission;
mod bandwidth;
mod closing;
mod conversation;
mod counting;
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
mod known_paths;
mod lingering;
mod many_streams;
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
mod settings;
mod silence;
mod source_address;
mod stopped;
mod streams;
#[cfg(feature = "nat")]
mod stun;
mod timing;
mod traces;
mod transfer;
mod trials;
mod wan;
mod windows;
mod write_line;

use crate::{
    config::ConfigBuilder,
    simulation::{link, mangle, network, node, peer, spoofer, tasks, wire},
};

/// Sets the receive windows of a stream and of the connection, in bytes. They do not grow then.
fn set_windows<const STREAM: u64, const CONNECTION: u64>(builder: ConfigBuilder) -> ConfigBuilder {
    builder
        .stream_receive_window_bytes(STREAM)
        .and_then(|builder| builder.connection_receive_window_bytes(CONNECTION))
        .unwrap()
}

/// The number of seeds of a quick run.
const QUICK_SEEDS: u64 = 50;

/// The seeds of a loop.
fn seeds() -> Range<u64> {
    seed_range(QUICK_SEEDS)
}

/// The seeds from 0 to `quick`, unless the environment sets others.
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
