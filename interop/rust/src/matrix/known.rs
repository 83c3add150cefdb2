//! Known failures that were investigated and are not ours.

use std::{fs, path::Path};

use serde::Deserialize;

use crate::case::{Case, Direction};

/// The reviewed list.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    pub failure: Vec<Failure>,
}

/// A failure of one peer, with its cause.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    pub id: String,
    pub peer: String,
    /// `out` if we dial, `in` if the peer does; both if absent.
    pub direction: Option<String>,
    pub rows: Vec<String>,
    /// Text that the error must contain, so that another failure of the same operation is not
    /// hidden.
    pub error: String,
    /// Whether it sometimes passes.
    #[serde(default)]
    pub sometimes: bool,
    pub cause: String,
    pub evidence: String,
    pub issue: String,
}

impl Known {
    pub fn read(file: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(file).map_err(|error| error.to_string())?;
        toml::from_str(&text).map_err(|error| error.to_string())
    }

    /// The entry that explains why `case` failed with `error`.
    pub fn explain(&self, case: &Case, error: &str) -> Option<&Failure> {
        self.explain_row(case.peer, case.direction, &case.row, error)
    }

    /// The entry that explains why a row failed with `error`.
    pub fn explain_row(
        &self,
        peer: &str,
        direction: Direction,
        row: &str,
        error: &str,
    ) -> Option<&Failure> {
        self.of(peer, direction, row)
            .find(|failure| error.contains(&failure.error))
    }

    /// The entry by which `case` always fails.
    pub fn always(&self, case: &Case) -> Option<&Failure> {
        self.of(case.peer, case.direction, &case.row)
            .find(|failure| !failure.sometimes)
    }

    fn of(&self, peer: &str, direction: Direction, row: &str) -> impl Iterator<Item = &Failure> {
        self.failure.iter().filter(move |failure| {
            failure.peer == peer
                && failure.rows.iter().any(|name| name == row)
                && failure.direction.as_deref().is_none_or(|name| {
                    name == match direction {
                        Direction::Out => "out",
                        Direction::In => "in",
                    }
                })
        })
    }
}
