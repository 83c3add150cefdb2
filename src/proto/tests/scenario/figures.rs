//! Totals over scenarios.

use std::{ops::AddAssign, time::Duration};

use super::super::conversation::Heard;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Figures {
    pub(super) connections: u64,
    pub(super) ended_early: u64,
    pub(super) heard: Heard,
    pub(super) datagrams: u64,
    pub(super) virtual_time: Duration,
    pub(super) cuts: u64,
    pub(super) rebinds: u64,
    pub(super) clock_steps: u64,
    pub(super) changes_of_the_link: u64,
    /// Dials that were repeated because a clock was set between a Retry and the answer to it.
    pub(super) outdated_tokens: u64,
    /// Dials that were repeated for the reasons of [`Stuck`].
    pub(super) misread: u64,
    pub(super) moved_in_handshake: u64,
    pub(super) spoiled_retries: u64,
    pub(super) starved_dialers: u64,
    pub(super) starved_listeners: u64,
    pub(super) unacknowledged: u64,
    pub(super) unlucky: u64,
}

impl Figures {
    /// The number of dials that were repeated for an external reason.
    pub(super) fn excused(&self) -> u64 {
        [
            self.misread,
            self.moved_in_handshake,
            self.outdated_tokens,
            self.spoiled_retries,
            self.starved_dialers,
            self.starved_listeners,
            self.unacknowledged,
            self.unlucky,
        ]
        .into_iter()
        .sum()
    }
}

impl AddAssign for Figures {
    fn add_assign(&mut self, other: Self) {
        self.connections += other.connections;
        self.ended_early += other.ended_early;
        self.heard += other.heard;
        self.datagrams += other.datagrams;
        self.virtual_time += other.virtual_time;
        self.cuts += other.cuts;
        self.rebinds += other.rebinds;
        self.clock_steps += other.clock_steps;
        self.changes_of_the_link += other.changes_of_the_link;
        self.outdated_tokens += other.outdated_tokens;
        self.misread += other.misread;
        self.moved_in_handshake += other.moved_in_handshake;
        self.spoiled_retries += other.spoiled_retries;
        self.starved_dialers += other.starved_dialers;
        self.starved_listeners += other.starved_listeners;
        self.unacknowledged += other.unacknowledged;
        self.unlucky += other.unlucky;
    }
}
