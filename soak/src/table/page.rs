//! `docs/testing.md`.

use std::{fmt::Write, fs};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::{
    matrix::{Matrix, Section},
    shown::Tests,
};
use crate::{figures::Figures, root};

pub fn write(matrix: &Matrix, tests: &Tests) -> Result<String> {
    let mut page = INTRODUCTION.to_owned();
    for section in matrix.sections() {
        write_section(&mut page, section, tests)?;
    }
    page.push_str("\n## Figures\n\nOf the last run of each part of the long set.\n");
    for (title, name) in [
        ("Simulation", "simulation"),
        ("Churn", "churn"),
        ("Flood", "flood"),
        ("Mutants", "mutants"),
    ] {
        write!(page, "\n### {title}\n\n")?;
        let path = root().join("soak/figures").join(name);
        match Figures::read(&path.with_extension("toml"))? {
            Some(figures) => write_figures(&mut page, &figures)?,
            None => page.push_str("Not run.\n"),
        }
        let picture = path.with_extension("svg");
        if picture.exists() {
            write!(page, "\n![{title}](../soak/figures/{name}.svg)\n")?;
        }
    }
    page.push_str("\n### Attacks\n\n[performance/attacks.md](performance/attacks.md) has them.\n");
    page.push_str("\n### Fuzzing\n\n");
    write_fuzzing(&mut page)?;
    Ok(page)
}

fn write_section(page: &mut String, section: &Section, tests: &Tests) -> Result<()> {
    let rows = section.row.len();
    let shown = section.row.iter().filter(|row| {
        let mut names = section.tests_of(row).peekable();
        names.peek().is_some() && names.all(|name| tests.has(name))
    });
    let shown = shown.count();
    write!(page, "\n## {}\n\n{}\n\n", section.title, section.about)?;
    if shown == rows {
        write!(page, "All {rows} rows have a test.\n\n")?;
    } else {
        write!(page, "{shown} of {rows} rows have a test.\n\n")?;
    }
    if !section.tests.is_empty() {
        page.push_str("*All* in the table are:\n\n");
        for name in &section.tests {
            writeln!(page, "- {}", test(name, tests))?;
        }
        page.push('\n');
    }
    let cases = section.cases.as_ref();
    let cases = cases.map(|name| tests.cases(name)).transpose()?;
    page.push_str("| # | what | what must happen |");
    page.push_str(match cases {
        Some(_) => " cases | shown by |\n|---|---|---|---|---|\n",
        None => " shown by |\n|---|---|---|---|\n",
    });
    for row in &section.row {
        let all = row.tests.is_none() && !section.tests.is_empty();
        let all = all.then(|| "*all*".to_owned()).into_iter();
        let own = row.tests.iter().flatten().chain(&row.also);
        let names: Vec<_> = all.chain(own.map(|name| test(name, tests))).collect();
        let shown = if names.is_empty() {
            "**nothing**".to_owned()
        } else {
            names.join("<br>")
        };
        let (what, must) = (cell(&row.what), cell(&row.must));
        write!(page, "| {} | {what} | {must} |", row.number)?;
        if let Some(cases) = &cases {
            // Empty if the row is not about what a peer presents.
            let cases = cases.get(&row.number).map(usize::to_string);
            write!(page, " {} |", cases.unwrap_or_default())?;
        }
        writeln!(page, " {shown} |")?;
    }
    Ok(())
}

/// A test's name, marked if there is no such test.
fn test(name: &str, tests: &Tests) -> String {
    let missing = if tests.has(name) { "" } else { "**missing:** " };
    format!("{missing}`{name}`")
}

fn write_figures(page: &mut String, figures: &Figures) -> Result<()> {
    write!(page, "`{}`, {}\n\n", figures.command, figures.date)?;
    page.push_str("| figure | value | wanted |\n|---|---|---|\n");
    for figure in &figures.figure {
        let wanted = match (&figure.wanted, figure.met) {
            (Some(wanted), Some(false)) => format!("**{}: not met**", cell(wanted)),
            (Some(wanted), _) => cell(wanted),
            (None, _) => String::new(),
        };
        let (name, value) = (cell(&figure.name), cell(&figure.value));
        writeln!(page, "| {name} | {value} | {wanted} |")?;
    }
    Ok(())
}

/// The output of `fuzz/run`.
#[derive(Deserialize)]
struct Fuzzing {
    #[serde(default)]
    target: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    cpu_seconds: u64,
    executions: u64,
    failures: u64,
}

fn write_fuzzing(page: &mut String) -> Result<()> {
    let path = root().join("fuzz/figures.toml");
    if !path.exists() {
        page.push_str("Not run.\n");
        return Ok(());
    }
    let text = fs::read_to_string(&path)?;
    let fuzzing: Fuzzing = toml::from_str(&text).with_context(|| path.display().to_string())?;
    page.push_str("| target | CPU minutes | executions | failures |\n|---|---|---|---|\n");
    for target in fuzzing.target {
        writeln!(
            page,
            "| {} | {:.1} | {} | {} |",
            target.name,
            target.cpu_seconds as f64 / 60.0,
            target.executions,
            target.failures
        )?;
    }
    Ok(())
}

/// Escaped for a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

const INTRODUCTION: &str = "\
# Testing

Which test shows what, and what the long tests have found. `soak table` writes this page from
[soak/matrix.toml](../soak/matrix.toml).

| command | what it does |
|---|---|
| `cargo test --all-features` | the quick set: everything below that is named `lib` or `tests` |
| `soak/run` | the long set: simulation, churn, flood, attacks and fuzzing, and this page ([soak](../soak/README.md)) |
| `interop/run` | what is named `interop`: with the other implementations ([interop](../interop/README.md)) |
| `tests/loom` | every interleaving, within a bound, of a driver and the tasks that use it |
| `tests/miri` | what needs neither sockets nor cryptography, in Miri: no undefined behaviour, no leaks |
| `fuzz/run` | the fuzz targets, 30 CPU minutes each; `--smoke`: ten seconds each |
| `tests/mutants` | changes of the code at random places: which of them no unit test notices |

A test is named by its program and by its path there: `lib` has the unit tests, among them the
simulated network, `tests/…` what uses the transport from outside, `fuzz` the fuzz targets, and
`flood`, `attack` and `churn` the parts of the long set.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_stay_in_their_column() {
        assert_eq!(cell("a|b\nc"), "a\\|b c");
    }

    #[test]
    fn figures_that_are_not_met_stand_out() {
        let mut figures = Figures::new("soak churn".to_owned()).unwrap();
        figures.tell("streams", 12);
        figures.demand("tasks", 3, "2", false);
        let mut page = String::new();
        write_figures(&mut page, &figures).unwrap();
        assert!(page.contains("| streams | 12 |  |\n"));
        assert!(page.contains("| tasks | 3 | **2: not met** |\n"));
    }
}
