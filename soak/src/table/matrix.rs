//! The rows: what may happen, and the required result.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// `matrix.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Matrix {
    certificates: Section,
    network: Section,
    attacks: Section,
}

/// Rows of one kind.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Section {
    pub title: String,
    /// The subject of the section.
    pub about: String,
    /// Tests for every row without tests of its own.
    #[serde(default)]
    pub tests: Vec<String>,
    /// The test that prints how many cases each row has.
    pub cases: Option<String>,
    pub row: Vec<Row>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    pub number: u8,
    pub what: String,
    pub must: String,
    /// Tests instead of those of the section.
    pub tests: Option<Vec<String>>,
    /// Tests in addition to those of the section.
    #[serde(default)]
    pub also: Vec<String>,
}

impl Matrix {
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let matrix: Self = toml::from_str(&text).with_context(|| path.display().to_string())?;
        for section in matrix.sections() {
            for (row, number) in section.row.iter().zip(1..) {
                ensure!(
                    row.number == number,
                    "{} {number} is missing",
                    section.title
                );
            }
        }
        Ok(matrix)
    }

    pub fn sections(&self) -> impl Iterator<Item = &Section> {
        [&self.certificates, &self.network, &self.attacks].into_iter()
    }
}

impl Section {
    pub fn tests_of<'a>(&'a self, row: &'a Row) -> impl Iterator<Item = &'a str> {
        let own = row.tests.as_ref().unwrap_or(&self.tests);
        own.iter().chain(&row.also).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_the_tests_of_their_section_or_their_own() {
        let section: Section = toml::from_str(
            r#"
            title = "Certificates"
            about = "…"
            tests = ["lib a"]
            [[row]]
            number = 1
            what = "one"
            must = "fail"
            also = ["lib b"]
            [[row]]
            number = 2
            what = "two"
            must = "fail"
            tests = []
            "#,
        )
        .unwrap();
        let tests = |row: usize| section.tests_of(&section.row[row]).collect::<Vec<_>>();
        assert_eq!(tests(0), ["lib a", "lib b"]);
        assert!(tests(1).is_empty());
    }

    #[test]
    fn every_row_of_this_repository_says_what_must_happen_and_which_test_shows_it() {
        let path = crate::root().join("soak/matrix.toml");
        let matrix = Matrix::read(&path).unwrap();
        for section in matrix.sections() {
            assert!(!section.row.is_empty(), "{}", section.title);
            for row in &section.row {
                let place = format!("{} {}", section.title, row.number);
                assert!(!row.what.is_empty() && !row.must.is_empty(), "{place}");
                assert!(section.tests_of(row).next().is_some(), "{place}");
            }
        }
    }

    #[test]
    fn every_attack_has_a_row() {
        let path = crate::root().join("soak/matrix.toml");
        let matrix = Matrix::read(&path).unwrap();
        let attacks = &matrix.attacks;
        let named: Vec<_> = attacks
            .row
            .iter()
            .flat_map(|row| attacks.tests_of(row))
            .collect();
        for name in crate::attack::names() {
            let name = format!("attack {name}");
            assert!(named.contains(&name.as_str()), "{name}");
        }
    }
}
