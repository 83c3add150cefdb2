//! Streams that were closed properly, or have arrived, outlive the connection.

use std::time::Duration;

use futures::future::{FutureExt, join};

use super::{
    link::{Bottleneck, Impairments},
    network::Network,
    node::Setup,
    peer::Peer,
    received::{GAPS_IN_A_PACKET, assert_memory, crumbs, every_other, too_fragmented},
    scene::{Hostile, SIDES, Scene, VICTIM},
    seeds,
};
use crate::{
    config::{ConfigBuilder, Preset},
    error::{ConnectionError, StreamError},
    proto::StreamId,
    simulation::frame::Frame,
};

static CONTENTS: [u8; 300_000] = [7; 300_000];

#[test]
fn what_was_closed_properly_arrives_although_the_connection_is_closed_behind_it() {
    for seed in seeds() {
        let mut network = Network::pair(seed, Setup::default(), Setup::default());
        network.impair(Impairments {
            delay: Duration::from_millis(50),
            jitter: Duration::from_millis(5),
            loss: 0.1,
            ..Impairments::NONE
        });
        let (dialer, listener) = network.connect(0, 1);
        let stream = write_and_finish(&mut network, &dialer);
        let begun = network.elapsed();
        let near = dialer.clone();
        let closed = network.block_on(async move { near.closed().await });
        assert_eq!(closed, Ok(()));
        assert_eq!(network.elapsed(), begun, "somebody had to wait");
        dialer.drop_stream(stream);
        let (read, end) = network.block_on(async move { read_one_to_end(listener).await });
        assert_eq!(read.map(|read| read == CONTENTS), Ok(true));
        // The CONNECTION_CLOSE may be lost.
        let ends = [Err(closed_with(0)), Err(ConnectionError::Reset)];
        assert!(ends.contains(&end), "{end:?}");
        network.run_until_empty();
        assert_eq!(network.nodes[0].stats().1.lingers_given_up, 0);
    }
}

#[test]
fn bytes_that_were_gathered_arrive_too_when_their_stream_is_closed_and_dropped() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let (dialer, listener) = network.connect(0, 1);
    network.run_for(Duration::from_secs(1));
    let stream = dialer.open().now_or_never().unwrap().unwrap();
    for _ in 0..100 {
        assert_eq!(dialer.write_now(stream, b"little"), 6);
    }
    dialer.finish(stream).unwrap();
    dialer.drop_stream(stream);
    assert_eq!(dialer.closed().now_or_never(), Some(Ok(())));
    let (read, end) = network.block_on(async move { read_one_to_end(listener).await });
    assert_eq!(read.map(|contents| contents.len()), Ok(600));
    assert_eq!(end, Err(closed_with(0)));
}

#[test]
fn what_was_not_closed_is_reset_and_keeps_nobody_waiting() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let (dialer, listener) = network.connect(0, 1);
    network.run_for(Duration::from_secs(1));
    let [open, closed] = [(); 2].map(|()| dialer.open().now_or_never().unwrap().unwrap());
    assert!(dialer.write_now(open, &CONTENTS) > 0);
    assert_eq!(dialer.write_now(closed, b"all of it"), 9);
    dialer.finish(closed).unwrap();
    assert_eq!(dialer.closed().now_or_never(), Some(Ok(())));
    let ends = network.block_on(async move {
        let open = listener.accept().await.unwrap();
        let closed = listener.accept().await.unwrap();
        join(listener.read_to_end(open), listener.read_to_end(closed)).await
    });
    assert_eq!(
        ends,
        (Err(StreamError::Reset(0)), Ok(b"all of it".to_vec()))
    );
}

#[test]
fn nothing_to_deliver_is_nothing_to_wait_for() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let (dialer, listener) = network.connect(0, 1);
    network.run_for(Duration::from_secs(1));
    write_and_finish(&mut network, &dialer);
    // Everything is acknowledged.
    network.run_for(Duration::from_secs(1));
    let before = network.datagrams_sent();
    assert_eq!(dialer.closed().now_or_never(), None);
    network.settle();
    assert_eq!(network.datagrams_sent() - before, 1);
    network.run_for(Duration::from_millis(20));
    assert_eq!(listener.loss(), Some(closed_with(0)));
}

#[test]
fn whoever_closes_with_a_code_or_has_set_no_time_waits_for_nothing() {
    let at_once = Setup {
        configure: |builder| linger(builder, Duration::ZERO),
        ..Setup::default()
    };
    for (setup, code) in [(Setup::default(), Some(7)), (at_once, None)] {
        let mut network = Network::pair(1, setup, Setup::default());
        let (dialer, listener) = network.connect(0, 1);
        network.run_for(Duration::from_secs(1));
        write_and_finish(&mut network, &dialer);
        let begun = network.elapsed();
        match code {
            Some(code) => dialer.close(code),
            None => assert_eq!(dialer.closed().now_or_never(), None),
        }
        let (read, end) = network.block_on(async move { read_one_to_end(listener).await });
        let error = closed_with(code.unwrap_or(0).into());
        assert_eq!(read, Err(StreamError::Connection(error.clone())));
        assert_eq!(end, Err(error));
        assert!(network.elapsed() - begun < Duration::from_millis(100));
    }
}

#[test]
fn stream_that_was_only_dropped_is_not_waited_for() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let (dialer, listener) = network.connect(0, 1);
    network.run_for(Duration::from_secs(1));
    let stream = dialer.open().now_or_never().unwrap().unwrap();
    assert!(dialer.write_now(stream, &CONTENTS) > 0);
    dialer.drop_stream(stream);
    assert_eq!(dialer.clone().closed().now_or_never(), None);
    network.run_for(Duration::from_millis(20));
    assert_eq!(listener.loss(), Some(closed_with(0)));
}

#[test]
fn whoever_closes_at_once_after_all_waits_no_longer() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let (dialer, listener) = network.connect(0, 1);
    network.run_for(Duration::from_secs(1));
    write_and_finish(&mut network, &dialer);
    assert_eq!(dialer.clone().closed().now_or_never(), Some(Ok(())));
    network.settle();
    dialer.close(7);
    network.run_for(Duration::from_millis(20));
    // With the code of the first close.
    assert_eq!(listener.loss(), Some(closed_with(0)));
    assert_eq!(network.nodes[0].stats().1.lingers_given_up, 1);
}

#[test]
fn peer_that_acknowledges_nothing_is_waited_for_three_seconds() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let (dialer, _) = network.connect(0, 1);
    network.run_for(Duration::from_secs(1));
    write_and_finish(&mut network, &dialer);
    network.impair(Impairments::DEAD);
    assert_eq!(dialer.closed().now_or_never(), Some(Ok(())));
    network.run_for(Duration::from_millis(2_900));
    assert_eq!(network.nodes[0].stats().0.connections, 1);
    network.run_for(Duration::from_millis(200));
    assert_eq!(network.nodes[0].stats().0.connections, 0);
    assert_eq!(network.nodes[0].stats().1.lingers_given_up, 1);
}

#[test]
fn peer_that_acknowledges_little_by_little_is_waited_for_no_longer_than_was_set() {
    let mut network = Network::pair(
        1,
        Setup {
            configure: |builder| linger(builder, Duration::from_secs(10)),
            ..Setup::default()
        },
        Setup::default(),
    );
    let (dialer, listener) = network.connect(0, 1);
    network.run_for(Duration::from_secs(1));
    network.impair(Impairments {
        bottleneck: Some(Bottleneck::new(5_000, 100_000)),
        ..Impairments::NONE
    });
    write_and_finish(&mut network, &dialer);
    assert_eq!(dialer.closed().now_or_never(), Some(Ok(())));
    network.run_for(Duration::from_millis(9_900));
    assert_eq!(network.nodes[0].stats().0.connections, 1);
    network.run_for(Duration::from_millis(200));
    assert_eq!(network.nodes[0].stats().0.connections, 0);
    assert_eq!(network.nodes[0].stats().1.lingers_given_up, 1);
    network.run_for(Duration::from_secs(30));
    assert_eq!(listener.loss(), Some(closed_with(0)));
}

#[test]
fn peer_that_goes_itself_is_not_waited_for() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let (dialer, listener) = network.connect(0, 1);
    network.run_for(Duration::from_secs(1));
    write_and_finish(&mut network, &dialer);
    assert_eq!(dialer.closed().now_or_never(), Some(Ok(())));
    listener.close(7);
    network.run_for(Duration::from_millis(100));
    assert_eq!(network.nodes[0].stats().0.connections, 0);
    network.run_until_empty();
}

/// Streams that came in before the close and were not taken, and streams that come in after it.
#[test]
fn streams_that_nobody_will_take_are_refused_while_others_are_delivered() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    network.impair(FAR);
    let (dialer, listener) = network.connect(0, 1);
    network.run_for(Duration::from_secs(1));
    let before = listener.open().now_or_never().unwrap().unwrap();
    assert_eq!(listener.write_now(before, b"hello"), 5);
    network.run_for(Duration::from_secs(1));
    write_and_finish(&mut network, &dialer);
    assert_eq!(dialer.closed().now_or_never(), Some(Ok(())));
    let after = listener.open().now_or_never().unwrap().unwrap();
    assert_eq!(listener.write_now(after, b"hello"), 5);
    network.run_for(3 * FAR.delay);
    for stream in [before, after] {
        let written = listener.write(stream, b"again").now_or_never();
        assert_eq!(written, Some(Err(StreamError::Stopped(0))));
    }
    let (read, _) = network.block_on(async move { read_one_to_end(listener).await });
    assert_eq!(read.map(|read| read == CONTENTS), Ok(true));
}

#[test]
fn stream_that_is_dropped_behind_the_close_is_reset_too() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let (dialer, listener) = network.connect(0, 1);
    network.run_for(Duration::from_secs(1));
    let open = dialer.open().now_or_never().unwrap().unwrap();
    assert!(dialer.write_now(open, &CONTENTS) > 0);
    write_and_finish(&mut network, &dialer);
    assert_eq!(dialer.closed().now_or_never(), Some(Ok(())));
    dialer.drop_stream(open);
    let end = network.block_on(async move {
        let open = listener.accept().await.unwrap();
        listener.read_to_end(open).await
    });
    assert_eq!(end, Err(StreamError::Reset(0)));
}

/// The socket may change while the connection lingers.
#[test]
fn connection_that_lingers_follows_its_socket() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    network.impair(FAR);
    let (dialer, listener) = network.connect(0, 1);
    network.run_for(Duration::from_secs(1));
    write_and_finish(&mut network, &dialer);
    assert_eq!(dialer.closed().now_or_never(), Some(Ok(())));
    let addr = network.move_socket(0);
    let (read, _) = network.block_on({
        let listener = listener.clone();
        async move { read_one_to_end(listener).await }
    });
    assert_eq!(read.map(|read| read == CONTENTS), Ok(true));
    assert_eq!(listener.stats().remote_addr, addr);
}

/// Nobody reads data of a peer whose acknowledgements we wait for, so that data must take no
/// memory.
#[test]
fn peer_that_is_waited_for_fills_no_memory() {
    for side in SIDES {
        let mut scene = Scene::new(side);
        scene.open_the_congestion_window();
        let streams = scene.open(80);
        for &stream in &streams[..40] {
            scene.say(&crumbs(stream, 0..1));
            if stream == streams[0] {
                // Including the carrier.
                scene.accept_all();
            }
        }
        have_linger(&mut scene);
        let streams = &streams[1..];
        scene.flood((1..20).flat_map(|packet| {
            let piece =
                move |&stream: &u64| vec![Frame::stream(stream, 1100 * packet, &[b'x'; 1100])];
            streams.iter().map(piece).collect::<Vec<_>>()
        }));
        scene.network.run_for(2 * FAR.delay);
        assert!(scene.is_open());
        // Otherwise it would be 1.8 MB more.
        assert_memory(scene, 0..2_600_000);
    }
}

#[test]
fn peer_that_is_waited_for_has_the_same_limits_as_another_one() {
    for side in SIDES {
        let mut scene = Scene::new(side);
        scene.open_the_congestion_window();
        let streams = scene.open(4);
        for &stream in &streams {
            scene.say(&crumbs(stream, 0..1));
        }
        assert_eq!(scene.accept_all().len(), 4);
        have_linger(&mut scene);
        let mut gaps = 0;
        while scene.is_open() {
            let packets = (0..16).map(|packet| {
                gaps += GAPS_IN_A_PACKET;
                every_other(streams[packet % 4], 2 * gaps, GAPS_IN_A_PACKET)
            });
            scene.flood(packets.collect::<Vec<_>>().into_iter());
            assert!(gaps < 20_000, "nobody objects to {gaps} gaps");
        }
        assert_eq!(too_fragmented(&scene), 1);
        let transport = scene.network.nodes[VICTIM].stats().1;
        assert_eq!(transport.lingers_given_up, 1);
    }
}

/// quinn-proto has sorted their data before they are refused.
#[test]
fn pieces_of_streams_that_are_refused_count() {
    let victim = Setup {
        configure: |builder| builder.preset(Preset::ManyStreams),
        ..Setup::default()
    };
    let mut scene = Scene::with(Hostile::Dials, victim);
    scene.open_the_congestion_window();
    // As many streams have a pile as may.
    let piles = scene.begin(256);
    scene.flood(piles.into_iter().map(|stream| every_other(stream, 1, 9)));
    let streams = scene.open(50);
    have_linger(&mut scene);
    scene.flood(
        streams
            .into_iter()
            .map(|stream| every_other(stream, 1, 150)),
    );
    scene.network.run_for(2 * FAR.delay);
    assert_eq!(too_fragmented(&scene), 1);
    assert!(!scene.is_open());
}

/// Makes the victim close its connection, with much to deliver over a long path.
fn have_linger(scene: &mut Scene) {
    scene.network.impair(FAR);
    let stream = scene.victim.open().now_or_never().unwrap().unwrap();
    let mut written = 0;
    for _ in 0..30 {
        written += scene.victim.write_now(stream, &CONTENTS);
    }
    assert!(written > 300_000, "{written}");
    scene.victim.finish(stream).unwrap();
    let closed = scene.victim.closed().now_or_never();
    assert_eq!(closed, Some(Ok(())));
}

const FAR: Impairments = Impairments {
    delay: Duration::from_millis(100),
    ..Impairments::NONE
};

/// A peer may do everything that it has to do, and close, before the application looks.
#[test]
fn what_came_in_before_the_end_can_be_taken_after_it() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let (dialer, listener) = network.connect(0, 1);
    for number in 0..3 {
        let stream = dialer.open().now_or_never().unwrap().unwrap();
        assert_eq!(dialer.write_now(stream, &[number; 100]), 100);
        dialer.finish(stream).unwrap();
    }
    network.settle();
    dialer.close(7);
    network.run_for(Duration::from_millis(900));
    assert_eq!(listener.loss(), Some(closed_with(7)));
    assert!(listener.established().now_or_never().unwrap().is_ok());
    for number in 0..3 {
        let end = listener.address_change();
        assert_eq!(end.now_or_never(), None, "streams wait");
        let stream = listener.accept().now_or_never().unwrap().unwrap();
        let read = listener.read_to_end(stream).now_or_never();
        assert_eq!(read, Some(Ok(vec![number; 100])));
    }
    let end = listener.accept().now_or_never();
    assert_eq!(end, Some(Err(closed_with(7))));
    let end = listener.address_change().now_or_never();
    assert_eq!(end, Some(Err(closed_with(7))));
}

/// A peer that dials and closes has been there: the other side reports the connection, and then its
/// end.
#[test]
fn connection_that_is_closed_as_soon_as_there_is_one_is_one_for_the_peer_too() {
    for closes_at_once in [false, true] {
        let mut network = Network::pair(1, Setup::default(), Setup::default());
        let dialer = network.dial(0, 1);
        let near = dialer.clone();
        network.block_on(async move {
            near.established().await.unwrap();
            if closes_at_once {
                near.close(7);
            } else {
                near.closed().await.unwrap();
            }
        });
        network.run_for(Duration::from_secs(1));
        let listener = network.nodes[1].accepted.pop_front().unwrap();
        assert!(listener.established().now_or_never().unwrap().is_ok());
        let code = if closes_at_once { 7 } else { 0 };
        assert_eq!(listener.loss(), Some(closed_with(code)));
    }
}

#[test]
fn whoever_waits_for_the_end_is_woken_when_the_last_stream_is_taken() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let (dialer, listener) = network.connect(0, 1);
    let stream = dialer.open().now_or_never().unwrap().unwrap();
    assert_eq!(dialer.write_now(stream, b"hello"), 5);
    network.settle();
    dialer.close(7);
    network.run_for(Duration::from_millis(100));
    let waits = {
        let listener = listener.clone();
        async move { listener.address_change().await }
    };
    let takes = async move { listener.accept().await.is_ok() };
    let (end, taken) = network.block_on(join(waits, takes));
    assert_eq!((end, taken), (Err(closed_with(7)), true));
}

#[test]
fn streams_that_nobody_takes_do_not_keep_the_end_for_long() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let (dialer, listener) = network.connect(0, 1);
    let stream = dialer.open().now_or_never().unwrap().unwrap();
    assert!(dialer.write_now(stream, &CONTENTS) > 0);
    network.run_for(Duration::from_secs(1));
    assert!(listener.stats().held_bytes > 0);
    dialer.close(7);
    let begun = network.elapsed();
    let waiting = listener.clone();
    let end = network.block_on(async move { waiting.address_change().await });
    assert_eq!(end, Err(closed_with(7)));
    let waited = network.elapsed() - begun;
    assert!(waited < Duration::from_millis(1_100), "{waited:?}");
    assert_eq!(listener.stats().held_bytes, 0);
    assert_eq!(listener.accept().now_or_never(), Some(Err(closed_with(7))));
    network.run_until_empty();
}

/// Leaves several round trips' worth of data to acknowledge.
pub(super) fn write_and_finish(network: &mut Network, peer: &Peer) -> StreamId {
    let writer = peer.clone();
    network.block_on(async move {
        let stream = writer.open().await.unwrap();
        writer.write_all(stream, &CONTENTS).await.unwrap();
        writer.finish(stream).unwrap();
        stream
    })
}

/// The data of one stream, and the end of the connection.
async fn read_one_to_end(
    peer: Peer,
) -> (
    Result<Vec<u8>, StreamError>,
    Result<StreamId, ConnectionError>,
) {
    let stream = match peer.accept().await {
        Ok(stream) => stream,
        Err(error) => return (Err(error.clone().into()), Err(error)),
    };
    let contents = peer.read_to_end(stream).await;
    (contents, peer.accept().await)
}

fn linger(builder: ConfigBuilder, timeout: Duration) -> ConfigBuilder {
    builder.linger_timeout(timeout).unwrap()
}

fn closed_with(code: u64) -> ConnectionError {
    ConnectionError::ClosedByPeer {
        code,
        reason: String::new(),
    }
}

/// The peer has no credit to give, and acknowledges only what it is asked.
#[test]
fn reader_that_pauses_gets_what_was_closed_properly() {
    for (pause, loss) in [(2, 0.0), (6, 0.0), (20, 0.0), (20, 0.2)] {
        let small = Setup {
            configure: |builder| builder.stream_receive_window_bytes(64 * 1024).unwrap(),
            ..Setup::default()
        };
        let mut network = Network::pair(1, Setup::default(), small);
        let (dialer, listener) = network.connect(0, 1);
        network.run_for(Duration::from_secs(1));
        let stream = dialer.open().now_or_never().unwrap().unwrap();
        let mut written = 0;
        for _ in 0..10 {
            written += dialer.write_now(stream, &CONTENTS[..10_000]);
            network.settle();
        }
        assert!(written > 70_000, "{written}");
        network.run_for(Duration::from_secs(1));
        let reading = listener.accept().now_or_never().unwrap().unwrap();
        dialer.finish(stream).unwrap();
        assert_eq!(dialer.closed().now_or_never(), Some(Ok(())));
        network.impair(Impairments {
            loss,
            ..Impairments::NONE
        });
        network.run_for(Duration::from_secs(pause));
        network.impair(Impairments::NONE);
        let received =
            network.block_on(async move { listener.read_to_end(reading).await.unwrap() });
        assert_eq!(received.len(), written, "after {pause} s, loss {loss}");
        assert_eq!(network.nodes[0].stats().1.lingers_given_up, 0);
    }
}

#[test]
fn delivery_that_the_idle_timeout_ends_is_counted() {
    let short = Setup {
        configure: |builder| {
            let builder = builder.keep_alive_interval(None).unwrap();
            builder.idle_timeout(Some(Duration::from_secs(1))).unwrap()
        },
        ..Setup::default()
    };
    let mut network = Network::pair(1, short.clone(), short);
    let (dialer, _listener) = network.connect(0, 1);
    network.run_for(Duration::from_millis(300));
    let stream = dialer.open().now_or_never().unwrap().unwrap();
    dialer.write_now(stream, &CONTENTS[..50_000]);
    dialer.finish(stream).unwrap();
    network.impair(Impairments::DEAD);
    assert_eq!(dialer.closed().now_or_never(), Some(Ok(())));
    network.run_for(Duration::from_secs(10));
    assert_eq!(network.nodes[0].stats().0.connections, 0);
    assert_eq!(network.nodes[0].stats().1.lingers_given_up, 1);
}
