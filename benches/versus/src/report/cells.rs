//! The cells of text tables and their alignment.

use std::fmt::Write;

use crate::sample::Spread;

/// Puts columns side by side. The first one is aligned to the left, the others to the right.
pub fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in rows {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let _ = if column == 0 {
                write!(text, "  {cell:<width$}")
            } else {
                write!(text, "  {cell:>width$}")
            };
        }
        text.push('\n');
    }
    text
}

pub fn figure(spread: Spread) -> String {
    let digits = match spread.median {
        median if median >= 100.0 => 0,
        median if median >= 10.0 => 1,
        _ => 2,
    };
    format!("{:.digits$}", spread.median)
}

pub fn ratio(spread: Spread) -> String {
    format!(
        "{:.2} [{:.2} {:.2}]",
        spread.median, spread.low, spread.high
    )
}
