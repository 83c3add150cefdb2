//! Doors for the fuzz targets in `fuzz/`; only those and tests have them.
//!
//! Each door takes the bytes that a fuzzer has chosen, and panics where a promise is broken. [`TARGETS`] has bytes to
//! begin with.

mod config;
mod multiaddr;

pub use self::{config::config, multiaddr::multiaddr};
pub use crate::{
    authenticator::fuzzing::{certificate, signed, signed_key},
    proto::fuzzing::{datagram, endpoints, muxer, registry},
};

/// A fuzz target: its name, its door, and what to begin with.
pub type Target = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

/// All of them.
pub const TARGETS: [Target; 8] = [
    (
        "certificate",
        certificate,
        crate::authenticator::fuzzing::certificates,
    ),
    ("config", config, noise),
    ("datagram", datagram, noise),
    ("endpoints", endpoints, noise),
    ("multiaddr", multiaddr, multiaddr::seeds),
    ("muxer", muxer, noise),
    ("registry", registry, noise),
    (
        "signed_key",
        signed_key,
        crate::authenticator::fuzzing::signed_keys,
    ),
];

/// Bytes to begin with where nothing in particular is wanted: operations are made of any bytes.
fn noise() -> Vec<Vec<u8>> {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    let mut random = StdRng::seed_from_u64(1);
    [16, 64, 256, 1024, 4096]
        .into_iter()
        .map(|len| {
            let mut bytes = vec![0; len];
            random.fill_bytes(&mut bytes);
            bytes
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    /// Inputs for each target, besides its seeds.
    const INPUTS: u64 = 12;

    /// What a fuzzer would do first, so that the targets keep working without one.
    #[test]
    fn every_target_takes_its_seeds_changes_of_them_and_noise() {
        for (name, run, seeds) in TARGETS {
            let seeds = seeds();
            assert!(!seeds.is_empty(), "{name}");
            seeds.iter().for_each(|seed| run(seed));
            let mut random = StdRng::seed_from_u64(7);
            for _ in 0..INPUTS {
                let mut changed = seeds[random.random_range(0..seeds.len())].clone();
                let index = random.random_range(0..changed.len());
                changed[index] ^= random.random_range(1..=u8::MAX);
                run(&changed);
                let mut noise = vec![0; random.random_range(0..600)];
                random.fill_bytes(&mut noise);
                run(&noise);
            }
        }
    }
}
