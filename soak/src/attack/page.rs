//! The figures in Markdown, next to earlier ones.

use std::{collections::HashMap, fmt::Write, fs, path::Path};

use anyhow::{Context, Result};

use crate::figures::{Figure, Figures};

/// Writes the page. Earlier figures have a separate column.
pub fn write(path: &Path, before: Option<&Figures>, figures: &Figures) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, page(before, figures)?).with_context(|| path.display().to_string())
}

fn page(before: Option<&Figures>, figures: &Figures) -> Result<String> {
    let mut page = INTRODUCTION.to_owned();
    let runs = before.into_iter().chain([figures]);
    for (run, word) in runs.zip(
        ["before", "after"]
            .into_iter()
            .skip(usize::from(before.is_none())),
    ) {
        let word = before.map_or(String::new(), |_| format!("{word}: "));
        writeln!(page, "- {word}`{}`, {}", run.command, run.date)?;
        for figure in of(run, None) {
            writeln!(page, "  - {}: {}", figure.name, figure.value)?;
        }
    }
    let mut names: Vec<&str> = Vec::new();
    for run in before.into_iter().chain([figures]) {
        for (attack, _) in run.figure.iter().filter_map(split) {
            if !names.contains(&attack) {
                names.push(attack);
            }
        }
    }
    overview(&mut page, &names, before, figures)?;
    for name in names {
        write!(page, "\n## {name}\n\n")?;
        match before {
            Some(before) => two_columns(&mut page, name, before, figures)?,
            None => one_column(&mut page, name, figures)?,
        }
    }
    Ok(page)
}

/// The figures of each attack that violate their limits.
fn overview(
    page: &mut String,
    names: &[&str],
    before: Option<&Figures>,
    figures: &Figures,
) -> Result<()> {
    page.push_str(match before {
        Some(_) => "\n| attack | does not hold, before | after |\n|---|---|---|\n",
        None => "\n| attack | does not hold |\n|---|---|\n",
    });
    for &name in names {
        write!(page, "| {name} |")?;
        for run in before.into_iter().chain([figures]) {
            let missed = of(run, Some(name)).filter(|figure| figure.met == Some(false));
            let missed: Vec<_> = missed.map(what).collect();
            write!(page, " {} |", missed.join(", "))?;
        }
        page.push('\n');
    }
    Ok(())
}

fn one_column(page: &mut String, name: &str, figures: &Figures) -> Result<()> {
    page.push_str("| figure | value | wanted |\n|---|---|---|\n");
    for figure in of(figures, Some(name)) {
        let (what, value) = (what(figure), value(figure));
        let wanted = figure.wanted.as_deref().unwrap_or_default();
        writeln!(page, "| {what} | {value} | {wanted} |")?;
    }
    Ok(())
}

fn two_columns(page: &mut String, name: &str, before: &Figures, after: &Figures) -> Result<()> {
    page.push_str("| figure | before | after | wanted |\n|---|---|---|---|\n");
    let old: HashMap<_, _> = of(before, Some(name))
        .map(|figure| (what(figure), figure))
        .collect();
    let mut new: Vec<_> = of(after, Some(name)).collect();
    let known: Vec<_> = new.iter().map(|figure| what(figure)).collect();
    // Figures that exist only in the earlier run.
    new.extend(of(before, Some(name)).filter(|figure| !known.contains(&what(figure))));
    for figure in new {
        let what = what(figure);
        let old = old
            .get(what)
            .map(|figure| value(figure))
            .unwrap_or_default();
        let new = if known.contains(&what) {
            value(figure)
        } else {
            String::new()
        };
        let wanted = figure.wanted.as_deref().unwrap_or_default();
        writeln!(page, "| {what} | {old} | {new} | {wanted} |")?;
    }
    Ok(())
}

/// The figures of an attack, or those without one.
fn of<'a>(figures: &'a Figures, attack: Option<&'a str>) -> impl Iterator<Item = &'a Figure> {
    figures
        .figure
        .iter()
        .filter(move |figure| split(figure).map(|(name, _)| name) == attack)
}

fn split(figure: &Figure) -> Option<(&str, &str)> {
    figure.name.split_once(": ")
}

fn what(figure: &Figure) -> &str {
    split(figure).map_or(&figure.name, |(_, what)| what)
}

fn value(figure: &Figure) -> String {
    let value = figure.value.replace('|', "\\|").replace('\n', " ");
    if figure.met == Some(false) {
        format!("**{value}**")
    } else {
        value
    }
}

const INTRODUCTION: &str = "\
# Attacks

What a node with default settings does beside each attack of `soak attack`, which writes this page;
[soak](../../soak/README.md) says what each of them is. A figure in bold is not what it has to be.

";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_stand_beside_those_of_before() {
        let mut before = Figures::new("soak attack".to_owned()).unwrap();
        before.tell("commit", "one");
        before.demand("garbage: pings", "90 ms", "50 ms", false);
        before.tell("garbage: gone", "yes");
        let mut after = Figures::new("soak attack".to_owned()).unwrap();
        after.tell("commit", "two");
        after.demand("garbage: pings", "3 ms", "50 ms", true);
        let page = page(Some(&before), &after).unwrap();
        assert!(page.contains("  - commit: two\n"));
        assert!(page.contains("| garbage | pings |  |\n"));
        assert!(page.contains("| pings | **90 ms** | 3 ms | 50 ms |\n"));
        assert!(page.contains("| gone | yes |  |  |\n"));
        let page = super::page(None, &after).unwrap();
        assert!(page.contains("| pings | 3 ms | 50 ms |\n"));
    }
}
