//! Congestion control of one kind beside another: the same paths for each, and flows that compete.

mod goals;
mod limited;

use std::fmt::Write as _;

use anyhow::Result;
use clap::ValueEnum;

pub use self::limited::replace as replace_limited;
use super::{
    cell::{mean, mean_of},
    grid::{Asked, Kind, Table},
    page,
    told::Told,
};
use crate::figures::Figures;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Controller {
    Cubic,
    Bbr,
    Newreno,
    /// quinn-proto's CUBIC.
    Quinn,
}

impl Controller {
    pub fn name(self) -> &'static str {
        match self {
            Self::Cubic => "cubic",
            Self::Bbr => "bbr",
            Self::Newreno => "newreno",
            Self::Quinn => "quinn",
        }
    }

    /// The part of `SIM_WAN` that selects it; no two controllers have the same three values.
    fn part(self) -> &'static str {
        match self {
            Self::Cubic => "bbr=0,reno=0,quinn=0",
            Self::Bbr => "bbr=1,reno=0,quinn=0",
            Self::Newreno => "bbr=0,reno=1,quinn=0",
            Self::Quinn => "bbr=0,reno=0,quinn=1",
        }
    }
}

/// What competes on one path.
struct Contest {
    /// Without its seed.
    path: String,
    /// In the order of their beginnings.
    flows: &'static str,
}

const HEAD: &str = "# Congestion control of one kind beside another

The same paths in virtual time for each controller, as in [wan.md](wan.md), with default windows.
`soak wan --controller` writes this page.

- Timers are late by up to 2 ms, as on a real machine.
- Goodput is from the beginning on, with slow start: 20 s at 100 Mb/s, 10 s at 1 Gb/s.
- All figures are means: of all seeds at 100 Mb/s with loss, and of a fifth of them elsewhere. How
  long 1, 10 and 100 MB take is only told if all of these seeds have read as much.
- *Delay* is by how much round trips of the first flow are longer than those of a datagram on an
  empty path, on average in the second half.
";

/// As late as wake-ups are that `proto/pacing` allows for.
const LATE: &str = "late=2";

/// Seconds of a contest.
const CONTEST_SECONDS: u32 = 40;

pub fn tables(controllers: &[Controller], seeds: u64, short: bool) -> Vec<Table> {
    let alone = alone(short)
        .iter()
        .flat_map(|path| with_controllers(path, controllers, seeds))
        .collect();
    let contests = contests(controllers, short)
        .into_iter()
        .flat_map(|contest| {
            (1..=a_fifth(seeds)).map(move |seed| format!("{},seed={seed}", contest.path))
        });
    vec![
        table(Kind::Alone, alone),
        table(Kind::Contest, contests.collect()),
        limited_table(controllers, seeds, short),
    ]
}

/// Flows that write little.
pub fn limited_table(controllers: &[Controller], seeds: u64, short: bool) -> Table {
    let paths = limited::all(short)
        .iter()
        .flat_map(|limited| with_seeds(&limited.path, controllers, a_fifth(seeds)))
        .collect();
    table(Kind::Limited, paths)
}

fn table(kind: Kind, paths: Vec<String>) -> Table {
    let asked = paths.into_iter().map(|path| Asked {
        path,
        is_measured: false,
    });
    Table {
        kind,
        asked: asked.collect(),
    }
}

fn alone(short: bool) -> Vec<String> {
    if short {
        return [format!("rate=100,rtt=63,loss=1,queue=1,{LATE},seconds=8")].into();
    }
    let mut paths = Vec::new();
    for (rate, seconds) in [(100, 20), (1000, 10)] {
        for rtt in [10, 63, 150] {
            for loss in [0.0, 0.1, 1.0] {
                for queue in [0.1, 0.5, 1.0, 4.0] {
                    paths.push(format!(
                        "rate={rate},rtt={rtt},loss={loss},queue={queue},{LATE},\
                         seconds={seconds}"
                    ));
                }
            }
        }
    }
    paths
}

fn with_controllers<'a>(
    path: &'a str,
    controllers: &'a [Controller],
    seeds: u64,
) -> impl Iterator<Item = String> {
    let is_quick = path.contains("rate=100,") && !path.contains("loss=0,");
    with_seeds(
        path,
        controllers,
        if is_quick { seeds } else { a_fifth(seeds) },
    )
}

fn with_seeds<'a>(
    path: &'a str,
    controllers: &'a [Controller],
    seeds: u64,
) -> impl Iterator<Item = String> {
    (1..=seeds).flat_map(move |seed| {
        controllers
            .iter()
            .map(move |controller| format!("{path},{},seed={seed}", controller.part()))
    })
}

/// For paths that take much CPU time, or whose seeds differ in little.
fn a_fifth(seeds: u64) -> u64 {
    seeds.div_ceil(5)
}

/// Flows of CUBIC and BBR that share a path, if both are asked for.
fn contests(controllers: &[Controller], short: bool) -> Vec<Contest> {
    let has = |controller| controllers.contains(&controller);
    if !has(Controller::Cubic) || !has(Controller::Bbr) {
        return Vec::new();
    }
    let (rtts, queues) = if short {
        (&[10][..], &[1.0][..])
    } else {
        (&[10, 63][..], &[0.5, 1.0, 4.0][..])
    };
    let kinds = [
        ("bbr=0,rivals=0,flows=2", "cubic, cubic"),
        ("bbr=1,rivals=0,flows=2", "bbr, bbr"),
        ("bbr=0,rivals=1,flows=2", "cubic, bbr"),
        ("bbr=0,rivals=2,flows=2", "bbr, cubic"),
        ("bbr=1,rivals=0,flows=2,apart=10", "bbr, bbr 10 s later"),
        ("bbr=0,rivals=0,flows=8", "8 cubic"),
        ("bbr=1,rivals=0,flows=8", "8 bbr"),
        ("bbr=0,rivals=1,flows=8", "4 cubic, 4 bbr"),
    ];
    let kinds = if short { &kinds[1..3] } else { &kinds[..] };
    let mut contests = Vec::new();
    for rtt in rtts {
        for queue in queues {
            for &(kind, flows) in kinds {
                let apart = if kind.contains("apart") {
                    ""
                } else {
                    ",apart=1"
                };
                contests.push(Contest {
                    path: format!(
                        "rate=100,rtt={rtt},queue={queue},{kind}{apart},every=0,quinn=0,reno=0,\
                         {LATE},seconds={CONTEST_SECONDS}"
                    ),
                    flows,
                });
            }
        }
    }
    contests
}

pub fn write(figures: &Figures, controllers: &[Controller], told: &[Told]) -> Result<String> {
    let mut page = HEAD.to_owned();
    page::figures(&mut page, figures)?;
    goals::write(&mut page, told)?;
    write_alone(&mut page, controllers, told)?;
    write_contests(&mut page, controllers, told)?;
    limited::write(&mut page, controllers, told)?;
    Ok(page)
}

fn write_alone(page: &mut String, controllers: &[Controller], told: &[Told]) -> Result<()> {
    writeln!(page, "\n## Alone\n")?;
    write!(page, "| Mb/s | RTT ms | loss % | queue BDP |")?;
    for name in ["Mb/s", "delay ms", "lost %", "1 / 10 / 100 MB after s"] {
        for controller in controllers {
            write!(page, " {name}, {} |", controller.name())?;
        }
    }
    writeln!(page, "\n|{}", "---|".repeat(4 + 4 * controllers.len()))?;
    for path in alone(false) {
        let rows: Vec<Vec<&Told>> = (controllers.iter())
            .map(|controller| about(told, &format!("{path},{}", controller.part())))
            .collect();
        let Some(first) = rows.iter().flatten().next() else {
            continue;
        };
        write!(
            page,
            "| {} | {} | {} | {} |",
            first.asked("rate"),
            first.asked("rtt"),
            first.asked("loss"),
            first.asked("queue")
        )?;
        let columns: [fn(&[&Told]) -> String; 4] = [
            |seeds| page::significant(mean(seeds)),
            |seeds| format!("{:.1}", mean_of(seeds, "delay")),
            |seeds| {
                let [lost, sent] = ["lost", "sent"].map(|name| mean_of(seeds, name));
                format!("{:.1}", 100.0 * lost / sent)
            },
            |seeds| {
                ["t1", "t10", "t100"]
                    .map(|name| mean_of(seeds, name))
                    .map(|time| {
                        if time.is_nan() {
                            "-".to_owned()
                        } else {
                            format!("{time:.2}")
                        }
                    })
                    .join(" / ")
            },
        ];
        for column in columns {
            for seeds in &rows {
                let text = if seeds.is_empty() {
                    "–".to_owned()
                } else {
                    column(seeds)
                };
                write!(page, " {text} |")?;
            }
        }
        writeln!(page)?;
    }
    Ok(())
}

fn write_contests(page: &mut String, controllers: &[Controller], told: &[Told]) -> Result<()> {
    let contests = contests(controllers, false);
    if contests.is_empty() {
        return Ok(());
    }
    writeln!(
        page,
        "\n## Together\n\n\
         Flows on 100 Mb/s, one a second after the other if not told otherwise; the second half of\n\
         {CONTEST_SECONDS} s. Beside the mean of Jain's index is the least of the seeds.\n\n\
         | RTT ms | queue BDP | flows | Jain's index | least | Mb/s of each | delay ms |\n\
         |---|---|---|---|---|---|---|"
    )?;
    for contest in contests {
        let seeds = about(told, &contest.path);
        let Some(first) = seeds.first() else { continue };
        let indices = seeds.iter().map(|told| told.number("jain"));
        writeln!(
            page,
            "| {} | {} | {} | {:.2} | {:.2} | {} | {:.1} |",
            first.asked("rtt"),
            first.asked("queue"),
            contest.flows,
            mean_of(&seeds, "jain"),
            indices.fold(f64::INFINITY, f64::min),
            means_of_each(&seeds, "late")
                .into_iter()
                .map(page::significant)
                .collect::<Vec<_>>()
                .join(", "),
            mean_of(&seeds, "delay"),
        )?;
    }
    Ok(())
}

fn about<'a>(told: &'a [Told], path: &str) -> Vec<&'a Told> {
    told.iter().filter(|told| told.is_about(path)).collect()
}

/// The mean of a figure of each flow, in the order of their beginnings.
fn means_of_each(seeds: &[&Told], name: &str) -> Vec<f64> {
    let mut sums = Vec::new();
    for told in seeds {
        for (flow, figure) in told.of_each(name).enumerate() {
            match sums.get_mut(flow) {
                Some(sum) => *sum += figure,
                None => sums.push(figure),
            }
        }
    }
    sums.iter().map(|sum| sum / seeds.len() as f64).collect()
}
