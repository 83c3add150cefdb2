//! Restarts: listeners on sockets of removed ones, new runtimes, and a transport whose drivers have
//! stopped.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Wake, Waker},
    time::Duration,
};

use futures::{AsyncReadExt, AsyncWriteExt, future::poll_immediate};
use libp2p_core::{
    Transport as _,
    muxing::StreamMuxerExt,
    transport::{ListenerId, TransportError, TransportEvent},
};
use libp2p_quinn::{ConnectionError, DialError, Error, HandshakeError, ListenError};
use multiaddr::Multiaddr;
use support::{
    node::{
        LOOPBACK_V4, NEW_PORT, Node, bounded, connect, connect_at, handshake_error, poll_now,
        quic_addr, runtime, socket_addr, until,
    },
    relay::Relay,
    streams::{accept, ask, open, open_between, transfer_through_echo},
};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_port_is_listened_on_again_while_connections_live_on_it() {
    bounded(async {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let (mut id, addr) = listener.listen_at(LOOPBACK_V4).await;
        let (mut dialled, accepted) = connect_at(&mut dialer, &mut listener, &addr).await;
        let echo = tokio::spawn(support::node::echo(accepted));
        for round in 0..3 {
            assert!(listener.transport.remove_listener(id));
            let event = listener.event().await;
            assert!(matches!(event, TransportEvent::ListenerClosed { .. }));
            let again;
            (id, again) = listener.listen_at(&addr.to_string()).await;
            assert_eq!(again, addr);
            transfer_through_echo(&mut dialled, 10_000).await;
            let (other, _accepted) = connect_at(&mut dialer, &mut listener, &addr).await;
            other.close().await.unwrap();
            assert_eq!(listener.stats().transport.sockets, 1, "round {round}");
        }
        dialled.close().await.unwrap();
        echo.await.unwrap();
    })
    .await;
}

/// Drivers close the socket meanwhile, or have had no time for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_without_connections_is_listened_on_again_at_once() {
    bounded(async {
        for shards in [1, 3] {
            let mut listener = Node::with(|config| config.shards(shards));
            let (mut id, addr) = listener.listen_at(LOOPBACK_V4).await;
            for _ in 0..50 {
                assert!(listener.transport.remove_listener(id));
                id = ListenerId::next();
                listener.transport.listen_on(id, addr.clone()).unwrap();
            }
            loop {
                if let TransportEvent::NewAddress { listener_id, .. } = listener.event().await
                    && listener_id == id
                {
                    break;
                }
            }
            let mut dialer = Node::new();
            let (mut dialled, accepted) = connect_at(&mut dialer, &mut listener, &addr).await;
            let echo = tokio::spawn(support::node::echo(accepted));
            transfer_through_echo(&mut dialled, 10_000).await;
            dialled.close().await.unwrap();
            echo.await.unwrap();
        }
    })
    .await;
}

#[test]
fn a_transport_goes_on_in_the_next_runtime() {
    let first = runtime();
    let (mut node, mut peer) = (Node::new(), Node::new());
    let (old_id, old_addr) = first.block_on(bounded(async {
        let listening = node.listen_at(LOOPBACK_V4).await;
        let (dialled, _accepted) = connect(&mut peer, &mut node).await;
        dialled.close().await.unwrap();
        listening
    }));
    drop(first);

    for _ in 0..2 {
        let runtime = runtime();
        runtime.block_on(bounded(async {
            // Here a dial starts new drivers, and at the peer a listener does.
            let addr = listen_anew(&mut peer).await.1;
            let (mut dialled, accepted) = connect_at(&mut node, &mut peer, &addr).await;
            let echo = tokio::spawn(support::node::echo(accepted));
            ask(&mut dialled).await;
            let (id, again) = listen_anew(&mut node).await;
            assert_ne!((id, &again), (old_id, &old_addr));
            let (dialled_back, _accepted) = connect_at(&mut peer, &mut node, &again).await;
            dialled_back.close().await.unwrap();
            dialled.close().await.unwrap();
            echo.await.unwrap();
        }));
    }
}

#[test]
fn listeners_of_a_runtime_that_has_ended_are_reported_closed() {
    let first = runtime();
    let (mut node, mut peer) = (Node::new(), Node::new());
    let id = first.block_on(async { node.listen_at(LOOPBACK_V4).await.0 });
    drop(first);
    runtime().block_on(bounded(async {
        // It is not polled for events before other calls have started its drivers.
        let addr = peer.listen().await;
        let dial = node.try_dial(&addr, NEW_PORT).unwrap();
        let (dialled, _accepted) = tokio::join!(dial, peer.accept());
        assert!(dialled.is_ok());
        match node.event().await {
            TransportEvent::ListenerClosed {
                listener_id,
                reason: Err(Error::Listen(ListenError::DriverStopped)),
            } => assert_eq!(listener_id, id),
            event => panic!("{event:?}"),
        }
    }));
}

/// A dial from a listener's socket does not wait for a listener whose runtime is gone.
#[test]
fn dial_from_a_listener_of_a_runtime_that_has_ended_leaves_from_elsewhere() {
    let (far, first) = (runtime(), runtime());
    let (mut node, mut peer) = (Node::new(), Node::new());
    let addr = far.block_on(peer.listen());
    let own_addr = first.block_on(node.listen());
    let dial = node.dial(&addr);
    drop(first);
    runtime().block_on(bounded(async {
        let (dialled, _accepted) = tokio::join!(dial, peer.accept());
        assert!(dialled.is_ok());
        let [connection] = &node.stats().connections[..] else {
            panic!("not one connection");
        };
        let left_from = connection.local_addr.port();
        assert_ne!(left_from, socket_addr(&own_addr).port());
    }));
}

/// The application may still hold connections that came in there.
#[test]
fn a_socket_of_a_runtime_that_has_ended_does_not_listen_again() {
    let (far, first) = (runtime(), runtime());
    let (mut node, mut peer) = (Node::new(), Node::new());
    let far_addr = far.block_on(peer.listen());
    let addr = first.block_on(node.listen());
    let knock = far.block_on(bounded(async {
        let mut dial = peer.try_dial(&addr, NEW_PORT).unwrap();
        tokio::select! {
            knock = node.knock() => knock,
            result = &mut dial => panic!("{result:?}"),
        }
    }));
    let dial = node.try_dial(&far_addr, NEW_PORT).unwrap();
    drop(first);
    runtime().block_on(bounded(async {
        let (dialled, _accepted) = tokio::join!(dial, peer.accept());
        let event = node.event().await;
        assert!(matches!(event, TransportEvent::ListenerClosed { .. }));
        let taken = (node.transport).listen_on(ListenerId::next(), addr.clone());
        assert!(taken.is_err(), "it is still bound, and nobody reads it");
        assert!(knock.upgrade.await.is_err());
        let (_, again) = node.listen_at(&addr.to_string()).await;
        assert_eq!(again, addr);
        let (dialled_back, _accepted_back) = connect_at(&mut peer, &mut node, &addr).await;
        dialled_back.close().await.unwrap();
        drop(dialled);
    }));
}

#[tokio::test]
async fn shutdown_lets_nobody_in_who_has_knocked_before() {
    bounded(async {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let addr = listener.listen().await;
        let mut dial = dialer.try_dial(&addr, NEW_PORT).unwrap();
        let knock = tokio::select! {
            knock = listener.knock() => knock,
            result = &mut dial => panic!("{result:?}"),
        };
        let handle = listener.transport.handle();
        assert!(handle.shutdown(7, "", SECOND).await);
        assert!(knock.upgrade.await.is_err());
        assert!(dial.await.is_err());
        handle.closed().await;
    })
    .await;
}

#[tokio::test]
async fn shutdown_ends_what_waits_to_begin() {
    bounded(async {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let addr = listener.listen().await;
        let mut dial = dialer.try_dial(&addr, NEW_PORT).unwrap();
        let mut knock = tokio::select! {
            knock = listener.knock() => knock,
            dialled = &mut dial => panic!("{dialled:?}"),
        };
        assert!(poll_now(&mut knock.upgrade).is_pending());
        let shutdown = listener.transport.handle().shutdown(7, "", SECOND);
        assert!(shutdown.await);
        assert_eq!(
            handshake_error(knock.upgrade.await),
            HandshakeError::ShutDown
        );
        assert_eq!(handshake_error(dial.await), HandshakeError::Refused);
    })
    .await;
}

#[tokio::test]
async fn shutdown_tells_every_peer_and_lets_nothing_begin() {
    bounded(async {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let addr = listener.listen().await;
        let (mut first, _accepted) = connect_at(&mut dialer, &mut listener, &addr).await;
        let (mut second, _accepted_too) = connect_at(&mut dialer, &mut listener, &addr).await;
        let handle = listener.transport.handle();
        assert!(handle.shutdown(7, "for the night", SECOND).await);
        for connection in [&mut first, &mut second] {
            let end = poll_fn(|cx| connection.poll_unpin(cx)).await.unwrap_err();
            let told = ConnectionError::ClosedByPeer {
                code: 7,
                reason: "for the night".to_owned(),
            };
            assert_eq!(end, told);
            assert_eq!(
                end.to_string(),
                "closed by the peer with code 0x7: for the night"
            );
        }
        let event = listener.event().await;
        assert!(
            matches!(
                &event,
                TransportEvent::ListenerClosed { reason: Ok(()), .. }
            ),
            "{event:?}"
        );
        let dialled = listener.dial(&addr).await;
        assert!(matches!(dialled, Err(Error::Dial(DialError::ShutDown))));
        let listens = (listener.transport).listen_on(ListenerId::next(), addr);
        assert!(matches!(
            listens,
            Err(TransportError::Other(Error::Listen(ListenError::ShutDown)))
        ));
        handle.closed().await;
    })
    .await;
}

#[tokio::test]
async fn shutdown_waits_for_what_was_closed_properly_and_no_longer_than_it_may() {
    bounded(async {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let addr = listener.listen().await;
        let (mut dialled, mut accepted) = connect_at(&mut dialer, &mut listener, &addr).await;
        let mut stream = open(&mut dialled).await;
        // More than the peer receives before it reads, so that it is read late.
        let contents = vec![9; 12_000_000];
        let writes = tokio::spawn(async move {
            stream.write_all(&contents).await.unwrap();
            stream.close().await.unwrap();
        });
        let mut read = accept(&mut accepted).await;
        let mut head = vec![0; 4_000_000];
        read.read_exact(&mut head).await.unwrap();
        writes.await.unwrap();
        let handle = dialer.transport.handle();
        let mut shutdown = Box::pin(handle.shutdown(0, "", 60 * SECOND));
        assert_eq!(poll_immediate(&mut shutdown).await, None);
        let mut rest = Vec::new();
        read.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest.len(), 8_000_000);
        assert!(shutdown.await);

        let (mut dialer, mut far) = (Node::new(), Node::new());
        let addr = far.listen().await;
        let relay = Relay::to(&[socket_addr(&addr)]).await;
        let addr = quic_addr(relay.addr());
        let (mut dialled, mut accepted) = connect_at(&mut dialer, &mut far, &addr).await;
        let (mut near, _far) = open_between(&mut dialled, &mut accepted).await;
        relay.cut();
        near.write_all(&[0; 100_000]).await.unwrap();
        near.close().await.unwrap();
        let handle = dialer.transport.handle();
        assert!(!handle.shutdown(0, "", SECOND / 10).await);
        assert_eq!(handle.stats().transport.lingers_given_up, 1);
    })
    .await;
}

#[tokio::test]
async fn closed_resolves_when_the_last_connection_is() {
    bounded(async {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let handle = dialer.transport.handle();
        assert!(poll_immediate(handle.closed()).await.is_some());
        let addr = listener.listen().await;
        let (first, _accepted) = connect_at(&mut dialer, &mut listener, &addr).await;
        let (second, _accepted_too) = connect_at(&mut dialer, &mut listener, &addr).await;
        drop(dialer);
        let closed = tokio::spawn(handle.closed());
        drop(first);
        until(|| handle.stats().registry.connections == 1).await;
        assert!(!closed.is_finished());
        drop(second);
        closed.await.unwrap();
    })
    .await;
}

/// A task that nothing else keeps.
struct Task;

impl Wake for Task {
    fn wake(self: Arc<Self>) {}
}

#[tokio::test]
async fn futures_that_wait_for_the_end_are_forgotten_with_their_wakers() {
    bounded(async {
        let (mut dialer, mut listener) = (Node::new(), Node::new());
        let (_dialled, _accepted) = connect(&mut dialer, &mut listener).await;
        let handle = dialer.transport.handle();
        let mut tasks = Vec::new();
        for _ in 0..100 {
            let task = Arc::new(Task);
            tasks.push(Arc::downgrade(&task));
            let waker = Waker::from(task);
            let mut closed = Box::pin(handle.closed());
            let polled = closed.as_mut().poll(&mut Context::from_waker(&waker));
            assert!(polled.is_pending());
        }
        assert!(tasks.iter().all(|task| task.strong_count() == 0));
    })
    .await;
}

/// Listens again where listeners have lost their runtime.
async fn listen_anew(node: &mut Node) -> (ListenerId, Multiaddr) {
    let id = ListenerId::next();
    let listens = (node.transport).listen_on(id, LOOPBACK_V4.parse().unwrap());
    listens.unwrap();
    loop {
        match node.event().await {
            TransportEvent::ListenerClosed { .. } => {}
            TransportEvent::NewAddress { listen_addr, .. } => return (id, listen_addr),
            event => panic!("{event:?}"),
        }
    }
}
