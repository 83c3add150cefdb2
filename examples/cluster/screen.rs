//! The output: lines, and on a terminal a table below them that is always up to date.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often the table is drawn.
pub(crate) const REFRESH: Duration = Duration::from_millis(250);

pub(crate) struct Screen {
    /// Only its message is shown, which is the table. Hidden if stdout is not a terminal.
    bar: ProgressBar,
}

impl Screen {
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
        if let Ok(style) = ProgressStyle::with_template("{msg}") {
            bar.set_style(style);
        }
        Self { bar }
    }

    /// Whether somebody sees the table.
    pub(crate) fn is_terminal(&self) -> bool {
        !self.bar.is_hidden()
    }

    pub(crate) fn line(&self, line: &str) {
        if self.is_terminal() {
            self.bar.println(line);
        } else {
            println!("{line}");
        }
    }

    /// Draws the table on a terminal.
    pub(crate) fn draw(&self, table: impl FnOnce() -> String) {
        if self.is_terminal() {
            self.bar.set_message(table());
        }
    }

    /// Leaves only the lines.
    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}
