//! The ends of connections, after which nothing is left.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, future::join};

use super::{
    link::{Bottleneck, Impairments},
    network::Network,
    node::{Node, Setup},
};
use crate::error::{ConnectionError, HandshakeError, StreamError};

#[test]
fn close_reaches_the_peer_and_drains_both_sides() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let (dialer, listener) = network.connect(0, 1);
    let ends = network.block_on(async move {
        dialer.close(7);
        let told = async {
            let told = listener.address_change().await;
            assert_eq!(listener.closed().await.err(), told.clone().err());
            told
        };
        join(dialer.closed(), told).await
    });
    let closed = ConnectionError::ClosedByPeer {
        code: 7,
        reason: String::new(),
    };
    assert_eq!(ends, (Ok(()), Err(closed)));
    network.run_until_empty();
    assert_empty(&network);
}

#[test]
fn both_sides_may_close_at_once() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let (dialer, listener) = network.connect(0, 1);
    let ends = network.block_on(async move { join(dialer.closed(), listener.closed()).await });
    assert_eq!(ends, (Ok(()), Ok(())));
    network.run_until_empty();
    assert_empty(&network);
}

#[test]
fn close_is_forgotten_although_nobody_answers() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let (dialer, _) = network.connect(0, 1);
    network.impair(Impairments::DEAD);
    let begun = network.elapsed();
    let end = network.block_on(async move { dialer.closed().await });
    assert_eq!(end, Ok(()));
    assert_eq!(network.elapsed(), begun);
    // Its memory is freed at once; its IDs after at most a second, and not after the idle timeout.
    assert_eq!(network.nodes[0].stats().0.connections, 0);
    assert_eq!(network.nodes[0].stats().0.closing, 1);
    network.run_for(Duration::from_secs(1));
    network.nodes[0].assert_empty();
}

#[test]
fn close_does_not_wait_for_a_full_congestion_window() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let (dialer, listener) = network.connect(0, 1);
    network.run_for(Duration::from_secs(1));
    // So slow that data in flight will not arrive for seconds.
    network.impair(Impairments {
        bottleneck: Some(Bottleneck::new(2_000, 1_000_000)),
        ..Impairments::NONE
    });
    let writer = dialer.clone();
    network.block_on(async move {
        let stream = writer.open().await.unwrap();
        assert!(writer.write_now(stream, &[7; 60_000]) > 50_000);
    });
    network.run_for(Duration::from_millis(100));
    assert!(dialer.stats().congestion_window_bytes < 30_000);
    let before = network.datagrams_sent();
    dialer.close(7);
    network.settle();
    assert_eq!(network.datagrams_sent() - before, 1);
    let end = network.block_on(async move {
        listener.accept().await.unwrap();
        listener.address_change().await
    });
    let closed = ConnectionError::ClosedByPeer {
        code: 7,
        reason: String::new(),
    };
    assert_eq!(end, Err(closed));
}

#[test]
fn close_that_was_lost_is_repeated_when_the_peer_sends_something() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let (dialer, listener) = network.connect(0, 1);
    network.run_for(Duration::from_secs(1));
    network.impair(Impairments::DEAD);
    dialer.close(7);
    network.settle();
    network.impair(Impairments::NONE);
    let end = network.block_on(async move {
        let stream = listener.open().await.unwrap();
        listener.write_all(stream, b"are you there?").await.unwrap();
        listener.address_change().await
    });
    let closed = ConnectionError::ClosedByPeer {
        code: 7,
        reason: String::new(),
    };
    assert_eq!(end, Err(closed));
    network.run_until_empty();
    // Once for the data that it had sent, and perhaps once for its own last packet.
    let repeated = network.nodes[0].stats().1.closes_repeated;
    assert!((1..=2).contains(&repeated), "{repeated}");
}

#[test]
fn what_a_connection_holds_goes_with_it() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let (dialer, listener) = network.connect(0, 1);
    network.run_for(Duration::from_secs(1));
    let far = Arc::downgrade(&listener.connection);
    // The application drops the connection, and then the peer closes it.
    drop(listener);
    dialer.close(0);
    network.run_for(Duration::from_millis(20));
    assert_eq!(network.nodes[1].stats().0.closing, 1);
    assert!(far.upgrade().is_none());
    let near = Arc::downgrade(&dialer.connection);
    drop(dialer);
    assert!(near.upgrade().is_none());
}

#[test]
fn handshake_that_has_failed_gives_its_place_back_at_once() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    // The dial expects another peer.
    let stranger = network.add(Setup::default());
    let expected = network.nodes[stranger].peer_id();
    let dialer = network.dial_expecting(0, 1, Some(expected));
    network.run_for(Duration::from_millis(15));
    assert_eq!(network.nodes[1].stats().0.handshake_sources, 1);
    let end = network.block_on(async move { dialer.established().await });
    assert!(
        matches!(end, Err(HandshakeError::Certificate(_))),
        "{end:?}"
    );
    network.run_for(Duration::from_millis(15));
    assert_eq!(network.nodes[1].stats().0.handshake_sources, 0);
}

#[test]
fn packets_of_the_handshake_are_dropped_once_it_is_confirmed() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let dialer = network.dial(0, 1);
    network.settle();
    let first_flight = network.intercept();
    let listener = &mut network.nodes[1];
    for datagram in &first_flight {
        listener.receive(network.now, datagram.from, &datagram.contents);
    }
    network.run_for(Duration::from_secs(1));
    assert!(dialer.established().now_or_never().unwrap().is_ok());
    for datagram in &first_flight {
        network.nodes[1].receive(network.now, datagram.from, &datagram.contents);
    }
    network.settle();
    let dropped = network.nodes[1].stats().0.dropped_late_handshake;
    assert_eq!(dropped, first_flight.len() as u64);
}

#[test]
fn handshake_takes_so_many_bytes_and_no_more() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    network.dial(0, 1);
    network.settle();
    let first_flight = network.intercept();
    const TIMES: usize = 60;
    for _ in 0..TIMES {
        for datagram in &first_flight {
            network.nodes[1].receive(network.now, datagram.from, &datagram.contents);
            network.settle();
            network.intercept();
        }
    }
    let sent = TIMES
        * first_flight
            .iter()
            .map(|datagram| datagram.contents.len())
            .sum::<usize>();
    let over = (sent - 96 * 1024) / first_flight[0].contents.len();
    let dropped = network.nodes[1].stats().0.dropped_handshake_full as usize;
    assert!((over..=over + 2).contains(&dropped), "{dropped} of {over}");
}

#[test]
fn silent_peer_is_given_up_after_the_idle_timeout() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let (dialer, listener) = network.connect(0, 1);
    network.run_for(Duration::from_secs(1));
    let quiet = network.elapsed();
    network.impair(Impairments::DEAD);
    let waiting = [dialer, listener].map(|peer| async move { peer.address_change().await });
    let [dialer, listener] = waiting;
    let ends = network.block_on(join(dialer, listener));
    assert_eq!(
        ends,
        (
            Err(ConnectionError::TimedOut),
            Err(ConnectionError::TimedOut)
        )
    );
    let waited = network.elapsed() - quiet;
    assert!(waited > Duration::from_secs(8), "{waited:?}");
    assert!(waited < Duration::from_secs(16), "{waited:?}");
    network.run_until_empty();
    assert_empty(&network);
}

#[test]
fn idle_connection_is_kept_alive() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let (dialer, listener) = network.connect(0, 1);
    network.run_for(Duration::from_secs(600));
    assert_eq!((dialer.loss(), listener.loss()), (None, None));
}

#[test]
fn peer_that_missed_the_close_learns_of_it_by_a_stateless_reset() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let (dialer, listener) = network.connect(0, 1);
    network.run_for(Duration::from_secs(1));
    network.impair(Impairments::DEAD);
    network
        .block_on(async move { listener.closed().await })
        .unwrap();
    network.impair(Impairments::NONE);

    // The next keep-alive is answered with a reset.
    let end = network.block_on(async move { dialer.address_change().await });
    assert_eq!(end, Err(ConnectionError::Reset));
    assert_eq!(network.nodes[1].stats().0.responses_sent, 1);
    network.run_until_empty();
    assert_empty(&network);
}

#[test]
fn panic_in_the_middle_of_using_a_connection_ends_it_and_no_other() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let (broken, far) = network.connect(0, 1);
    let (other, _) = network.connect(0, 1);
    network.run_for(Duration::from_secs(1));
    let waits = {
        let broken = broken.clone();
        async move { broken.address_change().await }
    };
    let panics = async move {
        let panicked = catch_unwind(AssertUnwindSafe(|| broken.with(|_| panic!("on purpose"))));
        assert!(panicked.is_err());
        broken.open().await
    };
    let (waited, opened) = network.block_on(join(waits, panics));
    assert_eq!(waited, Err(ConnectionError::DriverStopped));
    assert_eq!(opened, Err(ConnectionError::DriverStopped));
    network.settle();
    assert_eq!(network.nodes[0].stats().0.connections, 1);
    // Its peer sends something some time later, and gets a reset.
    let end = network.block_on(async move { far.address_change().await });
    assert_eq!(end, Err(ConnectionError::Reset));
    assert_eq!(other.loss(), None);
    other.close(0);
    network.run_until_empty();
    assert_empty(&network);
}

#[test]
fn reset_right_behind_a_close_is_not_taken_for_the_reason() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let (dialer, listener) = network.connect(0, 1);
    network.run_for(Duration::from_secs(1));
    listener.close(7);
    network.settle();
    let close = network.intercept();
    network.run_for(Duration::from_secs(1));
    network.nodes[1].assert_empty();
    let writer = dialer.clone();
    network.block_on(async move {
        let stream = writer.open().await.unwrap();
        writer
            .write_all(stream, b"is anybody there?")
            .await
            .unwrap();
    });
    network.run_for(Duration::from_millis(15));
    assert_eq!(network.nodes[1].stats().0.responses_sent, 1);
    let reset = network.intercept();

    // Both arrive before the connection has its turn.
    for datagram in close.iter().chain(&reset) {
        network.nodes[0].receive(network.now, datagram.from, &datagram.contents);
    }
    network.settle();
    let closed = ConnectionError::ClosedByPeer {
        code: 7,
        reason: String::new(),
    };
    assert_eq!(dialer.loss(), Some(closed));
}

#[test]
fn end_of_the_driver_is_told_to_everyone_who_waits() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let (dialer, _) = network.connect(0, 1);
    network.run_for(Duration::from_secs(1));
    let handshaking = network.dial(0, 1);
    network.run_for(Duration::from_millis(15));
    let stopped = ConnectionError::DriverStopped;
    // A task for each, so that each must be woken separately.
    network.spawn({
        let (dialer, stopped) = (dialer.clone(), stopped.clone());
        async move {
            let stream = dialer.open().await.unwrap();
            assert_eq!(dialer.read_to_end(stream).await, Err(stopped.into()));
        }
    });
    network.spawn({
        let (dialer, stopped) = (dialer.clone(), stopped.clone());
        async move { assert_eq!(dialer.address_change().await, Err(stopped)) }
    });
    network.spawn({
        let (dialer, stopped) = (dialer.clone(), stopped.clone());
        async move { assert_eq!(dialer.accept().await, Err(stopped)) }
    });
    network.spawn({
        let (handshaking, stopped) = (handshaking.clone(), stopped.clone());
        async move {
            let end = handshaking.established().await;
            assert_eq!(end, Err(HandshakeError::Connection(stopped)));
        }
    });
    network.settle();
    assert_eq!(network.waiting_tasks(), 4);

    // The answer to the dial waits for its turn; it is discarded, too.
    let now = network.now;
    for datagram in network.intercept() {
        network.nodes[0].receive(now, datagram.from, &datagram.contents);
    }
    assert!(network.nodes[0].shards[0].inbox_bytes() > 0);
    network.nodes[0].orphan_all();
    network.settle();
    network.nodes[0].assert_empty();
    assert_eq!(network.waiting_tasks(), 0);
    let closed = network.block_on(async move { dialer.closed().await });
    assert_eq!(closed, Err(stopped));
}

#[test]
fn end_of_the_driver_reaches_the_peers_at_once() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let pairs: Vec<_> = (0..3).map(|_| network.connect(0, 1)).collect();
    network.run_for(Duration::from_secs(1));
    // The application had already closed one of them with a code.
    pairs[2].0.close(7);
    let now = network.now;
    network.nodes[0].take_turns(0);
    network.nodes[0].stop(now);
    network.nodes[0].assert_empty();
    network.run_for(Duration::from_millis(15));
    for (number, (dialer, listener)) in pairs.iter().enumerate() {
        let (code, near) = match number {
            2 => (7, ConnectionError::LocallyClosed),
            _ => (0, ConnectionError::DriverStopped),
        };
        assert_eq!(dialer.loss(), Some(near));
        let closed = ConnectionError::ClosedByPeer {
            code,
            reason: String::new(),
        };
        assert_eq!(listener.loss(), Some(closed));
    }
}

#[test]
fn end_of_the_driver_forgets_incoming_connections() {
    let mut network = Network::pair(
        1,
        Setup::default(),
        Setup {
            answer: super::node::Answer::Hold,
            ..Setup::default()
        },
    );
    network.dial(0, 1);
    network.run_for(Duration::from_millis(15));
    assert!(!network.nodes[1].is_empty());
    network.nodes[1].orphan_all();
    network.nodes[1].assert_empty();
}

#[test]
fn what_arrived_before_the_end_can_still_be_read() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let (dialer, listener) = network.connect(0, 1);
    let stream = network.block_on({
        let (dialer, listener) = (dialer.clone(), listener.clone());
        async move {
            let stream = dialer.open().await.unwrap();
            dialer.write_all(stream, b"last words").await.unwrap();
            listener.accept().await.unwrap()
        }
    });
    network.run_for(Duration::from_millis(100));
    dialer.close(0);
    network.run_for(Duration::from_millis(100));
    assert!(listener.loss().is_some());
    let read = network.block_on(async move {
        let mut buf = [0; 64];
        let count = listener.read(stream, &mut buf).await.unwrap();
        assert_eq!(&buf[..count], b"last words");
        listener.read(stream, &mut buf).await
    });
    assert!(matches!(
        read,
        Err(StreamError::Connection(ConnectionError::ClosedByPeer {
            code: 0,
            ..
        }))
    ));
}

fn assert_empty(network: &Network) {
    network.nodes.iter().for_each(Node::assert_empty);
}

/// The last packet of its handshake waits for the socket, and the CONNECTION_CLOSE for that packet.
#[test]
fn connection_is_closed_within_a_second_although_its_socket_blocks() {
    let patient = Setup {
        configure: |builder| builder.idle_timeout(None).unwrap(),
        ..Setup::default()
    };
    let mut network = Network::pair(1, patient.clone(), patient);
    let dialer = network.dial(0, 1);
    network.run_for(Duration::from_millis(15));
    let answers = network.intercept();
    let now = network.now;
    let node = &mut network.nodes[0];
    node.outbox.room = 0;
    for answer in &answers {
        node.receive(now, answer.from, &answer.contents);
    }
    node.turn(now);
    assert!(matches!(dialer.established().now_or_never(), Some(Ok(_))));
    node.shards[0].close_connections(7_u32.into(), &Bytes::new(), true);
    node.turn(now);
    assert_eq!(node.stats().0.connections, 1);
    let later = now + Duration::from_millis(1_100);
    assert!(node.next_timeout().is_some_and(|at| at <= later));
    node.turn(later);
    assert_eq!(node.stats().0.connections, 0);
    assert_eq!(dialer.loss(), Some(ConnectionError::LocallyClosed));
}

/// The peer sends something two seconds later, over a path of 600 ms.
#[test]
fn close_that_was_lost_is_repeated_from_a_dialling_socket_on_a_long_path() {
    let far = Impairments {
        delay: Duration::from_millis(300),
        ..Impairments::NONE
    };
    let dialing = Setup {
        listening: false,
        ..Setup::default()
    };
    let mut network = Network::pair(1, dialing, Setup::default());
    network.impair(far);
    let (dialer, listener) = network.connect(0, 1);
    network.run_for(Duration::from_secs(1));
    dialer.close(7);
    network.impair(Impairments::DEAD);
    network.settle();
    network.impair(far);
    network.run_for(Duration::from_secs(2));
    let stream = listener.open().now_or_never().unwrap().unwrap();
    listener.write_now(stream, b"hello");
    let end = network.block_on(async move { listener.address_change().await });
    let Err(ConnectionError::ClosedByPeer { code, .. }) = end else {
        panic!("{end:?}");
    };
    assert_eq!(code, 7);
}
