//! Without the feature `nat`, datagrams that are not QUIC are dropped.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use super::socket_group::SocketGroup;
use crate::stats::Stats;

/// Takes the place of what passes datagrams to a STUN client.
#[derive(Default)]
pub(super) struct StunDispatcher;

impl StunDispatcher {
    pub(super) fn receive(&self, _: Instant, _: &Arc<SocketGroup>, _: SocketAddr, _: &[u8]) {}

    pub(super) fn unreachable(&self, _: &Arc<SocketGroup>, _: SocketAddr, _: &[u8]) {}

    pub(super) fn report(&self, _: &mut Stats) {}

    pub(super) fn reset_stats(&self) {}
}
