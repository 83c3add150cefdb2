//! Writes the first inputs of the fuzz targets: `seeds DIRECTORY` makes a subdirectory for each
//! target.

use std::{env, error::Error, fs, path::PathBuf};

use libp2p_quinn::fuzzing;

/// The certificates of the verifier's tests: good ones, and every kind that must be refused.
#[allow(dead_code, unused_imports, reason = "only the cases are of use here")]
#[path = "../../../tests/support/certificates.rs"]
mod certificates;
use libp2p_quinn::CertificateError;

fn main() -> Result<(), Box<dyn Error>> {
    let directory = env::args().nth(1).ok_or("usage: seeds DIRECTORY")?;
    let directory = PathBuf::from(directory);
    for (name, _, seeds) in fuzzing::TARGETS {
        write(&directory.join(name), seeds())?;
    }
    for name in ["certificate", "differential"] {
        let whole = certificates::cases().into_iter().filter_map(|case| {
            let certificate = case.certificate()?;
            // Larger inputs only slow the fuzzer down.
            (certificate.len() < LARGEST).then(|| [&[0], certificate].concat())
        });
        write(&directory.join(name), whole)?;
    }
    let (_, _, seeds) = fuzzing::TARGETS[0];
    write(&directory.join("differential"), seeds())
}

const LARGEST: usize = 2048;

/// Writes each seed to its own file, beside the existing files.
fn write(
    directory: &PathBuf,
    seeds: impl IntoIterator<Item = Vec<u8>>,
) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(directory)?;
    let begin = fs::read_dir(directory)?.count();
    for (number, seed) in seeds.into_iter().enumerate() {
        fs::write(directory.join(format!("seed-{}", begin + number)), seed)?;
    }
    Ok(())
}
