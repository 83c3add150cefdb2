//! The progress of a transfer: a bar on a terminal, a few lines elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::transfer::{Moved, Request};

const REFRESH: Duration = Duration::from_millis(100);

/// Without a terminal, there is a line after each step of this many percent.
const STEP_PERCENT: u64 = 25;

/// The display of one request.
pub(crate) struct Progress {
    name: &'static str,
    bytes: u64,
    moved: Moved,
    bar: ProgressBar,
    /// The progress of the last line, in percent.
    told: u64,
    interval: Interval,
}

impl Progress {
    pub(crate) fn new(request: Request, moved: Moved) -> Self {
        let bytes = request.bytes();
        let bar = if bytes > 0 {
            ProgressBar::new(bytes).with_message(request.name())
        } else {
            ProgressBar::hidden()
        };
        let template = "{msg:9} {bar:40} {percent:>3} %  {decimal_bytes_per_sec:>12}  {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("██░"));
        }
        let mut interval = interval(REFRESH);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            name: request.name(),
            bytes,
            moved,
            bar,
            told: 0,
            interval,
        }
    }

    /// Waits for the next time to refresh, and refreshes the display.
    pub(crate) async fn tick(&mut self) {
        self.interval.tick().await;
        self.refresh();
    }

    /// Ends the display.
    pub(crate) fn finish(mut self, is_complete: bool) {
        if is_complete {
            self.refresh();
        }
        self.bar.finish_and_clear();
    }

    fn refresh(&mut self) {
        let moved = self.moved.bytes();
        self.bar.set_position(moved);
        if !self.bar.is_hidden() || self.bytes == 0 {
            return;
        }
        let percent = moved.saturating_mul(100) / self.bytes;
        if percent >= self.told + STEP_PERCENT {
            self.told = percent - percent % STEP_PERCENT;
            eprintln!("{} {} %", self.name, self.told);
        }
    }
}
