//! The machine, the date and the versions of a run.

use std::{fs, thread};

use anyhow::Result;
use harness::machine::{cpu_model, now};
use nix::sys::utsname::uname;
use serde::Serialize;

#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    pub date: String,
    pub cpu: String,
    pub cpus: usize,
    pub kernel: String,
    /// The largest receive buffer that the kernel grants a socket, in bytes.
    pub rmem_max: String,
    pub versions: Vec<String>,
}

impl Machine {
    pub fn this() -> Result<Self> {
        let kernel = uname()?;
        Ok(Self {
            date: now()?,
            cpu: cpu_model().unwrap_or_else(|| "unknown".to_owned()),
            cpus: thread::available_parallelism()?.get(),
            kernel: format!(
                "{} {} {}",
                kernel.sysname().display(),
                kernel.release().display(),
                kernel.machine().display()
            ),
            rmem_max: fs::read_to_string("/proc/sys/net/core/rmem_max")
                .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned()),
            versions: versions()?,
        })
    }
}

/// The versions of the packages that matter for the figures, from this program's lock file.
fn versions() -> Result<Vec<String>> {
    let lockfile: toml::Table = include_str!("../../../Cargo.lock").parse()?;
    let packages = lockfile["package"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let text = |package: &toml::Value, key: &str| package.get(key)?.as_str().map(ToOwned::to_owned);
    Ok(packages
        .iter()
        .filter_map(|package| Some((text(package, "name")?, text(package, "version")?)))
        .filter(|(name, _)| MATTERING.contains(&name.as_str()))
        .map(|(name, version)| format!("{name} {version}"))
        .collect())
}

const MATTERING: [&str; 10] = [
    "aws-lc-rs",
    "libp2p-core",
    "libp2p-quic",
    "libp2p-quinn",
    "libp2p-swarm",
    "quinn",
    "quinn-proto",
    "quinn-udp",
    "rustls",
    "tokio",
];
