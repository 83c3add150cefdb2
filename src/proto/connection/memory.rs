//! How much memory a connection holds, and may hold.

use std::time::Instant;

use super::Connection;
use crate::proto::budget::{Budget, BudgetShare, EndedShare};

impl Connection {
    /// Upper bound on the memory of received data that the application has not read, in bytes.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.streams.held_bytes()
    }

    /// Upper bound on the bytes of received and sent data that it holds.
    pub(in crate::proto) fn buffered_bytes(&mut self) -> u64 {
        self.note_acknowledged();
        self.streams.held_bytes() + self.streams.unacknowledged_bytes()
    }

    /// Memory for received data that it keeps whatever the application reads, in bytes.
    pub(in crate::proto) fn kept_bytes(&self) -> u64 {
        self.streams.kept_bytes()
    }

    /// Counts what it holds of received data exactly; without `all`, only of streams whose readers
    /// are not far behind. Returns whether that may have changed the count.
    pub(in crate::proto) fn count_exactly(&mut self, all: bool) -> bool {
        self.streams().count_exactly(all)
    }

    /// Goes on counting what it holds, because it has ended and the application may hold it. This
    /// stays an upper bound: nobody would pay for the work of counting it exactly.
    pub(in crate::proto) fn keep_share(&mut self, share: BudgetShare, budget: &Budget) {
        self.ended_share = Some(EndedShare::new(share, budget.clone()));
        self.charge_ended_share();
    }

    /// Updates the budget with what it holds, if it has ended.
    pub(super) fn charge_ended_share(&mut self) {
        if self.ended_share.is_none() {
            return;
        }
        let (bytes, kept) = (self.buffered_bytes(), self.kept_bytes());
        if let Some(share) = &mut self.ended_share {
            share.set(bytes, kept);
        }
    }

    /// Sets how many bytes it may hold in each direction.
    pub(in crate::proto) fn set_allowance(&mut self, bytes: u64) {
        self.streams().set_receive_limit(bytes);
        self.streams().set_send_allowance(bytes);
    }

    /// Lets windows grow with the bandwidth-delay product, and shrink again. The connection may
    /// hold `allowance` bytes in each direction.
    pub(in crate::proto) fn look_at_windows(
        &mut self,
        now: Instant,
        allowance: u64,
        may_grow: bool,
    ) {
        // A peer that acknowledges late makes round trips longer than they are, and so do queues.
        let rtt = self.quic.rtt().min(2 * self.quic.min_rtt());
        let mut streams = self.streams();
        streams.look_at_receive_windows(now, rtt, allowance, may_grow);
        streams.look_at_send_window(may_grow);
    }

    /// How far the peer may be ahead of readers, if the window for received data has grown.
    pub(in crate::proto) fn grown_bytes(&self) -> u64 {
        self.streams.grown_bytes()
    }

    #[cfg(test)]
    pub(in crate::proto) fn grown(&self) -> super::streams::Grown {
        self.streams.grown()
    }

    pub(super) fn note_acknowledged(&mut self) {
        let acknowledged = self.path_control.acknowledged();
        let news = acknowledged.saturating_sub(self.acknowledged);
        self.acknowledged = acknowledged;
        let is_all = self.quic.streams().send_streams() == 0;
        self.streams.note_acknowledged(news, is_all);
    }

    /// Sets whether packets with stream data are dropped. Returns how many were dropped since the
    /// last call.
    pub(in crate::proto) fn drop_data(&self, drops: bool) -> u64 {
        self.watch.as_ref().map_or(0, |watch| {
            watch.drop_data(drops);
            watch.take_dropped()
        })
    }

    /// Limits how many bytes the peer may send ahead of what the application has read, regardless
    /// of the configuration. Credit that the peer already has stays valid.
    #[cfg(test)]
    pub(crate) fn set_receive_limit(&mut self, bytes: u64) {
        self.streams().set_receive_limit(bytes);
    }

    /// The received data, and how many pieces of it were moved from quinn-proto's memory to ours so
    /// far.
    #[cfg(test)]
    pub(in crate::proto) fn received(&self) -> (super::streams::Holding, u64) {
        self.streams.received()
    }

    /// How often a stream was looked at because there was too much memory in quinn-proto.
    #[cfg(test)]
    pub(in crate::proto) fn looked_at(&self) -> usize {
        self.streams.looked_at()
    }

    /// How many chunks of stream data quinn-proto was given, and of how many bytes.
    #[cfg(test)]
    pub(in crate::proto) fn handed_over(&self) -> (u64, u64) {
        self.streams.handed_over()
    }
}
