//! The tests that the threat model names.

use super::shown::Tests;

/// The names of tests in `page` for which there is none.
///
/// Tests are in the last column of a table: the path of a unit test or of a module of them,
/// `tests/FILE.rs`, and names in that file behind it. `…` stands for the module of the name before,
/// or for the rest of a name.
pub fn missing(page: &str, tests: &Tests) -> Vec<String> {
    let rows = page.lines().filter_map(|line| line.strip_suffix(" |"));
    let columns = rows.filter_map(|row| row.rsplit_once(" | "));
    let names = columns.flat_map(|(_, column)| names(column));
    names.filter(|name| !tests.has_any(name)).collect()
}

/// The tests named in a column, each with its program in front of its name, or just the program.
fn names(column: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut program = "";
    let mut module = "";
    for code in column.split('`').skip(1).step_by(2) {
        let name = code.trim_end_matches('…');
        if let Some(file) = name.strip_suffix(".rs") {
            program = file;
            names.push(program.to_owned());
        } else if let Some(name) = name.strip_prefix("…::") {
            names.push(format!("lib {module}::{name}"));
        } else if let Some((parent, _)) = name.rsplit_once("::") {
            module = parent;
            names.push(format!("lib {name}"));
        } else if !program.is_empty() {
            names.push(format!("{program} {name}"));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_from_those_before() {
        let column = "`a::b::c`, `…::d`, `tests/x.rs`: `e`, `f_…`; `a::tests`";
        assert_eq!(
            names(column),
            [
                "lib a::b::c",
                "lib a::b::d",
                "tests/x",
                "tests/x e",
                "tests/x f_",
                "lib a::tests"
            ]
        );
    }
}
