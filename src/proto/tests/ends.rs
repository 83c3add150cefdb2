//! Ends of streams from which some data was moved to our memory before the application read it.

use std::{cell::RefCell, rc::Rc, time::Duration};

use futures::FutureExt;

use super::{
    peer::Peer,
    received::{crumbs, held, holding, moved_pieces},
    scene::{Hostile, Scene},
};
use crate::{
    error::{ConnectionError, StreamError},
    proto::{StreamId, connection::Holding},
    simulation::frame::{Frame, Number},
};

#[test]
fn reset_drops_what_was_moved() {
    let mut scene = Scene::new(Hostile::Dials);
    let stream = scene.open(1)[0];
    scene.say(&crumbs(stream, 0..150));
    let accepted = scene.accept_all()[0];
    assert!(moved_pieces(&scene.victim) > 0);
    assert_eq!(read_now(&scene.victim, accepted, 100), Ok(100));
    scene.say(&[Frame::ResetStream {
        stream: Number(stream),
        code: Number(17),
        final_size: Number(1_000_000),
    }]);
    let read = read_now(&scene.victim, accepted, 100);
    assert_eq!(read, Err(StreamError::Reset(17)));
    assert_all_gone(&scene.victim);
    scene.assert_open();
}

#[test]
fn stream_may_be_let_go_with_what_was_moved() {
    for gap in [0, 1] {
        let mut scene = Scene::new(Hostile::Dials);
        let streams = scene.open(2);
        for &stream in &streams {
            scene.say(&crumbs(stream, gap..gap + 150));
        }
        let accepted = scene.accept_all();
        assert!(held(&scene.victim) > 0);
        let code = quinn_proto::VarInt::from_u32(0);
        scene
            .victim
            .with(|connection| connection.streams().stop(accepted[0], code))
            .unwrap();
        scene.victim.drop_stream(accepted[1]);
        assert_all_gone(&scene.victim);
        assert_eq!(
            read_now(&scene.victim, accepted[0], 1),
            Err(StreamError::Closed)
        );
        scene.assert_open();
    }
}

#[test]
fn end_is_told_when_all_before_it_was_read() {
    let last = |stream, offset, data: &[u8]| Frame::Stream {
        stream: Number(stream),
        offset: Number(offset),
        data: data.to_vec(),
        fin: true,
    };
    // With data in the last frame, and without.
    for end in [&b"x"[..], b""] {
        let mut scene = Scene::new(Hostile::Dials);
        let stream = scene.open(1)[0];
        let len = 151 + end.len();
        scene.say(&crumbs(stream, 1..151));
        let accepted = scene.accept_all()[0];
        assert_eq!(read_now(&scene.victim, accepted, 1000), Ok(0));
        scene.say(&[last(stream, 151, end)]);
        assert_eq!(read_now(&scene.victim, accepted, 1000), Ok(0));
        let reading = scene.victim.clone();
        let read = Rc::new(RefCell::new(None));
        let result = Rc::clone(&read);
        scene.network.spawn(async move {
            let mut buf = [0; 1000];
            let mut seen = 0;
            loop {
                match reading.read(accepted, &mut buf[seen..]).await {
                    Ok(0) => break,
                    Ok(count) => seen += count,
                    Err(error) => panic!("{error}"),
                }
            }
            *result.borrow_mut() = Some(seen);
        });
        scene.network.run_for(Duration::from_secs(1));
        assert_eq!(*read.borrow(), None);
        scene.say(&crumbs(stream, 0..1));
        assert_eq!(*read.borrow(), Some(len));
        assert_all_gone(&scene.victim);
        // The end is reported again.
        let mut buf = [0; 1];
        let victim = scene.victim.clone();
        let again = victim.read(accepted, &mut buf).now_or_never();
        assert_eq!(again, Some(Ok(0)));
        scene.assert_open();
    }
}

#[test]
fn bytes_that_overlap_with_what_was_read_are_not_read_again() {
    let mut scene = Scene::new(Hostile::Dials);
    let stream = scene.open(1)[0];
    scene.say(&[
        Frame::stream(stream, 0, b"0123456789"),
        Frame::stream(stream, 5, b"56789abcde"),
    ]);
    let accepted = scene.accept_all()[0];
    assert_eq!(read_now(&scene.victim, accepted, 10), Ok(10));
    // A gap before many pieces, with the end behind them.
    let mut frames = crumbs(stream, 16..166);
    frames.push(Frame::Stream {
        stream: Number(stream),
        offset: Number(166),
        data: Vec::new(),
        fin: true,
    });
    scene.say(&frames);
    assert_eq!(holding(&scene.victim).gaps, 1);
    assert_eq!(read_now(&scene.victim, accepted, 1000), Ok(5));
    scene.say(&crumbs(stream, 15..16));
    assert_eq!(read_now(&scene.victim, accepted, 1000), Ok(151));
    let mut buf = [0; 1];
    let victim = scene.victim.clone();
    let end = victim.read(accepted, &mut buf).now_or_never();
    assert_eq!(end, Some(Ok(0)));
    scene.assert_open();
}

#[test]
fn what_was_moved_can_be_read_after_the_end_of_the_connection() {
    let mut scene = Scene::new(Hostile::Dials);
    let streams = scene.open(2);
    scene.say(&crumbs(streams[0], 0..150));
    let accepted = scene.accept_all()[0];
    scene.say(&crumbs(streams[1], 0..150));
    scene.hostile.close(7);
    scene.network.run_for(Duration::from_millis(100));
    assert!(scene.victim.loss().is_some());
    assert_eq!(read_now(&scene.victim, accepted, 1000), Ok(150));
    let read = read_now(&scene.victim, accepted, 1000);
    assert!(
        matches!(
            read,
            Err(StreamError::Connection(ConnectionError::ClosedByPeer {
                code: 7,
                ..
            }))
        ),
        "{read:?}"
    );
    // The other stream can still be taken.
    let waiting = scene.victim.accept().now_or_never().unwrap().unwrap();
    assert_eq!(read_now(&scene.victim, waiting, 1000), Ok(150));
    assert_all_gone(&scene.victim);
}

/// quinn-proto discards such a stream when both halves have ended, and would let the peer open
/// another one.
#[test]
fn streams_that_were_moved_whole_count_until_they_are_read() {
    let mut scene = Scene::new(Hostile::Dials);
    let streams = moved_whole(&mut scene, 40);
    let accepted = scene.accept_all();
    assert_eq!(accepted.len(), streams.len());
    for &stream in &accepted {
        scene.victim.finish(stream).unwrap();
    }
    scene.network.run_for(Duration::from_secs(1));
    // 100, less those, and less the carrier.
    assert_eq!(open_all(&mut scene), 59);
    for &stream in &accepted {
        assert_eq!(read_now(&scene.victim, stream, 1000), Ok(150));
        scene.victim.drop_stream(stream);
    }
    scene.network.run_for(Duration::from_secs(1));
    assert_eq!(open_all(&mut scene), 40);
    scene.assert_open();
}

#[test]
fn streams_that_were_moved_whole_count_before_they_are_taken() {
    let mut scene = Scene::new(Hostile::Dials);
    for stream in moved_whole(&mut scene, 40) {
        scene.say(&[Frame::StopSending {
            stream: Number(stream),
            code: Number(0),
        }]);
    }
    scene.network.run_for(Duration::from_secs(1));
    // This would make quinn-proto give the peer credit for streams that it no longer counts.
    moved_whole(&mut scene, 1);
    assert_eq!(open_all(&mut scene), 58);
    scene.assert_open();
}

/// Streams whose data was moved to our memory completely, with their ends.
fn moved_whole(scene: &mut Scene, count: usize) -> Vec<u64> {
    let streams = scene.open(count);
    for &stream in &streams {
        let mut frames = crumbs(stream, 0..149);
        frames.push(Frame::Stream {
            stream: Number(stream),
            offset: Number(149),
            data: vec![b'x'],
            fin: true,
        });
        scene.say(&frames);
    }
    streams
}

/// Opens as many more streams as the hostile peer may, and returns how many.
fn open_all(scene: &mut Scene) -> usize {
    let mut count = 0;
    while scene.hostile.open().now_or_never().is_some() {
        count += 1;
    }
    scene.network.run_for(Duration::from_secs(1));
    count
}

/// The result of a read that does not wait; nothing if it would have to wait.
fn read_now(peer: &Peer, stream: StreamId, most: usize) -> Result<usize, StreamError> {
    let mut buf = vec![0; most];
    let read = peer.read(stream, &mut buf).now_or_never();
    read.unwrap_or(Ok(0))
}

/// Asserts that nothing is in our memory.
fn assert_all_gone(peer: &Peer) {
    let Holding {
        bytes, pages, gaps, ..
    } = holding(peer);
    assert_eq!((bytes, pages, gaps), (0, 0, 0));
}
