//! `docs/performance/wan.md`.

use std::{fmt::Write as _, process::Command};

use anyhow::Result;

use super::{
    cell::{self, Cell, mean},
    grid::{Kind, RATES, Table, WINDOWS},
    told::Told,
};
use crate::figures::Figures;

const HEAD: &str = "# Long and fast paths

What one stream reaches on paths with a rate, a round trip, random loss and a queue, in virtual
time: two nodes of the core with default settings, and a client that uploads all the time. `soak
wan` writes this page.

- The sender's interface has 10 Gb/s. Behind it is a queue that drops what finds it full; its size
  is given in products of rate and round trip (BDP). Random loss is in both directions. Each
  datagram has 28 bytes of headers. Hosts gather what arrives for 50 µs.
- Packets are not encrypted, and CPU time is not simulated.
- Goodput is what the application has read from the beginning on, handshake and slow start
  included: 20 s; 10 s at 1 Gb/s without loss; 8 s at 5 Gb/s, and 4 s at a round trip of 10 ms. With
  loss it is the mean of the seeds.
- *Before* is with quinn-proto 0.11.19's CUBIC, for the same seeds.
- *64 MB* are all three windows; without, they are the defaults.
";

pub fn write(figures: &Figures, tables: &[Table], told: &[Told]) -> Result<String> {
    let mut page = HEAD.to_owned();
    self::figures(&mut page, figures)?;
    for table in tables {
        let about: Vec<_> = (table.asked.iter())
            .filter_map(|asked| told.iter().find(|told| told.is_about(&asked.path)))
            .collect();
        match table.kind {
            Kind::Grid => grid(&mut page, &cell::of(tables, told))?,
            Kind::Deaths => deaths(&mut page, &about)?,
            Kind::Fairness => fairness(&mut page, &about)?,
            Kind::Cost => cost(&mut page, &about)?,
            Kind::Alone | Kind::Contest | Kind::Limited => {}
        }
    }
    Ok(page)
}

/// The command, the commit, and the figures.
pub fn figures(page: &mut String, figures: &Figures) -> Result<()> {
    writeln!(page, "\n`{}`, {}", figures.command, figures.date)?;
    writeln!(page, "\n- {}", commit()?)?;
    for figure in &figures.figure {
        let wanted = figure.wanted.as_ref();
        let wanted = wanted.map_or_else(String::new, |wanted| format!(" ({wanted})"));
        writeln!(page, "- {}: {}{wanted}", figure.name, figure.value)?;
    }
    Ok(())
}

fn grid(page: &mut String, cells: &[Cell<'_>]) -> Result<()> {
    for rate in RATES {
        let of_rate = |cell: &&Cell<'_>| cell.ours[0].asked("rate") == f64::from(rate);
        if !cells.iter().any(|cell| of_rate(&cell)) {
            continue;
        }
        writeln!(page, "\n## {rate} Mb/s\n")?;
        writeln!(
            page,
            "| RTT ms | loss % | queue BDP | windows | goodput Mb/s | before | change % | \
             1 / 10 / 100 MB after s | before | lost % | before | window, most, MB | before | \
             black holes | before | died |\n\
             |---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
        )?;
        for cell in cells.iter().filter(of_rate) {
            row(page, cell)?;
        }
    }
    Ok(())
}

fn row(page: &mut String, cell: &Cell<'_>) -> Result<()> {
    let median = |seeds: &[&Told], name: &str| {
        let told = seeds.get(seeds.len() / 2);
        told.map_or_else(|| "–".to_owned(), |told| told.text(name).to_owned())
    };
    let goodput = |seeds: &[&Told]| match seeds {
        [] => "–".to_owned(),
        seeds => significant(mean(seeds)),
    };
    let times = |seeds: &[&Told]| {
        let [one, ten, hundred] = ["t1", "t10", "t100"].map(|name| median(seeds, name));
        format!("{one} / {ten} / {hundred}")
    };
    let sum = |seeds: &[&Told], name: &str| {
        let all = seeds.iter().map(|told| told.number(name));
        all.sum::<f64>()
    };
    let lost = |seeds: &[&Told]| format!("{:.1}", 100.0 * sum(seeds, "lost") / sum(seeds, "sent"));
    let window = |seeds: &[&Told]| {
        let all = seeds.iter().map(|told| told.number("cwnd"));
        format!("{:.1}", all.fold(0.0, f64::max) / 1e6)
    };
    let first = cell.ours[0];
    let windows = match first.asked("windows") {
        0.0 => "default".to_owned(),
        windows => format!("{windows} MB"),
    };
    let died = match cell.deaths() {
        0 => String::new(),
        deaths => format!("**{deaths}**"),
    };
    let change = cell
        .kept()
        .map_or_else(String::new, |kept| format!("{:+.1}", 100.0 * (kept - 1.0)));
    let Cell { ours, theirs } = cell;
    writeln!(
        page,
        "| {} | {} | {} | {windows} | {} | {} | {change} | {} | {} | {} | {} | {} | {} | {} | {} | {died} |",
        first.asked("rtt"),
        first.asked("loss"),
        first.asked("queue"),
        goodput(ours),
        goodput(theirs),
        times(ours),
        times(theirs),
        lost(ours),
        lost(theirs),
        window(ours),
        window(theirs),
        sum(ours, "black_holes"),
        sum(theirs, "black_holes"),
    )?;
    Ok(())
}

fn deaths(page: &mut String, told: &[&Told]) -> Result<()> {
    writeln!(
        page,
        "\n## Slow start that overruns a queue\n\n\
         With quinn-proto's CUBIC, because ours overruns few of these queues. Read by quinn-proto\n\
         0.11.19 in order, a connection ends when a stream has more than 1,024 gaps. The figure\n\
         is the most gaps at the receiver; **†** has died.\n"
    )?;
    for windows in WINDOWS {
        let told = of(told, "windows", windows.into());
        let name = if windows == 0 {
            "default windows".to_owned()
        } else {
            format!("{windows} MB")
        };
        let queues = [0.5, 1.0, 2.0, 4.0];
        write!(page, "\n| {name}: Mb/s, ms |")?;
        for queue in queues {
            write!(page, " {queue} BDP |")?;
        }
        writeln!(page, "\n|---|---|---|---|---|")?;
        for rate in [20, 50, 100, 200, 500, 1000] {
            for rtt in [63, 150, 300, 450] {
                let cells = of(&of(&told, "rate", rate.into()), "rtt", rtt.into());
                if cells.is_empty() {
                    continue;
                }
                write!(page, "| {rate}, {rtt} |")?;
                for queue in queues {
                    let cell = of(&cells, "queue", queue);
                    let cell = cell.first();
                    let dead = cell.is_some_and(|told| told.is_dead());
                    let gaps = cell.map_or("–", |told| told.text("gaps"));
                    write!(page, " {}{gaps} |", if dead { "**†** " } else { "" })?;
                }
                writeln!(page)?;
            }
        }
    }
    Ok(())
}

fn fairness(page: &mut String, told: &[&Told]) -> Result<()> {
    writeln!(
        page,
        "\n## Fairness\n\n\
         Two connections on 100 Mb/s, one a second after the other; the second half of 40 s.\n\n\
         | RTT ms | queue BDP | Jain's index | before | died |\n|---|---|---|---|---|"
    )?;
    for ours in of(told, "quinn", 0.0) {
        let theirs = (told.iter())
            .filter(|told| told.asked("quinn") == 1.0)
            .find(|told| told.agrees(ours, &["rtt", "queue"]));
        writeln!(
            page,
            "| {} | {} | {:.2} | {} | {} |",
            ours.asked("rtt"),
            ours.asked("queue"),
            ours.number("jain"),
            theirs.map_or_else(
                || "–".to_owned(),
                |told| format!("{:.2}", told.number("jain"))
            ),
            if ours.is_dead() { "**yes**" } else { "" },
        )?;
    }
    Ok(())
}

fn cost(page: &mut String, told: &[&Told]) -> Result<()> {
    writeln!(
        page,
        "\n## Small writes\n\n\
         CPU time of the sender's thread, core and writer, without encryption: 5 Gb/s, 63 ms,\n\
         10 MB in flight. The writer writes as long as anything is taken.\n\n\
         | bytes of a write | s/GB | goodput Mb/s |\n|---|---|---|"
    )?;
    for told in told {
        writeln!(
            page,
            "| {} | {:.2} | {} |",
            told.asked("write"),
            told.number("cpu"),
            significant(told.number("goodput")),
        )?;
    }
    Ok(())
}

fn of<'a>(told: &[&'a Told], name: &str, value: f64) -> Vec<&'a Told> {
    (told.iter().copied())
        .filter(|told| told.asked(name) == value)
        .collect()
}

pub fn significant(number: f64) -> String {
    if number < 10.0 {
        format!("{number:.2}")
    } else if number < 100.0 {
        format!("{number:.1}")
    } else {
        format!("{number:.0}")
    }
}

/// What was measured.
fn commit() -> Result<String> {
    let output = Command::new("git")
        .args(["describe", "--always", "--dirty", "--exclude=*"])
        .current_dir(crate::root())
        .output()?;
    let commit = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok(format!("commit {commit}, quinn-proto 0.11.19"))
}
