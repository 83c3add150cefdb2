//! The traceability page `docs/testing.md`: which test shows what, and the results of the long
//! tests.

mod matrix;
mod page;
mod shown;
mod threats;

use std::fs;

use anyhow::{Context, Result};
use clap::Args;

use self::{matrix::Matrix, shown::Tests};
use crate::root;

#[derive(Args)]
pub struct Options {
    /// Writes nothing, and fails if the page is not up to date, a row has no test, or a test does
    /// not exist, also one that the threat model names.
    #[arg(long)]
    check: bool,
}

pub fn run(options: &Options) -> Result<bool> {
    let matrix = Matrix::read(&root().join("soak/matrix.toml"))?;
    let tests = Tests::find()?;
    let page = page::write(&matrix, &tests)?;
    let path = root().join("docs/testing.md");
    let mut complaints: Vec<String> = matrix
        .sections()
        .flat_map(|section| {
            let tests = &tests;
            section.row.iter().flat_map(move |row| {
                let place = format!("{} {}", section.title, row.number);
                let missing = section.tests_of(row).filter(|name| !tests.has(name));
                let missing: Vec<_> = missing
                    .map(|name| format!("{place}: there is no {name}"))
                    .collect();
                let none = section.tests_of(row).next().is_none();
                missing
                    .into_iter()
                    .chain(none.then(|| format!("{place}: no test")))
            })
        })
        .collect();
    let threats = fs::read_to_string(root().join("docs/threat-model.md"))?;
    let missing = threats::missing(&threats, &tests);
    complaints.extend(
        missing
            .iter()
            .map(|name| format!("threat-model.md: there is no {name}")),
    );
    if options.check {
        let is_current = fs::read_to_string(&path).is_ok_and(|current| current == page);
        if !is_current {
            complaints.push(format!("{} is not up to date", path.display()));
        }
    } else {
        fs::write(&path, page).with_context(|| path.display().to_string())?;
    }
    for complaint in &complaints {
        println!("{complaint}");
    }
    Ok(complaints.is_empty() || !options.check)
}
