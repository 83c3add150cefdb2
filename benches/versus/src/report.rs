//! What is told of the measurements.

pub mod plot;
pub mod text;

use serde::Serialize;

use crate::{goals::Outcome, machine::Machine, sample::Table, workload::Effort};

/// All of a run; what the JSON file has.
#[derive(Serialize)]
pub struct Report {
    pub machine: Machine,
    pub rounds: u32,
    pub effort: Effort,
    pub tables: Vec<Table>,
    pub goals: Vec<Outcome>,
}
