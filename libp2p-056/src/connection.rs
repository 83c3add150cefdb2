//! The `StreamMuxer` of libp2p-core 0.43.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use libp2p_core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p_core_044::muxing::{
    StreamMuxer as NewerStreamMuxer, StreamMuxerEvent as NewerStreamMuxerEvent,
};
use libp2p_quinn::{ConnectionError, Stream};

use crate::transport::older_addr;

/// An authenticated connection, which carries streams.
///
/// It ends as a [`libp2p_quinn::Connection`] does. [`get_ref`](Self::get_ref) has what the trait
/// lacks.
#[derive(Debug)]
pub struct Connection {
    inner: libp2p_quinn::Connection,
}

impl Connection {
    pub(crate) fn new(inner: libp2p_quinn::Connection) -> Self {
        Self { inner }
    }

    /// The connection of libp2p-quinn, for its statistics and for closing with a code.
    pub fn get_ref(&self) -> &libp2p_quinn::Connection {
        &self.inner
    }

    fn inner(self: Pin<&mut Self>) -> Pin<&mut libp2p_quinn::Connection> {
        Pin::new(&mut self.get_mut().inner)
    }
}

impl StreamMuxer for Connection {
    type Substream = Stream;
    type Error = ConnectionError;

    fn poll_inbound(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Stream, ConnectionError>> {
        NewerStreamMuxer::poll_inbound(self.inner(), cx)
    }

    fn poll_outbound(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Stream, ConnectionError>> {
        NewerStreamMuxer::poll_outbound(self.inner(), cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        NewerStreamMuxer::poll_close(self.inner(), cx)
    }

    fn poll(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, ConnectionError>> {
        NewerStreamMuxer::poll(self.inner(), cx).map_ok(|event| match event {
            NewerStreamMuxerEvent::AddressChange(addr) => {
                StreamMuxerEvent::AddressChange(older_addr(&addr))
            }
        })
    }
}
