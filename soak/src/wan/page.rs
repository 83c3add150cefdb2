//! `docs/performance/wan.md`.

use std::{fmt::Write as _, process::Command};

use anyhow::Result;

use super::{
    grid::{Kind, LOSSES, QUEUES, RATES, RTTS, Table, WINDOWS},
    told::Told,
};
use crate::figures::Figures;

const HEAD: &str = "# Long and fast paths

What one stream makes of paths with a rate, a round trip, random loss and a queue, in virtual time: two nodes of the core with
default settings, and a client that uploads for as long as the path is looked at. `soak wan` writes this page.

- The sender's interface has 10 Gb/s. Behind it is a queue that drops what finds it full; its size is given in products of rate
  and round trip (BDP). Random loss is in both directions. Each datagram has 28 bytes of headers. Hosts gather what arrives for
  50 µs.
- Packets are not encrypted, and CPU time is not simulated.
- Goodput is what the application has read from the beginning on, handshake and slow start included: 20 s; 10 s at 1 Gb/s
  without loss; 8 s at 5 Gb/s, and 4 s at a round trip of 10 ms. With loss it is the median of the seeds.
- *64 MB* are all three windows; without, they are the defaults.
";

pub fn write(figures: &Figures, tables: &[Table], told: &[Told]) -> Result<String> {
    let mut page = HEAD.to_owned();
    writeln!(page, "\n`{}`, {}", figures.command, figures.date)?;
    writeln!(page, "\n- {}", commit()?)?;
    for figure in &figures.figure {
        let wanted = figure.wanted.as_ref();
        let wanted = wanted.map_or_else(String::new, |wanted| format!(" ({wanted})"));
        writeln!(page, "- {}: {}{wanted}", figure.name, figure.value)?;
    }
    for table in tables {
        let about: Vec<_> = (table.asked.iter())
            .filter_map(|asked| told.iter().find(|told| told.is_about(&asked.path)))
            .collect();
        match table.kind {
            Kind::Grid => grid(&mut page, &about)?,
            Kind::Deaths => deaths(&mut page, &about)?,
            Kind::Fairness => fairness(&mut page, &about)?,
            Kind::Cost => cost(&mut page, &about)?,
        }
    }
    Ok(page)
}

fn grid(page: &mut String, told: &[&Told]) -> Result<()> {
    for rate in RATES {
        let of_rate: Vec<_> = of(told, "rate", rate.into());
        if of_rate.is_empty() {
            continue;
        }
        writeln!(page, "\n## {rate} Mb/s\n")?;
        writeln!(
            page,
            "| RTT ms | loss % | queue BDP | windows | goodput Mb/s | 1 / 10 / 100 MB after s | lost % | \
             window / in flight, most, MB | MTU | black holes | died |\n|---|---|---|---|---|---|---|---|---|---|---|"
        )?;
        for rtt in RTTS {
            for loss in LOSSES {
                for queue in QUEUES {
                    for windows in WINDOWS {
                        let mut seeds = of(&of_rate, "rtt", rtt.into());
                        seeds = of(&seeds, "loss", loss);
                        seeds = of(&seeds, "queue", queue);
                        seeds = of(&seeds, "windows", windows.into());
                        row(page, &mut seeds)?;
                    }
                }
            }
        }
    }
    Ok(())
}

/// The median of several seeds.
fn row(page: &mut String, seeds: &mut [&Told]) -> Result<()> {
    seeds.sort_by(|one, other| one.number("goodput").total_cmp(&other.number("goodput")));
    let Some(median) = seeds.get(seeds.len() / 2) else {
        return Ok(());
    };
    let windows = match median.asked("windows") {
        0.0 => "default".to_owned(),
        windows => format!("{windows} MB"),
    };
    let died = seeds.iter().filter(|told| told.is_dead()).count();
    let died = if died == 0 {
        String::new()
    } else {
        format!("**{died} of {}**", seeds.len())
    };
    let megabytes = |name| median.number(name) / 1e6;
    writeln!(
        page,
        "| {} | {} | {} | {windows} | {} | {} / {} / {} | {:.1} | {:.1} / {:.1} | {} | {} | {died} |",
        median.asked("rtt"),
        median.asked("loss"),
        median.asked("queue"),
        significant(median.number("goodput")),
        median.text("t1"),
        median.text("t10"),
        median.text("t100"),
        100.0 * median.number("lost") / median.number("sent"),
        megabytes("cwnd"),
        megabytes("in_flight"),
        median.text("mtu"),
        median.text("black_holes"),
    )?;
    Ok(())
}

fn deaths(page: &mut String, told: &[&Told]) -> Result<()> {
    writeln!(
        page,
        "\n## Slow start that overruns a queue\n\n\
         Read by quinn-proto 0.11.19 in order, a connection ends when a stream has more than 1,024 gaps. \
         The figure is how many gaps there were at most at the receiver; **†** has died.\n"
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
        "\n## Fairness\n\nTwo connections on 100 Mb/s, one a second after the other; the second half of 40 s.\n\n\
         | RTT ms | queue BDP | Jain's index | died |\n|---|---|---|---|"
    )?;
    for told in told {
        writeln!(
            page,
            "| {} | {} | {:.2} | {} |",
            told.asked("rtt"),
            told.asked("queue"),
            told.number("jain"),
            if told.is_dead() { "**yes**" } else { "" },
        )?;
    }
    Ok(())
}

fn cost(page: &mut String, told: &[&Told]) -> Result<()> {
    writeln!(
        page,
        "\n## Small writes\n\nCPU time of the sender's thread, core and writer, without encryption: 5 Gb/s, 63 ms, 10 MB in \
         flight. The writer writes as long as anything is taken.\n\n\
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

fn significant(number: f64) -> String {
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
    Ok(format!("commit {commit}, quinn-proto 0.11.19, CUBIC"))
}
