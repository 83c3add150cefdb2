//! The STUN client of a node, if the feature `nat` is on.

#[cfg(feature = "nat")]
pub(crate) use crate::proto::StunClient;
#[cfg(not(feature = "nat"))]
pub(crate) use without::StunClient;

#[cfg(not(feature = "nat"))]
mod without {
    use std::{net::SocketAddr, time::Instant};

    /// There is none.
    pub(crate) enum StunClient {}

    pub(crate) struct StunTransmit {
        pub(crate) from: SocketAddr,
        pub(crate) to: SocketAddr,
        pub(crate) contents: Vec<u8>,
    }

    impl StunClient {
        pub(crate) fn handle(
            &mut self,
            _: Instant,
            _: SocketAddr,
            _: SocketAddr,
            _: &[u8],
        ) -> bool {
            match *self {}
        }

        pub(crate) fn next_timeout(&self) -> Option<Instant> {
            match *self {}
        }

        pub(crate) fn poll_transmit(&mut self, _: Instant) -> Option<StunTransmit> {
            match *self {}
        }
    }
}
