//! Flows that write little: what the application leaves free must not cost it time.

use std::fmt::Write as _;

use anyhow::{Context, Result};

use super::{Controller, LATE, about, goals, means_of_each};
use crate::{
    figures::Figures,
    wan::{page, told::Told},
};

/// A path, and what one flow writes on it.
pub struct Limited {
    pub what: &'static str,
    /// Without what asks for a controller.
    pub path: String,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Pauses after each write.
    Pausing,
    /// Waits for the answer to each write.
    Asking,
}

impl Kind {
    /// What is told of the times that writes take, shortest first.
    fn columns(self) -> [&'static str; 2] {
        match self {
            Self::Pausing => ["latency", "latest"],
            Self::Asking => ["latency", "p99"],
        }
    }
}

impl Limited {
    /// Times in ms, of the last flow; the means of all seeds.
    pub fn times(&self, seeds: &[&Told]) -> [f64; 2] {
        (self.kind.columns()).map(|name| {
            means_of_each(seeds, name)
                .last()
                .copied()
                .unwrap_or(f64::NAN)
        })
    }
}

const HEADING: &str = "## Flows that write little\n";

const PAUSING: [(&str, &str); 7] = [
    (
        "1 Mb/s",
        "rate=100,rtt=63,loss=0,flows=1,every=20,write=2500,seconds=30",
    ),
    (
        "1 Mb/s, 1 % of loss",
        "rate=100,rtt=63,loss=1,flows=1,every=20,write=2500,seconds=30",
    ),
    (
        "1 Mb/s beside a bulk flow",
        "rate=100,rtt=63,loss=0,flows=2,every=20,write=2500,seconds=30",
    ),
    (
        "1 kB each 100 ms",
        "rate=20,rtt=40,loss=0,flows=1,every=100,write=1000,seconds=30",
    ),
    (
        "20 kB each 100 ms",
        "rate=20,rtt=40,loss=0,flows=1,every=100,write=20000,seconds=30",
    ),
    (
        "100 kB each 100 ms",
        "rate=100,rtt=63,loss=0,flows=1,every=100,write=100000,seconds=30",
    ),
    (
        "100 kB each 100 ms beside a bulk flow",
        "rate=100,rtt=63,loss=0,flows=2,every=100,write=100000,seconds=30",
    ),
];

/// About a hundred requests at least, and three hundred or more where packets are lost.
const ASKING: [(&str, &str); 11] = [
    (
        "1 kB, 1 kB",
        "rate=100,rtt=63,loss=0,flows=1,every=0,write=1000,answer=1000,seconds=30",
    ),
    (
        "1 kB, 1 kB, 1 % of loss",
        "rate=100,rtt=63,loss=1,flows=1,every=0,write=1000,answer=1000,seconds=120",
    ),
    (
        "1 kB, 1 kB beside a bulk flow",
        "rate=100,rtt=63,loss=0,flows=2,every=0,write=1000,answer=1000,seconds=30",
    ),
    (
        "1 kB, 1 kB after 10 s of silence",
        "rate=100,rtt=63,loss=0,flows=1,every=10000,write=1000,answer=1000,seconds=1200",
    ),
    (
        "1 kB, 100 kB",
        "rate=20,rtt=40,loss=0,flows=1,every=0,write=1000,answer=100000,seconds=30",
    ),
    (
        "1 kB, 100 kB",
        "rate=100,rtt=63,loss=0,flows=1,every=0,write=1000,answer=100000,seconds=30",
    ),
    (
        "1 kB, 100 kB, 1 % of loss",
        "rate=100,rtt=63,loss=1,flows=1,every=0,write=1000,answer=100000,seconds=120",
    ),
    (
        "100 kB, 1 kB beside a bulk flow",
        "rate=100,rtt=63,loss=0,flows=2,every=0,write=100000,answer=1000,seconds=60",
    ),
    (
        "1 kB, 100 kB after 1 s of silence",
        "rate=100,rtt=63,loss=0,flows=1,every=1000,write=1000,answer=100000,seconds=120",
    ),
    (
        "1 kB, 100 kB after 10 s of silence",
        "rate=100,rtt=63,loss=0,flows=1,every=10000,write=1000,answer=100000,seconds=1200",
    ),
    (
        "1 kB, 1 MB after 1 s of silence",
        "rate=100,rtt=63,loss=0,flows=1,every=1000,write=1000,answer=1000000,seconds=120",
    ),
];

pub fn all(short: bool) -> Vec<Limited> {
    let (pausing, asking) = if short {
        (&PAUSING[..1], &ASKING[..1])
    } else {
        (&PAUSING[..], &ASKING[..])
    };
    let pausing = pausing.iter().map(|path| (path, Kind::Pausing));
    let asking = asking.iter().map(|path| (path, Kind::Asking));
    pausing
        .chain(asking)
        .map(|(&(what, path), kind)| Limited {
            what,
            path: format!("{path},queue=1,{LATE}"),
            kind,
        })
        .collect()
}

/// The section of the page.
pub fn write(page: &mut String, controllers: &[Controller], told: &[Told]) -> Result<()> {
    write!(page, "\n{HEADING}")?;
    write_tables(page, controllers, told)
}

/// The page with another section, and another row among the goals.
pub fn replace(
    page: &str,
    figures: &Figures,
    controllers: &[Controller],
    told: &[Told],
) -> Result<String> {
    let (before, rest) = page.split_once(HEADING).context("no section to replace")?;
    let after = rest.find("\n## ").map_or("", |at| &rest[at..]);
    let mut replaced = goals::replace(before, &goals::of_limited(told))?;
    replaced.push_str(HEADING);
    replaced.push_str("\nThis section, and its goal, were measured apart from the rest.\n");
    page::figures(&mut replaced, figures)?;
    write_tables(&mut replaced, controllers, told)?;
    replaced.push_str(after);
    Ok(replaced)
}

fn write_tables(page: &mut String, controllers: &[Controller], told: &[Told]) -> Result<()> {
    writeln!(
        page,
        "\nFrom a write until all of it was read, in ms: half of the writes, and all.\n\
         Those that are unfinished at the end count with their age.\n"
    )?;
    write_table(page, Kind::Pausing, controllers, told)?;
    writeln!(
        page,
        "\n### Requests and answers\n\n\
         One request at a time, after the whole answer to the one before, or a silence after that.\n\
         From a request until its whole answer was read, round trip included, in ms: half of the\n\
         requests, and 99 %. The first name is of the request, the second of the answer.\n"
    )?;
    write_table(page, Kind::Asking, controllers, told)
}

fn write_table(
    page: &mut String,
    kind: Kind,
    controllers: &[Controller],
    told: &[Told],
) -> Result<()> {
    write!(page, "| | Mb/s | RTT ms |")?;
    for controller in controllers {
        write!(page, " {} |", controller.name())?;
    }
    writeln!(page, "\n|{}", "---|".repeat(3 + controllers.len()))?;
    for limited in all(false).iter().filter(|limited| limited.kind == kind) {
        let rows: Vec<_> = (controllers.iter())
            .map(|controller| about(told, &format!("{},{}", limited.path, controller.part())))
            .filter(|seeds| !seeds.is_empty())
            .collect();
        let Some(first) = rows.iter().flatten().next() else {
            continue;
        };
        let [rate, rtt] = ["rate", "rtt"].map(|name| first.asked(name));
        write!(page, "| {} | {rate} | {rtt} |", limited.what)?;
        for seeds in rows {
            let [half, most] = limited.times(&seeds);
            write!(page, " {half:.1}, {most:.1} |")?;
        }
        writeln!(page)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Controller; 2] = [Controller::Cubic, Controller::Bbr];

    /// The first path of each table, with as many ms for BBR.
    fn told(bbr: f64) -> Vec<Told> {
        let mut told = Vec::new();
        for limited in all(true) {
            for (controller, time) in BOTH.into_iter().zip([10.0, bbr]) {
                let (path, part) = (&limited.path, controller.part());
                let line = format!(
                    "path {path},{part},seed=1 cpu=1 flow goodput=1 latency={time} p99={time} \
                     latest={time}"
                );
                told.extend(Told::parse(&line));
            }
        }
        told
    }

    #[test]
    fn section_and_goal_are_replaced_and_the_rest_stays() {
        let figures = Figures::new("soak wan --limited".to_owned()).unwrap();
        let rest = "# Head\n\n| goal | cells | missed |\n|---|---|---|\n| other | 1 | none |\n\n\
                    ## Alone\n\n| 1 |\n\n## Flows that write little\n";
        let first = replace(
            &format!("{rest}\nold\n\n## Later\n"),
            &figures,
            &BOTH,
            &told(10.9),
        )
        .unwrap();
        let goal = |page: &str| {
            let mut lines = page
                .lines()
                .filter(|line| line.starts_with("| flows that write little"));
            let line = lines.next().unwrap_or_default().to_owned();
            assert_eq!(lines.next(), None);
            line
        };
        assert!(goal(&first).ends_with("| 2 | none |"), "{first}");
        assert!(first.contains("| other | 1 | none |\n| ") && first.contains("\n\n## Alone\n"));
        assert!(first.contains("| 1 kB, 1 kB | 100 | 63 | 10.0, 10.0 | 10.9, 10.9 |"));
        assert!(
            !first.contains("old") && first.ends_with("\n## Later\n"),
            "{first}"
        );

        let second = replace(&first, &figures, &BOTH, &told(11.1)).unwrap();
        let missed = "| 2 | 2: 1 Mb/s: 11.1, 11.1 of 10.0, 10.0 ms; 1 kB, 1 kB: ";
        assert!(goal(&second).contains(missed), "{second}");
        assert!(!second.contains("10.9"), "{second}");
        assert!(replace("# Head\n", &figures, &BOTH, &told(1.0)).is_err());
    }
}
