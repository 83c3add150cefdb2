//! The command line of `interop/run`.

use std::num::NonZeroUsize;

use clap::{Parser, ValueEnum};

/// Runs this transport against the other implementations.
#[derive(Parser)]
#[command(
    bin_name = "interop/run",
    after_help = "INTEROP_REQUIRE=go,js,nat,py,redis,rust makes a peer that cannot be prepared a \
                  failure."
)]
pub struct Arguments {
    /// 100 MiB, 1,000 streams, 60 s idle; without it, small sizes.
    #[arg(long)]
    pub full: bool,
    /// Only these; RESULTS.md is then left alone.
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    only: Vec<Part>,
    /// One row of the table, or certificates; RESULTS.md is then left alone.
    #[arg(long)]
    pub row: Option<String>,
    /// Runs of hole-punch for each pair and NAT, and every one of them; hole-punching.toml keeps
    /// the figures.
    #[arg(long)]
    runs: Option<NonZeroUsize>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Official,
    Go,
    Js,
    Py,
    Contracts,
    HolePunch,
}

impl Arguments {
    /// The names of the peers.
    pub fn peers(&self) -> Vec<&'static str> {
        let peers = [
            (Part::Official, "official"),
            (Part::Go, "go"),
            (Part::Js, "js"),
            (Part::Py, "py"),
        ];
        let wanted = peers.into_iter().filter(|(part, _)| self.wants(*part));
        wanted.map(|(_, name)| name).collect()
    }

    /// Rows are of the table only.
    pub fn contracts(&self) -> bool {
        self.row.is_none() && self.wants(Part::Contracts)
    }

    pub fn hole_punch(&self) -> bool {
        self.row.is_none() && self.wants(Part::HolePunch)
    }

    pub fn runs(&self) -> Option<usize> {
        self.runs.map(NonZeroUsize::get)
    }

    /// Whether everything runs.
    pub fn is_complete(&self) -> bool {
        self.only.is_empty() && self.row.is_none()
    }

    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Arguments {
        Arguments::try_parse_from(line.split(' ')).unwrap()
    }

    #[test]
    fn everything_runs_unless_a_part_is_asked_for() {
        let all = parse("run --full");
        assert_eq!(all.peers(), ["official", "go", "js", "py"]);
        assert!(all.full && all.contracts() && all.hole_punch() && all.is_complete());

        let some = parse("run --only py,go,hole-punch --runs 50");
        assert_eq!((some.peers(), some.runs()), (vec!["go", "py"], Some(50)));
        assert!(some.hole_punch() && !some.contracts() && !some.is_complete());

        let row = parse("run --row echo");
        assert_eq!(row.peers().len(), 4);
        assert!(!row.hole_punch() && !row.contracts() && !row.is_complete());
    }

    #[test]
    fn misspelt_part_is_not_left_out() {
        assert!(Arguments::try_parse_from(["run", "--only", "hole_punch"]).is_err());
        assert!(Arguments::try_parse_from(["run", "--runs", "0"]).is_err());
    }
}
