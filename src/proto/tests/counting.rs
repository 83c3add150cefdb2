//! What a connection counts as received and not read: no more than it holds, whatever quinn-proto
//! does not tell.

use std::slice;

use futures::FutureExt;

use super::{
    node::Setup,
    received::{DATAGRAM, PILE, assert_memory, crumbs, held, holding, moved_pieces},
    scene::{Hostile, Scene, VICTIM},
};
use crate::simulation::frame::Frame;

/// After a read that ends where a piece ends, the piece is not counted. Such a stream is still read
/// in order: a few pieces behind a gap stay in quinn-proto.
#[test]
fn messages_that_are_read_one_by_one_leave_nothing_behind() {
    const MESSAGES: u64 = 2 * PILE;
    let mut scene = Scene::new(Hostile::Dials);
    let stream = scene.open(1)[0];
    let mut accepted = None;
    let mut buf = [0; 4];
    for message in 0..MESSAGES {
        scene.say(&[Frame::stream(stream, 4 * message, b"ping")]);
        let accepted = *accepted.get_or_insert_with(|| scene.accept_all()[0]);
        let read = scene.victim.read(accepted, &mut buf).now_or_never();
        assert_eq!((read, &buf), (Some(Ok(4)), b"ping"));
    }
    assert_nothing_is_left(&scene);

    let accepted = accepted.unwrap();
    let next = 4 * MESSAGES;
    scene.say(&crumbs(stream, next + 1..next + 21));
    let mut buf = [0; 100];
    assert_eq!(scene.victim.read(accepted, &mut buf).now_or_never(), None);
    assert_eq!(moved_pieces(&scene.victim), 0);
    scene.say(&crumbs(stream, next..next + 1));
    let read = scene.victim.read(accepted, &mut buf).now_or_never();
    assert_eq!(read, Some(Ok(21)));
    assert_nothing_is_left(&scene);
}

/// quinn-proto drops a duplicate, but reports it.
#[test]
fn duplicate_of_what_was_read_counts_as_one_datagram_at_most() {
    let mut scene = Scene::new(Hostile::Dials);
    scene.open_the_congestion_window();
    let stream = scene.open(1)[0];
    let mut accepted = None;
    let mut buf = [0; 2000];
    for message in 0..1000 {
        let frame = Frame::stream(stream, 1000 * message, &[b'x'; 1000]);
        scene.say(slice::from_ref(&frame));
        let accepted = *accepted.get_or_insert_with(|| scene.accept_all()[0]);
        let read = scene.victim.read(accepted, &mut buf).now_or_never();
        assert_eq!(read, Some(Ok(1000)));
        if message == 3 {
            scene.say(&[frame]);
        }
    }
    let left = holding(&scene.victim).backlog;
    assert!(left <= 2 * DATAGRAM, "{left}");
}

#[test]
fn duplicates_do_not_use_up_the_budget() {
    const BUDGET: u64 = 1024 * 1024;
    const STREAMS: usize = 10;
    let victim = Setup {
        configure: |builder| builder.max_buffered_bytes(Some(BUDGET)).unwrap(),
        ..Setup::default()
    };
    let mut scene = Scene::with(Hostile::Dials, victim);
    scene.open_the_congestion_window();
    let streams = scene.open(STREAMS);
    let pieces = |offset| {
        let pieces = (streams.iter()).map(move |&s| Frame::stream(s, offset, &[b'x'; 1000]));
        pieces.collect::<Vec<_>>()
    };
    let mut buf = [0; 2000];
    for piece in pieces(0) {
        scene.say(&[piece]);
    }
    let accepted = scene.accept_all();
    for &stream in &accepted {
        let read = scene.victim.read(stream, &mut buf).now_or_never();
        assert_eq!(read, Some(Ok(1000)));
    }
    let counted = u64::try_from(STREAMS).unwrap() * (PILE - 10) * DATAGRAM;
    assert!(counted > BUDGET);
    for _ in 0..PILE - 10 {
        for piece in pieces(0) {
            scene.say(&[piece]);
        }
        for &stream in &accepted {
            let read = scene.victim.read(stream, &mut buf).now_or_never();
            assert_eq!(read, None);
        }
    }
    for piece in pieces(1000) {
        scene.say(&[piece]);
    }
    for stream in accepted {
        let read = scene.victim.read(stream, &mut buf).now_or_never();
        assert_eq!(read, Some(Ok(1000)));
    }
}

/// A datagram counts for each stream of which it has a frame.
#[test]
fn datagrams_that_count_for_many_streams_do_not_use_up_the_budget() {
    const BUDGET: u64 = 8 * 1024 * 1024;
    const STREAMS: usize = 150;
    let victim = Setup {
        configure: |builder| builder.max_buffered_bytes(Some(BUDGET)).unwrap(),
        ..Setup::default()
    };
    let mut scene = Scene::with(Hostile::Dials, victim);
    scene.open_the_congestion_window();
    let streams = scene.begin(STREAMS);
    let mut most = 0;
    for round in 0..100 {
        let frames = (streams.iter()).map(|&stream| Frame::stream(stream, 2 + round, b"x"));
        scene.say(&frames.collect::<Vec<_>>());
        most = most.max(scene.network.nodes[VICTIM].budget.used());
    }
    assert!(100 * STREAMS as u64 * DATAGRAM > 2 * BUDGET);
    // Nearly half of it, and what is counted before the next look.
    assert!((BUDGET / 3..BUDGET * 3 / 4).contains(&most), "{most}");
    scene.assert_open();
}

/// The connection's window is not lowered and raised for what is left of a piece.
#[test]
fn messages_with_a_header_cost_no_more_packets() {
    let mut scene = Scene::new(Hostile::Dials);
    let stream = scene.open(1)[0];
    let mut accepted = None;
    let mut buf = [0; 3000];
    let mut sent = [0; 2];
    for (is_split, sent) in [false, true].into_iter().zip(&mut sent) {
        let before = scene.victim.stats().datagrams_sent;
        for message in 0..50 {
            let message = message + 50 * u64::from(is_split);
            for part in 0..3 {
                let offset = 3000 * message + 1000 * part;
                scene.say(&[Frame::stream(stream, offset, &[b'x'; 1000])]);
            }
            let accepted = *accepted.get_or_insert_with(|| scene.accept_all()[0]);
            let header = 4 * usize::from(is_split);
            for part in [0..header, header..3000] {
                let len = part.len();
                let read = scene.victim.read(accepted, &mut buf[part]).now_or_never();
                assert_eq!(read, Some(Ok(len)));
            }
            scene.network.settle();
        }
        *sent = scene.victim.stats().datagrams_sent - before;
    }
    assert!(sent[1] <= sent[0] + 5, "{sent:?}");
}

/// Where a stream is read in any order, a frame becomes many pieces if others lie in it.
#[test]
fn frame_around_others_counts_until_it_was_read() {
    const OTHERS: u64 = 60;
    let mut scene = Scene::new(Hostile::Dials);
    let stream = scene.open(1)[0];
    // After a pile behind a gap.
    let pile = PILE + 22;
    scene.say(&crumbs(stream, 1..pile));
    scene.say(&crumbs(stream, 0..1));
    let accepted = scene.accept_all()[0];
    let mut buf = [0; 1000];
    let read = scene.victim.read(accepted, &mut buf).now_or_never();
    assert_eq!(read, Some(Ok(pile as usize)));
    let moved = moved_pieces(&scene.victim);
    assert!(moved > 0);
    let others = holding(&scene.victim).backlog;

    // In small packets. quinn-proto merges pieces of large ones.
    for other in 0..OTHERS {
        scene.whisper(&Frame::stream(stream, pile + 1 + 2 * other, b"x"));
    }
    let around = Frame::stream(stream, pile, &[b'x'; 2 * OTHERS as usize + 1]);
    let memory = scene.whisper(&around);
    // More pieces than there were frames, and not all.
    let part = OTHERS as usize * 3 / 4;
    for _ in 0..2 {
        let read = (scene.victim.read(accepted, &mut buf[..part])).now_or_never();
        assert_eq!(read, Some(Ok(part)));
    }
    assert_eq!(moved_pieces(&scene.victim), moved);
    let left = holding(&scene.victim).backlog;
    assert!(left >= others + memory, "{left} {others} {memory}");
    let read = scene.victim.read(accepted, &mut buf).now_or_never();
    assert_eq!(read, Some(Ok(2 * OTHERS as usize + 1 - 2 * part)));
    assert_nothing_is_left(&scene);
}

/// Nothing but a datagram of the scene's own stream.
fn assert_nothing_is_left(scene: &Scene) {
    let left = holding(&scene.victim);
    assert!(left.bytes == 0 && left.backlog <= DATAGRAM, "{left:?}");
}

/// quinn-proto copies small pieces into one buffer, and then the last of them keeps all of it.
#[test]
fn piece_behind_a_gap_counts_for_all_that_it_was_merged_with() {
    const PAIRS: usize = 10;
    const ROUNDS: u64 = 10;
    const FRAMES: u64 = 32;
    const BYTES: usize = 540;
    const CRUMBS: u64 = 22;
    /// A frame, and the hole of three bytes before it.
    const STRIDE: u64 = BYTES as u64 + 3;
    const FAR: u64 = 300_000;
    const FILLER: [u8; 900] = [b'x'; 900];

    let mut scene = Scene::new(Hostile::Dials);
    scene.open_the_congestion_window();
    let filler = scene.open(1)[0];
    let streams = scene.open(2 * PAIRS);
    let mut accepted = Vec::new();
    let mut buf = vec![0; 64 * 1024];
    let mut filled = 0;
    for round in 0..ROUNDS {
        let hole = |frame| (round * FRAMES + frame) * STRIDE;
        let mut packets = Vec::new();
        // Half of a datagram is of another stream. So its memory is twice that of a piece.
        for pair in streams.chunks(2) {
            let both = |offset, data: &[u8]| {
                let frame = |&stream| Frame::stream(stream, offset, data);
                pair.iter().map(frame).collect::<Vec<_>>()
            };
            packets.push(both(FAR + 200 * round, &[b'x'; 150]));
            packets.extend((0..FRAMES).map(|frame| both(hole(frame) + 3, &[b'x'; BYTES])));
        }
        for &stream in &streams {
            // Each counts for the memory of its datagram, and so pieces are merged.
            let crumbs = (0..CRUMBS).map(|frame| Frame::stream(stream, hole(frame) + 1, b"x"));
            let beside = Frame::stream(filler, filled, &FILLER);
            filled += FILLER.len() as u64;
            packets.push(crumbs.chain([beside]).collect());
            let rest = (CRUMBS..FRAMES).rev();
            let rest = rest.map(|frame| Frame::stream(stream, hole(frame), b"xxx"));
            packets.push(rest.collect());
            let around = (0..CRUMBS).rev().flat_map(|frame| {
                [2, 0].map(|byte| Frame::stream(stream, hole(frame) + byte, b"x"))
            });
            packets.push(around.collect());
        }
        scene.flood(packets.into_iter());
        accepted.extend(scene.accept_all());
        for &stream in &accepted {
            while let Some(read) = scene.victim.read(stream, &mut buf).now_or_never() {
                assert!(read.unwrap() > 0);
            }
        }
    }
    assert_eq!(accepted.len(), 2 * PAIRS + 1);
    scene.assert_open();
    let counted = held(&scene.victim);
    // A connection takes as much whatever it holds.
    assert_memory(scene, 0..counted + 500_000);
}
