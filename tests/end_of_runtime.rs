//! What peers in another runtime hear when a runtime ends.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p_core::muxing::StreamMuxerExt;
use libp2p_quinn::{Connection, ConnectionError, HandshakeError};
use support::{
    far::Far,
    node::{Node, bounded, handshake_error, runtime},
    streams::open,
};
use tokio::runtime::Runtime;

/// A runtime that ends where it is dropped.
fn ending() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

impl Far {
    /// Connects with a dialer in another runtime.
    fn connect(&mut self, near: &Runtime, dialer: &mut Node) -> (Connection, Connection) {
        let (node, addr) = (&mut self.node, &self.addr);
        near.block_on(bounded(async {
            let (dialled, accepted) = tokio::join!(dialer.dial(addr), node.accept());
            (dialled.unwrap().1, accepted.1)
        }))
    }

    fn end_of(&self, accepted: &mut Connection) -> ConnectionError {
        let end = poll_fn(|cx| accepted.poll_unpin(cx));
        self.runtime.block_on(bounded(end)).unwrap_err()
    }
}

#[test]
fn shutdown_gives_its_code_although_the_runtime_ends_at_once() {
    for rounds in [0, 5] {
        let (near, mut far, mut dialer) = (ending(), Far::new(), Node::new());
        let (_dialled, mut accepted) = far.connect(&near, &mut dialer);
        drop(
            dialer
                .transport
                .handle()
                .shutdown(42, "bye", Duration::from_secs(1)),
        );
        near.block_on(async {
            for _ in 0..rounds {
                tokio::task::yield_now().await;
            }
        });
        drop(near);
        let end = far.end_of(&mut accepted);
        let ConnectionError::ClosedByPeer { code, reason } = &end else {
            panic!("{end:?}");
        };
        assert_eq!(
            (*code, reason.as_str()),
            (42, "bye"),
            "after {rounds} rounds"
        );
    }
}

/// The panic is the application's, and unwinding drops the runtime.
#[test]
fn panic_of_the_application_is_no_panic_of_the_driver() {
    let (mut far, mut dialer) = (Far::new(), Node::new());
    let mut connections = None;
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let near = ending();
        connections = Some(far.connect(&near, &mut dialer));
        near.block_on(async { panic!("on purpose") });
    }));
    assert!(panicked.is_err());
    let (_dialled, mut accepted) = connections.unwrap();
    let end = far.end_of(&mut accepted);
    assert!(
        matches!(end, ConnectionError::ClosedByPeer { .. }),
        "{end:?}"
    );
    // New drivers replace those that have ended.
    let (near, mut far) = (ending(), Far::new());
    far.connect(&near, &mut dialer);
}

#[test]
fn what_was_written_last_arrives_although_the_runtime_ends_at_once() {
    let (near, mut far, mut dialer) = (ending(), Far::new(), Node::new());
    let (mut dialled, mut accepted) = far.connect(&near, &mut dialer);
    near.block_on(bounded(async {
        let mut stream = open(&mut dialled).await;
        stream.write_all(b"last words").await.unwrap();
        stream.close().await.unwrap();
        dialled.close().await.unwrap();
    }));
    drop(near);
    let words = far.runtime.block_on(bounded(async {
        let mut stream = poll_fn(|cx| accepted.poll_inbound_unpin(cx)).await.unwrap();
        let mut words = String::new();
        stream.read_to_string(&mut words).await.unwrap();
        words
    }));
    assert_eq!(words, "last words");
}

#[test]
fn whoever_waits_to_be_accepted_is_refused_when_the_runtime_ends() {
    let (near, far) = (ending(), runtime());
    let (mut dialer, mut listener) = (Node::new(), Node::new());
    let addr = near.block_on(listener.listen());
    let dial = far.spawn(dialer.dial(&addr));
    let _knock = near.block_on(bounded(listener.knock()));
    drop(near);
    let dialled = far.block_on(bounded(dial)).unwrap();
    assert_eq!(handshake_error(dialled), HandshakeError::Refused);
}
