//! The results of a command: printed, and stored for the table.

use std::{fs, io, path::Path};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::sample::Sample;

/// The file of one command, `figures/COMMAND.toml`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Figures {
    /// When it ended.
    pub date: String,
    /// The command line that repeats it.
    pub command: String,
    pub figure: Vec<Figure>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sample: Vec<Sample>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figure {
    pub name: String,
    pub value: String,
    /// The required value, if there is a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<String>,
    /// Whether the requirement is met, if there is a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub met: Option<bool>,
}

impl Figures {
    /// Begins with the current date.
    pub fn new(command: String) -> Result<Self> {
        Ok(Self {
            date: harness::machine::now()?,
            command,
            figure: Vec::new(),
            sample: Vec::new(),
        })
    }

    /// Adds a figure without a limit.
    pub fn tell(&mut self, name: &str, value: impl ToString) {
        self.figure.push(Figure {
            name: name.to_owned(),
            value: value.to_string(),
            wanted: None,
            met: None,
        });
    }

    /// Adds a figure with a limit.
    pub fn demand(&mut self, name: &str, value: impl ToString, wanted: &str, met: bool) {
        self.figure.push(Figure {
            name: name.to_owned(),
            value: value.to_string(),
            wanted: Some(wanted.to_owned()),
            met: Some(met),
        });
    }

    pub fn all_met(&self) -> bool {
        self.figure.iter().all(|figure| figure.met != Some(false))
    }

    /// Reads a file; `None` if the command was not run yet.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.with_context(|| path.display().to_string())?,
        };
        let figures = toml::from_str(&text).with_context(|| path.display().to_string())?;
        Ok(Some(figures))
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, toml::to_string(self)?).with_context(|| path.display().to_string())
    }

    pub fn print(&self) {
        let width = self
            .figure
            .iter()
            .map(|figure| figure.name.chars().count())
            .max()
            .unwrap_or(0);
        for figure in &self.figure {
            let verdict = match (figure.met, &figure.wanted) {
                (Some(true), Some(wanted)) => format!("  (wanted: {wanted})"),
                (Some(false), Some(wanted)) => format!("  NOT MET, wanted: {wanted}"),
                _ => String::new(),
            };
            println!("{:width$}  {}{verdict}", figure.name, figure.value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_figure_that_is_not_met_fails_all() {
        let mut figures = Figures::new("soak churn".to_owned()).unwrap();
        figures.tell("connections", 7);
        figures.demand("tasks", 3, "3", true);
        assert!(figures.all_met());
        figures.demand("descriptors", 9, "8", false);
        assert!(!figures.all_met());
    }

    #[test]
    fn what_is_written_can_be_read() {
        let mut figures = Figures::new("soak churn".to_owned()).unwrap();
        figures.tell("connections", 7);
        figures.demand("tasks", 3, "3", true);
        figures.sample.push(Sample::default());
        let read: Figures = toml::from_str(&toml::to_string(&figures).unwrap()).unwrap();
        assert_eq!(read.figure, figures.figure);
        assert_eq!(read.sample.len(), 1);
    }
}
