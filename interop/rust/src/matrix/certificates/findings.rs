//! Findings about peers that accept what they must refuse, or refuse what they need not.

use std::{fs, path::Path};

use serde::Deserialize;

/// The reviewed list. Reactions that are not in it cause no failure; they are shown as not
/// investigated.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Findings {
    pub finding: Vec<Finding>,
}

/// The reaction of one peer, or of several with the same code, to some certificates, and its cause.
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

    /// Whether there is a finding for `peer` with certificates of this number.
    pub fn explain(&self, peer: &str, number: u8) -> bool {
        self.finding.iter().any(|finding| {
            finding.cases.contains(&number) && finding.peers.iter().any(|name| name == peer)
        })
    }
}
