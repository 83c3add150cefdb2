//! Nodes in simulated networks: virtual time, values for datagrams, and one seed for everything random.
//!
//! A test that fails prints its seed, and the same seed replays the same run bit for bit. The environment
//! variable `LIBP2P_QUINN_SEEDS` says how many seeds the loops try, the default being what a quick run
//! can afford; `LIBP2P_QUINN_FIRST_SEED` says where they begin, so that one seed can be looked at alone:
//!
//! ```text
//! LIBP2P_QUINN_FIRST_SEED=17 LIBP2P_QUINN_SEEDS=1 cargo test --lib proto::tests::transfer
//! ```

mod admission;
mod closing;
mod fairness;
mod handshake;
mod histories;
mod hole_punch;
mod id_quota;
mod link;
mod network;
mod node;
mod peer;
mod retry;
mod routing;
mod streams;
#[cfg(feature = "nat")]
mod stun;
mod transfer;

/// Seeds that a loop tries unless the environment says otherwise.
const QUICK_SEEDS: u64 = 50;

/// What a loop over seeds goes through.
fn seeds() -> std::ops::Range<u64> {
    let first = number_from_environment("LIBP2P_QUINN_FIRST_SEED").unwrap_or(0);
    first..first + seed_count()
}

fn seed_count() -> u64 {
    number_from_environment("LIBP2P_QUINN_SEEDS").unwrap_or(QUICK_SEEDS)
}

fn number_from_environment(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is not a number: {value}")),
    )
}
