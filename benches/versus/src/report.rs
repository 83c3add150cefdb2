//! The report of a run.

mod cells;
mod links;
mod markdown;
mod plot;
pub mod text;

use std::{fs, path::Path};

use anyhow::Result;
use serde::Serialize;

use crate::{goals::Outcome, machine::Machine, sample::Table, workload::Effort};

/// The results of a run, as the JSON file contains them.
#[derive(Serialize)]
pub struct Report {
    pub machine: Machine,
    pub rounds: u32,
    pub effort: Effort,
    pub tables: Vec<Table>,
    pub goals: Vec<Outcome>,
}

impl Report {
    /// Writes `report.md`, `report.txt`, `report.json` and a picture of each workload.
    pub fn write(&self, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir)?;
        fs::write(dir.join("report.md"), markdown::page(self))?;
        fs::write(dir.join("report.txt"), text::report(self))?;
        fs::write(dir.join("report.json"), serde_json::to_string_pretty(self)?)?;
        for table in self.tables.iter().filter(|table| table.skipped.is_none()) {
            plot::write(table, &dir.join(format!("{}.svg", table.scenario)))?;
        }
        Ok(())
    }
}
