//! No descriptor is left for a socket. Alone in its program, because the limit applies to the
//! process.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

use std::fs::File;

use libp2p_core::{
    Transport as _,
    transport::{ListenerId, TransportError},
};
use libp2p_quinn::{DialError, Error, ListenError};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{
    node::{LOOPBACK_V4, NEW_PORT, Node, bounded},
    streams::{ask, transfer_through_echo},
};

#[tokio::test]
async fn without_descriptors_dials_fail_and_connections_go_on() {
    bounded(async {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let addr = listener.listen().await;
        let _echo = listener.spawn_echo();
        let (_, mut before) = dialer.dial(&addr).await.unwrap();
        let listen = |node: &mut Node| {
            let addr = LOOPBACK_V4.parse().unwrap();
            node.transport.listen_on(ListenerId::next(), addr)
        };

        let all = use_up_descriptors();
        let dialled = dialer.try_dial(&addr, NEW_PORT).unwrap().await;
        assert!(
            matches!(dialled, Err(Error::Dial(DialError::Bind(_)))),
            "{dialled:?}"
        );
        let listening = listen(&mut dialer);
        assert!(
            matches!(
                listening,
                Err(TransportError::Other(Error::Listen(
                    ListenError::Bind { .. }
                )))
            ),
            "{listening:?}"
        );
        transfer_through_echo(&mut before, 1_000_000).await;
        // The shared socket is open already, and the listener needs no socket of its own for a
        // connection.
        let (_, mut meanwhile) = dialer.dial(&addr).await.unwrap();
        ask(&mut meanwhile).await;

        drop(all);
        let (_, mut after) = dialer.try_dial(&addr, NEW_PORT).unwrap().await.unwrap();
        ask(&mut after).await;
        listen(&mut dialer).unwrap();
        transfer_through_echo(&mut before, 1_000_000).await;
        assert_eq!(dialer.stats().connections.len(), 3);
    })
    .await;
}

/// Opens files until no more can be opened.
fn use_up_descriptors() -> Vec<File> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(FEW),
            ..limit
        },
    )
    .unwrap();
    let mut files = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        files.push(file);
    }
    assert!(!files.is_empty());
    files
}

/// More than are in use.
const FEW: u64 = 100;
