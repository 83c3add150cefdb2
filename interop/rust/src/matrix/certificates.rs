//! The second table: each peer's reaction to each wrong certificate, from a client and from a
//! server.

mod findings;
mod present;
mod serve;
mod table;

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;

use self::serve::Server;
pub use self::{findings::Findings, table::Table};
use crate::{
    child::Invocation,
    prepare::{Peer, Ready},
};

/// The name of this part, as if it were a row of the first table.
pub const ROW: &str = "certificates";

/// A certificate, as described by the hostile peer.
#[derive(Clone, Deserialize, PartialEq, Eq)]
pub struct Certificate {
    /// Its index in the list.
    #[serde(rename = "case")]
    pub index: usize,
    /// The number of the threat.
    pub number: u8,
    pub name: String,
    /// Whether nothing else is wrong with it than the forgery.
    pub signed: bool,
    /// The error with which ours refuses it; `None` if it is valid.
    pub refuse: Option<String>,
}

/// The role of the hostile peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// It dials, and presents its certificate.
    Client,
    /// It is dialled, and serves its certificate.
    Server,
}

/// A peer's reaction to a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Accepted,
    /// With a TLS alert, or otherwise.
    Refused(String),
    /// It neither talked nor refused in time.
    Silent,
    /// It has crashed.
    Crashed,
    /// There was no certificate to react to.
    Failed(String),
}

/// The answers of one peer.
pub type Answers = BTreeMap<(usize, Role), Answer>;

/// Attacks ours and every other peer.
pub fn run(ours: &Ready, peers: &[Peer], findings: Findings, hostile: &Path, root: &Path) -> Table {
    let hostile = Invocation::new([hostile.display().to_string()]);
    let mut table = Table {
        certificates: Vec::new(),
        answers: Vec::new(),
        findings,
        errors: Vec::new(),
    };
    let others = peers
        .iter()
        .filter_map(|peer| Some((peer.name, peer.state.as_ref().ok()?)));
    for (name, victim) in [("ours", ours)].into_iter().chain(others) {
        eprintln!("{ROW}: {name}");
        match attack(&victim.invocation, &hostile, root) {
            Ok((certificates, answers)) => {
                table.certificates = certificates;
                table.answers.push((name, answers));
            }
            Err(error) => table.errors.push(format!("{ROW}, {name}: {error}")),
        }
    }
    table
}

/// Attacks one peer in both roles.
fn attack(
    victim: &Invocation,
    hostile: &Invocation,
    dir: &Path,
) -> Result<(Vec<Certificate>, Answers), String> {
    let mut answers = present::all(victim, hostile, dir)?;
    let server = Server::start(hostile, dir)?;
    answers.extend(server.serve_all(victim, dir)?);
    Ok((server.certificates(), answers))
}

impl Certificate {
    /// Whether this is the required reaction.
    fn deserves(&self, answer: &Answer) -> bool {
        match answer {
            Answer::Accepted => self.refuse.is_none(),
            Answer::Refused(_) => self.refuse.is_some(),
            Answer::Silent | Answer::Crashed | Answer::Failed(_) => false,
        }
    }
}

/// The hostile peer's report of a connection.
#[derive(Deserialize)]
struct Told {
    case: usize,
    #[serde(flatten)]
    outcome: Outcome,
}

#[derive(Deserialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
enum Outcome {
    Accepted,
    Refused { how: String },
    Silent,
    Failed { reason: String },
}

impl From<Outcome> for Answer {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Accepted => Self::Accepted,
            Outcome::Refused { how } => Self::Refused(how),
            Outcome::Silent => Self::Silent,
            Outcome::Failed { reason } => Self::Failed(reason),
        }
    }
}
