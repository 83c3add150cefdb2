//! Entry points for the fuzz targets in `fuzz/`; compiled only for fuzzing and tests.
//!
//! Each entry point takes the fuzzer's bytes and panics if an invariant is violated. [`TARGETS`]
//! lists them with seed inputs.

use arbitrary::{Arbitrary, Unstructured};

mod config;
mod datagram;
mod endpoints;
mod multiaddr;
mod muxer;
mod registry;

pub use self::{
    config::config, datagram::datagram, endpoints::endpoints, multiaddr::multiaddr, muxer::muxer,
    registry::registry,
};
pub use crate::authenticator::fuzzing::{certificate, signed, signed_key};

/// A fuzz target: its name, its entry point and its seed inputs.
pub type Target = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

/// All fuzz targets.
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

/// Generates values until the input is used up.
fn all<'a, T: Arbitrary<'a>>(input: &mut Unstructured<'a>) -> arbitrary::Result<Vec<T>> {
    let mut all = Vec::new();
    while !input.is_empty() {
        all.push(T::arbitrary(input)?);
    }
    Ok(all)
}

/// Seed inputs for targets that accept any bytes.
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

    /// Imitates a short fuzzing run, so that the targets keep working even if nobody runs a fuzzer.
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
