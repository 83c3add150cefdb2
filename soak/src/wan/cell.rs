//! A cell of the grid: one path with all of its seeds, with our congestion control and
//! quinn-proto's.

use super::{
    grid::{Kind, Table},
    told::Told,
};

pub struct Cell<'a> {
    /// Each has one seed at least, in the order of their goodput.
    pub ours: Vec<&'a Told>,
    /// Empty if it was not run.
    pub theirs: Vec<&'a Told>,
}

/// What tells one cell from another.
const AXES: [&str; 5] = ["rate", "rtt", "loss", "queue", "windows"];

/// All cells, in the order in which they were asked for.
pub fn of<'a>(tables: &[Table], told: &'a [Told]) -> Vec<Cell<'a>> {
    let mut cells: Vec<Cell<'_>> = Vec::new();
    let asked = (tables.iter())
        .filter(|table| table.kind == Kind::Grid)
        .flat_map(|table| &table.asked);
    for asked in asked {
        let Some(told) = told.iter().find(|told| told.is_about(&asked.path)) else {
            continue;
        };
        let index = cells.iter().position(|cell| cell.is_of(told));
        let index = index.unwrap_or_else(|| {
            cells.push(Cell {
                ours: Vec::new(),
                theirs: Vec::new(),
            });
            cells.len() - 1
        });
        let cell = &mut cells[index];
        if told.asked("quinn") == 0.0 {
            cell.ours.push(told);
        } else {
            cell.theirs.push(told);
        }
    }
    for cell in &mut cells {
        for seeds in [&mut cell.ours, &mut cell.theirs] {
            seeds.sort_by(|one, other| one.number("goodput").total_cmp(&other.number("goodput")));
        }
    }
    cells.retain(|cell| !cell.ours.is_empty());
    cells
}

impl Cell<'_> {
    fn is_of(&self, told: &Told) -> bool {
        let mut some = self.ours.iter().chain(&self.theirs);
        some.next().is_some_and(|cell| cell.agrees(told, &AXES))
    }

    /// Whether the queue is shorter than any that a router should have (half a product).
    pub fn has_short_queue(&self) -> bool {
        self.ours.iter().any(|told| told.asked("queue") < 0.5)
    }

    /// Our goodput, in theirs.
    pub fn kept(&self) -> Option<f64> {
        (!self.theirs.is_empty()).then(|| mean(&self.ours) / mean(&self.theirs))
    }

    /// The largest that this may be in truth: two standard errors more, which seeds of random loss
    /// have. Without loss there is one seed, and no error.
    pub fn kept_at_most(&self) -> Option<f64> {
        let kept = self.kept()?;
        let error = relative_error(&self.ours).hypot(relative_error(&self.theirs));
        Some(kept * (1.0 + 2.0 * error))
    }

    pub fn deaths(&self) -> usize {
        let all = self.ours.iter().chain(&self.theirs);
        all.filter(|told| told.is_dead()).count()
    }
}

/// Mean goodput, in Mb/s.
pub fn mean(seeds: &[&Told]) -> f64 {
    mean_of(seeds, "goodput")
}

/// The mean of a figure.
pub fn mean_of(seeds: &[&Told], name: &str) -> f64 {
    seeds.iter().map(|told| told.number(name)).sum::<f64>() / seeds.len() as f64
}

/// The standard error of the mean goodput, as a part of it.
fn relative_error(seeds: &[&Told]) -> f64 {
    if seeds.len() < 2 {
        return 0.0;
    }
    let mean = mean(seeds);
    let squares = seeds
        .iter()
        .map(|told| (told.number("goodput") - mean).powi(2));
    let count = seeds.len() as f64;
    (squares.sum::<f64>() / (count - 1.0) / count).sqrt() / mean
}
