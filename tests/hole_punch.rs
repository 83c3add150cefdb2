//! Hole punches: what they send, for which peers they wait, and how they end.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

use std::{collections::HashSet, net::SocketAddr, task::Poll, time::Duration};

use futures::future::{join, poll_immediate};
use libp2p_core::{
    Endpoint, Transport as _,
    transport::{DialOpts, PortUse, TransportError, TransportEvent},
};
use libp2p_identity::PeerId;
use libp2p_quinn::{Connecting, DialError, Error, HandshakeError};
use multiaddr::{Multiaddr, Protocol};
use support::{
    node::{Node, bounded, echo, handshake_error, poll_now, quic_addr, socket_addr, until},
    streams::transfer_through_echo,
};
use tokio::{
    net::UdpSocket,
    time::{sleep, timeout},
};

type Attempt = Result<Connecting, TransportError<Error>>;

fn punch(node: &mut Node, addr: &Multiaddr, port_use: PortUse) -> Attempt {
    let role = Endpoint::Listener;
    node.try_dial(addr, DialOpts { role, port_use })
}

fn at(addr: SocketAddr, peer_id: PeerId) -> Multiaddr {
    quic_addr(addr).with(Protocol::P2p(peer_id))
}

fn dial_error(attempt: Result<impl std::fmt::Debug, Error>) -> DialError {
    match attempt {
        Err(Error::Dial(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn random_datagrams_leave_the_listening_socket_until_the_dial_is_dropped() {
    bounded(async {
        for port_use in [PortUse::New, PortUse::Reuse] {
            let mut node = Node::new();
            let listening = socket_addr(&node.listen().await);
            let target = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let addr = at(target.local_addr().unwrap(), PeerId::random());
            let dial = tokio::spawn(punch(&mut node, &addr, port_use).unwrap());

            let mut seen = HashSet::new();
            let mut buf = [0; 2048];
            for _ in 0..8 {
                let (length, from) = target.recv_from(&mut buf).await.unwrap();
                assert_eq!(from, listening);
                seen.insert(buf[..length].to_vec());
            }
            assert_eq!(seen.len(), 8);
            let lengths: HashSet<_> = seen.iter().map(Vec::len).collect();
            assert!(lengths.len() > 1, "{lengths:?}");

            dial.abort();
            dial.await.unwrap_err();
            // At most one datagram was in flight.
            let pause = Duration::from_millis(300);
            let _ = timeout(pause, target.recv_from(&mut buf)).await;
            assert!(timeout(pause, target.recv_from(&mut buf)).await.is_err());
            assert_eq!(node.stats().transport.hole_punches, 1);
        }
    })
    .await;
}

/// Its datagrams are random, so any shard may get them. Without them a dial sends nothing for a
/// second.
#[cfg(target_os = "linux")]
#[test]
fn peer_that_punches_is_heard_whichever_shard_gets_its_datagrams() {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };

    use support::cables::{Near, at_near};

    let result = at_near(async |near: Near| {
        let quick = Duration::from_millis(700);
        let mut node = Node::with(|config| config.shards(2)?.handshake_timeout(quick));
        // There is no NAT on loopback.
        node.listen_at("/ip4/10.1.0.1/udp/0/quic-v1").await;
        let (tell, told) = std::sync::mpsc::sync_channel(5);
        let (over, is_over) = tokio::sync::oneshot::channel::<()>();
        let received: Arc<[AtomicU64; 5]> = Arc::default();
        let counts = Arc::clone(&received);
        let far = near.spawn_at_far(async move || {
            for index in 0..counts.len() {
                let socket = UdpSocket::bind("10.1.0.2:0").await.unwrap();
                tell.send(socket.local_addr().unwrap()).unwrap();
                let counts = Arc::clone(&counts);
                tokio::spawn(async move {
                    let mut buf = [0; 2048];
                    loop {
                        let (_, from) = socket.recv_from(&mut buf).await.unwrap();
                        counts[index].fetch_add(1, Ordering::Relaxed);
                        // The first one is silent.
                        if index > 0 {
                            socket.send_to(&[0; 8], from).await.unwrap();
                        }
                    }
                });
            }
            let _ = is_over.await;
        });
        // Two dials for each shard get an answer.
        for _ in 0..received.len() {
            let addr = quic_addr(told.recv().unwrap());
            let error = handshake_error(node.dial(&addr).await);
            assert_eq!(error, HandshakeError::TimedOut);
        }
        let [silent, others @ ..] = &*received;
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        until(|| others.iter().all(|other| count(other) > count(silent))).await;
        drop(over);
        until(|| far.is_finished()).await;
        far.join().unwrap().unwrap();
    });
    support::required::or_skip("namespaces", result);
}

#[tokio::test]
async fn peer_that_dials_meanwhile_is_what_the_dial_resolves_to() {
    bounded(async {
        let (mut dialer, mut puncher) = (Node::new(), Node::new());
        let dialer_addr = socket_addr(&dialer.listen().await);
        let puncher_addr = puncher.listen().await;
        let dialer_id = dialer.peer_id;
        let punch = punch(&mut puncher, &at(dialer_addr, dialer_id), PortUse::Reuse).unwrap();
        let punched = tokio::spawn(punch);
        until(|| puncher.stats().transport.hole_punches == 1).await;

        let dial = tokio::spawn(dialer.dial(&puncher_addr));
        // The transport has to be polled, and must report nothing.
        let (peer_id, accepted) = tokio::select! {
            punched = punched => punched.unwrap().unwrap(),
            event = puncher.event() => panic!("{event:?}"),
        };
        assert_eq!(peer_id, dialer_id);
        let (_, mut dialled) = dial.await.unwrap().unwrap();
        let echo = tokio::spawn(echo(accepted));
        transfer_through_echo(&mut dialled, 100_000).await;
        drop(dialled);
        echo.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn dial_that_was_answered_and_dropped_leaves_the_next_one_waiting() {
    bounded(async {
        let (mut dialer, mut puncher) = (Node::new(), Node::new());
        let expected = at(socket_addr(&dialer.listen().await), dialer.peer_id);
        let puncher_addr = puncher.listen().await;
        let mut first = punch(&mut puncher, &expected, PortUse::Reuse).unwrap();
        assert!(poll_now(&mut first).is_pending());

        // The dial is answered, but not polled.
        let answer = tokio::spawn(dialer.dial(&puncher_addr));
        let next = loop {
            assert!(puncher.event_now().is_none());
            let mut next = punch(&mut puncher, &expected, PortUse::Reuse).unwrap();
            match poll_now(&mut next) {
                Poll::Pending => break next,
                Poll::Ready(result) => {
                    assert!(matches!(dial_error(result), DialError::HolePunchInProgress));
                }
            }
            sleep(Duration::from_millis(1)).await;
        };
        drop((first, answer.await.unwrap()));

        let next = tokio::spawn(next);
        let answer = tokio::spawn(dialer.dial(&puncher_addr));
        let (peer_id, _accepted) = tokio::select! {
            punched = next => punched.unwrap().unwrap(),
            event = puncher.event() => panic!("{event:?}"),
        };
        assert_eq!(peer_id, dialer.peer_id);
        answer.await.unwrap().unwrap();
    })
    .await;
}

#[tokio::test]
async fn another_peer_from_the_same_address_is_an_ordinary_one() {
    bounded(async {
        let mut dialer = Node::new();
        let mut puncher =
            Node::with(|config| config.handshake_timeout(Duration::from_millis(1500)));
        let dialer_addr = socket_addr(&dialer.listen().await);
        let puncher_addr = puncher.listen().await;
        let expected = at(dialer_addr, PeerId::random());
        let punched = tokio::spawn(punch(&mut puncher, &expected, PortUse::Reuse).unwrap());
        until(|| puncher.stats().transport.hole_punches == 1).await;

        let dial = dialer.dial(&puncher_addr);
        let (dialled, (peer_id, accepted)) = join(dial, puncher.accept()).await;
        assert_eq!(peer_id, dialer.peer_id);
        let (_, mut dialled) = dialled.unwrap();
        let echo = tokio::spawn(echo(accepted));
        transfer_through_echo(&mut dialled, 10_000).await;
        // The dial still waits for the other peer.
        assert!(!punched.is_finished());
        let error = handshake_error(punched.await.unwrap());
        assert_eq!(error, HandshakeError::TimedOut);
        drop(dialled);
        echo.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn dialer_that_fails_its_handshake_leaves_the_dial_waiting() {
    bounded(async {
        let (mut dialer, mut puncher) = (Node::new(), Node::new());
        let dialer_addr = socket_addr(&dialer.listen().await);
        let puncher_addr = socket_addr(&puncher.listen().await);
        let expected = at(dialer_addr, dialer.peer_id);
        let punched = tokio::spawn(punch(&mut puncher, &expected, PortUse::Reuse).unwrap());
        until(|| puncher.stats().transport.hole_punches == 1).await;

        // The dialer expects another peer.
        let dial = dialer.dial(&at(puncher_addr, PeerId::random()));
        let (refused, event) = join(dial, puncher.event()).await;
        assert_eq!(refused.unwrap().0, puncher.peer_id);
        let TransportEvent::Incoming { upgrade, .. } = event else {
            panic!("{event:?}");
        };
        upgrade.await.unwrap_err();

        let dial = tokio::spawn(dialer.dial(&quic_addr(puncher_addr)));
        let (peer_id, _accepted) = tokio::select! {
            punched = punched => punched.unwrap().unwrap(),
            event = puncher.event() => panic!("{event:?}"),
        };
        assert_eq!(peer_id, dialer.peer_id);
        dial.await.unwrap().unwrap();
    })
    .await;
}

#[tokio::test]
async fn what_cannot_work_is_refused() {
    bounded(async {
        let target: SocketAddr = "127.0.0.1:9".parse().unwrap();
        let addr = at(target, PeerId::random());
        let mut node = Node::new();
        let no_listener = punch(&mut node, &addr, PortUse::Reuse);
        assert!(
            matches!(
                no_listener,
                Err(TransportError::Other(Error::Dial(DialError::NoListener)))
            ),
            "{no_listener:?}"
        );

        node.listen().await;
        let nobody = punch(&mut node, &quic_addr(target), PortUse::Reuse);
        assert!(
            matches!(nobody, Err(TransportError::MultiaddrNotSupported(_))),
            "{nobody:?}"
        );

        // A loopback listener reaches no other address.
        let elsewhere = at("192.0.2.77:4001".parse().unwrap(), PeerId::random());
        punch(&mut node, &elsewhere, PortUse::Reuse).unwrap_err();

        let mut first = punch(&mut node, &addr, PortUse::Reuse).unwrap();
        assert!(poll_immediate(&mut first).await.is_none());
        let second = punch(&mut node, &addr, PortUse::Reuse).unwrap();
        let error = dial_error(second.await);
        assert!(matches!(error, DialError::HolePunchInProgress), "{error:?}");
        drop(first);
        let mut third = punch(&mut node, &addr, PortUse::Reuse).unwrap();
        assert!(poll_immediate(&mut third).await.is_none());

        // There is a limit for each peer, one for each host, and one for all together. Beyond the
        // others, another hole punch makes room.
        let peer_id = PeerId::random();
        let mut many = vec![third];
        for host in 101..=120 {
            let addr = at(([127, 0, 0, host], 1).into(), peer_id);
            let mut dial = punch(&mut node, &addr, PortUse::Reuse).unwrap();
            assert!(poll_immediate(&mut dial).await.is_none());
            many.push(dial);
        }
        let addr = at(([127, 0, 0, 1], 99).into(), peer_id);
        let one_more = punch(&mut node, &addr, PortUse::Reuse).unwrap();
        let error = dial_error(one_more.await);
        assert!(matches!(error, DialError::TooManyHolePunches), "{error:?}");
        // A place is free as soon as a dial has ended.
        drop(many.pop());
        let mut dial = punch(&mut node, &addr, PortUse::Reuse).unwrap();
        assert!(poll_immediate(&mut dial).await.is_none());
        many.push(dial);
        for (host, port) in (2..=21).flat_map(|host| (1..=25).map(move |port| (host, port))) {
            let addr = at(([127, 0, 0, host], port).into(), PeerId::random());
            let mut dial = punch(&mut node, &addr, PortUse::Reuse).unwrap();
            assert!(poll_immediate(&mut dial).await.is_none());
            many.push(dial);
        }
        let mut left = 0;
        for dial in &mut many {
            match poll_immediate(dial).await {
                None => left += 1,
                Some(result) => {
                    let error = dial_error(result);
                    assert!(matches!(error, DialError::TooManyHolePunches), "{error:?}");
                }
            }
        }
        assert_eq!(left, 256);
    })
    .await;
}

#[tokio::test]
async fn punch_that_cannot_begin_takes_no_place() {
    bounded(async {
        let mut node = Node::new();
        let (id, _) = node.listen_at("/ip4/127.0.0.1/udp/0/quic-v1").await;
        let begin = |node: &mut Node| {
            let addr = at(([127, 0, 0, 9], 9).into(), PeerId::random());
            punch(node, &addr, PortUse::Reuse).unwrap()
        };
        // All places of the host.
        let mut begun = Vec::new();
        for _ in 0..20 {
            let mut dial = begin(&mut node);
            assert!(poll_immediate(&mut dial).await.is_none());
            begun.push(dial);
        }
        // The kernel would not send from the address of the only listener that is left.
        assert!(node.transport.remove_listener(id));
        while node.event_now().is_some() {}
        node.listen_at("/ip4/127.0.0.2/udp/0/quic-v1").await;
        let error = dial_error(begin(&mut node).await);
        assert!(matches!(error, DialError::NoListener), "{error:?}");
        for dial in &mut begun {
            assert!(poll_immediate(dial).await.is_none());
        }
    })
    .await;
}

/// Nothing else wakes the driver.
#[tokio::test]
async fn dial_that_nobody_answers_times_out() {
    bounded(async {
        let mut node = Node::with(|config| config.handshake_timeout(Duration::from_millis(500)));
        node.listen().await;
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = at(silent.local_addr().unwrap(), PeerId::random());
        let dialled = punch(&mut node, &addr, PortUse::Reuse).unwrap().await;
        assert_eq!(handshake_error(dialled), HandshakeError::TimedOut);
    })
    .await;
}

#[tokio::test]
async fn shutdown_ends_dials_that_punch() {
    bounded(async {
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = at(silent.local_addr().unwrap(), PeerId::random());
        for has_begun in [false, true] {
            let mut node = Node::new();
            node.listen().await;
            let mut dial = punch(&mut node, &addr, PortUse::Reuse).unwrap();
            assert!(poll_now(&mut dial).is_pending());
            if has_begun {
                silent.recv_from(&mut [0; 100]).await.unwrap();
            }
            let shutdown = node
                .transport
                .handle()
                .shutdown(0, "", Duration::from_secs(1));
            assert!(shutdown.await);
            assert_eq!(handshake_error(dial.await), HandshakeError::ShutDown);
        }
    })
    .await;
}
