//! A connection with `async` functions for the application.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    future::poll_fn,
    net::SocketAddr,
    rc::Rc,
    task::{Poll, Waker},
};

use bytes::Bytes;
use libp2p_identity::PeerId;
use quinn_proto::{ConnectionHandle, VarInt};

use crate::{
    error::{ConnectionError, HandshakeError, StreamError},
    proto::{Connection, SharedConnection, StreamId, with},
    stats::ConnectionStats,
};

/// Nodes that may have something to do, by number.
pub(crate) type Stirred = Rc<RefCell<BTreeSet<usize>>>;

/// The doorbell of a simulated shard: connections that ask for a turn.
pub(crate) struct SimDoorbell {
    rung: RefCell<Vec<ConnectionHandle>>,
    node: usize,
    stirred: Stirred,
}

impl SimDoorbell {
    pub(crate) fn new((node, stirred): (usize, Stirred)) -> Self {
        Self {
            rung: RefCell::default(),
            node,
            stirred,
        }
    }

    pub(crate) fn take(&self) -> Vec<ConnectionHandle> {
        self.rung.take()
    }

    fn ring(&self, handle: ConnectionHandle) {
        self.rung.borrow_mut().push(handle);
        self.stirred.borrow_mut().insert(self.node);
    }
}

/// One side of a connection. It notifies its shard of changes, as the driver's connections do.
#[derive(Clone)]
pub(crate) struct Peer {
    pub(crate) connection: SharedConnection,
    pub(crate) handle: ConnectionHandle,
    pub(crate) shard: usize,
    pub(crate) doorbell: Rc<SimDoorbell>,
}

impl Peer {
    /// Calls `act` on the connection, announces the turn that it requests, and wakes the tasks that
    /// are due.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut Connection) -> T) -> T {
        let ring = || self.doorbell.ring(self.handle);
        let wake = |due: Vec<_>| due.into_iter().for_each(Waker::wake);
        with(&self.connection, act, ring, wake)
    }

    pub(crate) async fn established(&self) -> Result<PeerId, HandshakeError> {
        poll_fn(|cx| self.with(|connection| connection.poll_established(cx.waker()))).await
    }

    pub(crate) async fn open(&self) -> Result<StreamId, ConnectionError> {
        poll_fn(|cx| self.with(|connection| connection.streams().poll_open(cx.waker()))).await
    }

    pub(crate) async fn accept(&self) -> Result<StreamId, ConnectionError> {
        poll_fn(|cx| self.with(|connection| connection.poll_accept(cx.waker()))).await
    }

    pub(crate) async fn address_change(&self) -> Result<SocketAddr, ConnectionError> {
        poll_fn(|cx| self.with(|connection| connection.poll_address_change(cx.waker()))).await
    }

    /// Closes the connection, and waits until that is done.
    pub(crate) async fn closed(&self) -> Result<(), ConnectionError> {
        poll_fn(|cx| self.with(|connection| connection.poll_close(cx.waker()))).await
    }

    pub(crate) fn close(&self, code: u32) {
        self.with(|connection| connection.close(code.into(), Bytes::new()));
    }

    pub(crate) fn abandon(&self) {
        self.with(|connection| connection.abandon(HandshakeError::Abandoned));
    }

    pub(crate) async fn read(
        &self,
        stream: StreamId,
        buf: &mut [u8],
    ) -> Result<usize, StreamError> {
        poll_fn(|cx| {
            self.with(|connection| connection.streams().poll_read(stream, buf, cx.waker()))
        })
        .await
    }

    pub(crate) async fn read_to_end(&self, stream: StreamId) -> Result<Vec<u8>, StreamError> {
        let mut contents = Vec::new();
        let mut buf = [0; 4096];
        loop {
            match self.read(stream, &mut buf).await? {
                0 => return Ok(contents),
                count => contents.extend_from_slice(&buf[..count]),
            }
        }
    }

    pub(crate) async fn write(&self, stream: StreamId, data: &[u8]) -> Result<usize, StreamError> {
        poll_fn(|cx| {
            self.with(|connection| connection.streams().poll_write(stream, data, cx.waker()))
        })
        .await
    }

    pub(crate) async fn write_all(
        &self,
        stream: StreamId,
        mut data: &[u8],
    ) -> Result<(), StreamError> {
        while !data.is_empty() {
            let count = self.write(stream, data).await?;
            data = &data[count..];
        }
        Ok(())
    }

    /// Writes what is accepted at once, and returns how much that was.
    pub(crate) fn write_now(&self, stream: StreamId, data: &[u8]) -> usize {
        let waker = futures::task::noop_waker();
        match self.with(|connection| connection.streams().poll_write(stream, data, &waker)) {
            Poll::Ready(written) => written.unwrap(),
            Poll::Pending => 0,
        }
    }

    pub(crate) fn finish(&self, stream: StreamId) -> Result<(), StreamError> {
        self.with(|connection| connection.streams().finish(stream))
    }

    pub(crate) fn reset(&self, stream: StreamId, code: u32) -> Result<(), StreamError> {
        self.with(|connection| connection.streams().reset(stream, VarInt::from_u32(code)))
    }

    pub(crate) fn stop(&self, stream: StreamId, code: u32) -> Result<(), StreamError> {
        self.with(|connection| connection.streams().stop(stream, VarInt::from_u32(code)))
    }

    pub(crate) fn drop_stream(&self, stream: StreamId) {
        self.with(|connection| connection.streams().let_go(stream));
    }

    pub(crate) fn loss(&self) -> Option<ConnectionError> {
        self.with(|connection| connection.loss().cloned())
    }

    /// The number of streams that the connection still holds.
    pub(crate) fn open_streams(&self) -> usize {
        self.stats().open_streams
    }

    pub(crate) fn stats(&self) -> ConnectionStats {
        self.with(|connection| connection.stats())
    }

    /// Accepts streams until the connection ends, reads each to its end, and drops it.
    pub(crate) async fn read_all_streams(self) {
        while let Ok(stream) = self.accept().await {
            // A stream may end in any way; here it only has to end.
            let _ = self.read_to_end(stream).await;
            self.drop_stream(stream);
        }
    }
}
