//! What was found out about peers that accept what they must not, or refuse what they need not.

use std::{fs, path::Path};

use serde::Deserialize;

/// The reviewed list. What is not in it fails nothing: it is shown as not looked into.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Findings {
    pub finding: Vec<Finding>,
}

/// What one peer, or some with the same code, do with some certificates, and why.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    pub id: String,
    pub peers: Vec<String>,
    /// Numbers of threats.
    pub cases: Vec<u8>,
    pub cause: String,
    pub evidence: String,
    pub issue: String,
}

impl Findings {
    pub fn read(file: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(file).map_err(|error| error.to_string())?;
        toml::from_str(&text).map_err(|error| error.to_string())
    }

    /// Whether somebody knows why `peer` does what it does with certificates of this number.
    pub fn explain(&self, peer: &str, number: u8) -> bool {
        self.finding.iter().any(|finding| {
            finding.cases.contains(&number) && finding.peers.iter().any(|name| name == peer)
        })
    }
}
