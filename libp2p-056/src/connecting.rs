//! A handshake in progress.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::FutureExt;
use libp2p_identity::PeerId;
use libp2p_quinn::Error;

use crate::{Connection, older};

/// A future that resolves to the authenticated peer and the connection to it, as
/// [`libp2p_quinn::Connecting`] does.
#[must_use = "futures do nothing unless polled"]
pub struct Connecting {
    inner: libp2p_quinn::Connecting,
}

impl Connecting {
    pub(crate) fn new(inner: libp2p_quinn::Connecting) -> Self {
        Self { inner }
    }
}

impl Future for Connecting {
    type Output = Result<(PeerId, Connection), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (peer_id, connection) = ready!(self.inner.poll_unpin(cx))?;
        Poll::Ready(Ok((older::peer_id(&peer_id), Connection::new(connection))))
    }
}

impl fmt::Debug for Connecting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connecting").finish_non_exhaustive()
    }
}
