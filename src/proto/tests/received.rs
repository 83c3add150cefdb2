//! Received data that nobody has read, or that has gaps: complete in the end, and bounded in memory
//! and work until then.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::{Future, poll_fn},
    ops::Range,
    pin::pin,
    rc::Rc,
    time::Duration,
};

use allocation_counter::measure;
use futures::{FutureExt, future::join};
use quinn_proto::TransportErrorCode;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    link::Impairments,
    mangle::mangling,
    network::Network,
    node::Setup,
    peer::Peer,
    scene::{Hostile, SIDES, Scene, VICTIM},
    seed_range, set_windows,
    transfer::payload,
};
use crate::{
    config::ConfigBuilder,
    proto::{StreamId, connection::Holding},
    simulation::frame::Frame,
};

/// The default.
pub(super) const CONNECTION_WINDOW: u64 = 15_000_000;

/// What one connection may take beyond that, regardless of what its peer sends.
pub(super) const OVERHEAD: u64 = 16 * 1024 * 1024;

/// The unit in which our memory holds stream data.
const PAGE: u64 = 2048;

/// The number of pieces that quinn-proto accumulates.
pub(super) const PILE: u64 = 128;

#[test]
fn streams_cut_up_and_repeated_arrive_whole_over_bad_links() {
    let moved: u64 = seed_range(20).map(mangled_exchange).sum();
    assert!(moved > 1000, "{moved}");
}

#[test]
fn transfer_lives_that_has_lost_every_other_packet_of_a_large_window() {
    let mut network = Network::pair(1, wide(), wide());
    let (dialer, listener) = network.connect(0, 1);
    let far = Impairments {
        delay: Duration::from_millis(100),
        ..Impairments::NONE
    };
    network.impair(far);
    // Until the congestion window is as large as the other windows.
    network.block_on(send(dialer.clone(), listener.clone(), vec![0; 30_000_000]));

    let contents = payload(1, 20_000_000);
    let expected = contents.clone();
    let receiver = listener.clone();
    let stream = network.block_on({
        let dialer = dialer.clone();
        async move { dialer.open().await.unwrap() }
    });
    network.impair(Impairments {
        lose_every: Some(2),
        ..far
    });
    let mut sent = 0;
    while sent < contents.len() {
        let taken = dialer.write_now(stream, &contents[sent..]);
        if taken == 0 {
            break;
        }
        sent += taken;
        network.settle();
    }
    // Everything that the windows permit is in flight, and half of it is lost.
    network.run_for(Duration::from_millis(150));
    network.impair(far);
    let gaps = holding(&receiver).gaps;
    assert!(gaps > 1024, "{gaps}");
    let received = network.block_on(async move {
        let send = async {
            dialer.write_all(stream, &contents[sent..]).await.unwrap();
            dialer.finish(stream).unwrap();
        };
        let receive = async {
            let stream = receiver.accept().await.unwrap();
            receiver.read_to_end(stream).await.unwrap()
        };
        join(send, receive).await.1
    });
    assert!(received == expected);
    assert_eq!((listener.loss(), holding(&listener).gaps), (None, 0));
}

#[test]
fn one_stalled_stream_does_not_stall_others_however_far_behind_it_is() {
    let setup = Setup {
        configure: set_windows::<2_000_000, 3_000_000>,
        ..Setup::default()
    };
    let mut network = Network::pair(1, setup.clone(), setup);
    let (dialer, listener) = network.connect(0, 1);
    let stalled = dialer.open().now_or_never().unwrap().unwrap();
    for _ in 0..100 {
        dialer.write_now(stalled, &[0; 60_000]);
        network.run_for(Duration::from_millis(50));
    }
    // Some of it was moved to our memory, but most was not.
    let moved = moved_pieces(&listener);
    assert!((100..600).contains(&moved), "{moved}");
    let accepted = listener.accept().now_or_never().unwrap().unwrap();
    for round in 0..5 {
        let contents = payload(round, 500_000);
        let expected = contents.clone();
        let received = network.block_on(send(dialer.clone(), listener.clone(), contents));
        assert!(received == expected);
    }
    // It continues when the application reads it.
    dialer.drop_stream(stalled);
    let received = network.block_on(async move { listener.read_to_end(accepted).await });
    assert!(received.unwrap().len() > 2_000_000);
}

#[test]
fn gaps_close_only_beyond_any_reason() {
    for side in SIDES {
        let mut scene = Scene::new(side);
        scene.open_the_congestion_window();
        let streams = scene.open(4);
        let mut gaps = 0;
        while scene.is_open() {
            // Every second byte, endlessly.
            let packets = (0..16).map(|packet| {
                gaps += GAPS_IN_A_PACKET;
                every_other(streams[packet % streams.len()], 2 * gaps, GAPS_IN_A_PACKET)
            });
            scene.flood(packets.collect::<Vec<_>>().into_iter());
            assert!(gaps < 20_000, "nobody objects to {gaps} gaps");
        }
        // More than an honest peer may need.
        assert!(gaps > CONNECTION_WINDOW / 2400, "{gaps}");
        assert_eq!(too_fragmented(&scene), 1);
        scene.assert_ended(TransportErrorCode::INTERNAL_ERROR);
    }
}

#[test]
fn data_cut_into_more_pieces_than_a_datagram_has_room_for_closes() {
    let mut scene = Scene::new(Hostile::Dials);
    scene.open_the_congestion_window();
    let streams = scene.open(40);
    let mut closed_after = None;
    for (number, stream) in streams.into_iter().enumerate() {
        // Every second byte, and then all of them in one frame.
        scene.flood((0..4).map(|packet| every_other(stream, 1 + 200 * packet, 100)));
        scene.flood([vec![Frame::stream(stream, 0, &[b'x'; 900])]].into_iter());
        if !scene.is_open() {
            closed_after = Some(number);
            break;
        }
    }
    // A few may be due to a bad network.
    assert_eq!(closed_after, Some(8));
    assert_eq!(too_fragmented(&scene), 1);
    scene.assert_ended(TransportErrorCode::INTERNAL_ERROR);
}

#[test]
fn duplicates_for_ever_cost_no_memory_and_no_work() {
    for side in SIDES {
        let mut scene = Scene::new(side);
        scene.open_the_congestion_window();
        let streams = scene.open(10);
        let pieces = |packet: u64| {
            let stream = streams[packet as usize % streams.len()];
            every_other(stream, 1 + 200 * (packet / 10), GAPS_IN_A_PACKET)
        };
        scene.flood((0..50).map(pieces));
        let (held_before, moved_before) = (held(&scene.victim), moved_pieces(&scene.victim));
        assert!(
            moved_before >= 50 * GAPS_IN_A_PACKET - 10 * PILE,
            "{moved_before}"
        );
        scene.flood((0..500).map(|packet| pieces(packet % 50)));
        scene.assert_open();
        let moved = moved_pieces(&scene.victim);
        assert!(moved <= 50 * GAPS_IN_A_PACKET, "{moved}");
        let held = held(&scene.victim);
        assert!(
            held <= held_before + 10 * PILE * DATAGRAM,
            "{held_before}, {held}"
        );
    }
}

/// A reader that waits for missing data is not woken for data behind it.
#[test]
fn what_comes_behind_a_gap_is_moved_at_once() {
    let mut scene = Scene::new(Hostile::Dials);
    let stream = scene.open(1)[0];
    scene.say(&crumbs(stream, 1..151));
    let accepted = scene.accept_all()[0];
    let polls = Rc::new(Cell::new(0));
    scene.network.spawn({
        let (victim, polls) = (scene.victim.clone(), Rc::clone(&polls));
        async move {
            let mut buf = [0; 1000];
            let mut read = pin!(victim.read(accepted, &mut buf));
            let read = poll_fn(|cx| {
                polls.set(polls.get() + 1);
                read.as_mut().poll(cx)
            });
            assert_eq!(read.await, Ok(161));
        }
    });
    scene.network.run_for(Duration::from_secs(1));
    let moved = moved_pieces(&scene.victim);
    for offset in 151..161 {
        scene.say(&crumbs(stream, offset..offset + 1));
    }
    assert_eq!(moved_pieces(&scene.victim), moved + 10);
    assert_eq!(polls.get(), 1);
    scene.say(&crumbs(stream, 0..1));
    assert_eq!(polls.get(), 2);
    assert_eq!(scene.network.waiting_tasks(), 0);
}

/// If the stream is read in any order, because a pile was behind a gap before.
#[test]
fn read_that_meets_a_gap_moves_all_that_is_behind_it() {
    let mut scene = Scene::new(Hostile::Dials);
    let stream = scene.open(1)[0];
    scene.say(&crumbs(stream, 1..151));
    scene.say(&crumbs(stream, 0..1));
    let accepted = scene.accept_all()[0];
    let mut buf = [0; 1000];
    let read = scene.victim.read(accepted, &mut buf).now_or_never();
    assert_eq!(read, Some(Ok(151)));
    scene.say(&[
        Frame::stream(stream, 152, b"x"),
        Frame::stream(stream, 154, b"x"),
    ]);
    assert_eq!(holding(&scene.victim).bytes, 0);
    let read = scene.victim.read(accepted, &mut buf).now_or_never();
    assert_eq!(read, None);
    let Holding { bytes, gaps, .. } = holding(&scene.victim);
    assert_eq!((bytes, gaps), (2, 2));
    scene.say(&[Frame::stream(stream, 151, &[b'x'; 5])]);
    let read = scene.victim.read(accepted, &mut buf).now_or_never();
    assert_eq!(read, Some(Ok(5)));
}

#[test]
fn crumbs_are_not_left_to_a_reader_that_is_far_behind() {
    let mut scene = Scene::new(Hostile::Dials);
    scene.open_the_congestion_window();
    let stream = scene.open(1)[0];
    let len = 1100;
    let packets = 3_000_000 / len;
    scene.flood((0..packets).map(|packet| {
        let data = vec![b'x'; len as usize];
        vec![Frame::stream(stream, packet * len, &data)]
    }));
    // Data beyond 2.5 MB, less a pile, is left in quinn-proto.
    let left = holding(&scene.victim);
    assert!((2_300_000..2_500_000).contains(&left.bytes), "{left:?}");
    assert!(left.backlog > 200_000, "{left:?}");
    let moved = moved_pieces(&scene.victim);
    let crumbs = 40 * GAPS_IN_A_PACKET;
    scene.flood((0..40).map(|packet| every_other(stream, 3_100_000 + 200 * packet, 100)));
    scene.assert_open();
    assert!(moved_pieces(&scene.victim) > moved + crumbs - 2 * GAPS_IN_A_PACKET);
}

/// quinn-proto does not copy large pieces, and keeps the small ones between them apart.
#[test]
fn uneven_pieces_are_not_left_to_a_reader_that_is_far_behind() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let (dialer, listener) = network.connect(0, 1);
    network.run_for(Duration::from_secs(1));
    let mut sent = 0;
    let stream = dialer.open().now_or_never().unwrap().unwrap();
    while sent < 3_000_000 {
        sent += dialer.write_now(stream, &[0; 60_000]);
        network.run_for(Duration::from_millis(5));
    }
    let moved = moved_pieces(&listener);
    for len in [1200, 100, 100].into_iter().cycle().take(4500) {
        assert_eq!(dialer.write_now(stream, &vec![0; len]), len);
        sent += len;
        network.run_for(EACH_IN_A_PACKET);
    }
    assert_eq!((listener.loss(), dialer.loss()), (None, None));
    assert!(moved_pieces(&listener) > moved + 3000);
    let received = network.block_on(async move {
        dialer.finish(stream).unwrap();
        let stream = listener.accept().await.unwrap();
        listener.read_to_end(stream).await
    });
    assert_eq!(received.map(|received| received.len()), Ok(sent));
}

/// The same behind much that came in full packets and was read. The reader is never so close that
/// nothing is left in quinn-proto.
#[test]
fn uneven_pieces_are_not_left_behind_a_long_transfer() {
    const PACKET: usize = 1200;
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let (dialer, listener) = network.connect(0, 1);
    network.run_for(Duration::from_secs(1));
    let stream = dialer.open().now_or_never().unwrap().unwrap();
    let mut sent = 0;
    let send_on = |network: &mut Network, sent: &mut usize| {
        *sent += dialer.write_now(stream, &[0; 60_000]);
        network.run_for(Duration::from_millis(5));
    };
    while sent < 3_500_000 {
        send_on(&mut network, &mut sent);
    }
    let accepted = listener.accept().now_or_never().unwrap().unwrap();
    let mut read = 0;
    let mut read_until = |until: usize| {
        let mut buf = vec![0; until.saturating_sub(read)];
        let count = listener.read(accepted, &mut buf).now_or_never().unwrap();
        read += count.unwrap();
        read
    };
    while sent < 8_500_000 {
        send_on(&mut network, &mut sent);
        read_until(sent - 500 * PACKET);
    }
    network.run_for(Duration::from_secs(1));
    let read = read_until(sent - 180 * PACKET);
    assert_eq!(sent - read, 180 * PACKET);
    assert_eq!(holding(&listener).bytes, 0);
    for len in [PACKET, 100, 100].into_iter().cycle().take(2100) {
        assert_eq!(dialer.write_now(stream, &vec![0; len]), len);
        sent += len;
        network.run_for(EACH_IN_A_PACKET);
    }
    assert_eq!((listener.loss(), dialer.loss()), (None, None));
    let received = network.block_on(async move {
        dialer.finish(stream).unwrap();
        listener.read_to_end(accepted).await
    });
    assert_eq!(received.map(|received| received.len()), Ok(sent - read));
}

/// It would copy what is left of them, and not into one piece.
#[test]
fn reader_that_catches_up_takes_out_the_rest_of_merged_pieces() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let (dialer, listener) = network.connect(0, 1);
    let stream = dialer.open().now_or_never().unwrap().unwrap();
    let mut sent = 0;
    while sent < 6_500_000 {
        sent += dialer.write_now(stream, &[0; 60_000]);
        network.run_for(Duration::from_millis(5));
    }
    network.run_for(Duration::from_secs(1));
    let left = holding(&listener).backlog;
    assert!(left > 3_500_000, "{left}");
    let accepted = listener.accept().now_or_never().unwrap().unwrap();
    let mut buf = vec![0; 5_200_000];
    let read = listener.read(accepted, &mut buf).now_or_never();
    assert_eq!(read, Some(Ok(buf.len())));
    let left = holding(&listener).backlog;
    assert!(left < 10_000, "{left}");
}

/// The reader is one piece behind. A message of 40 bytes does not fill its packet if an
/// acknowledgement is beside it.
#[test]
fn reads_that_end_where_pieces_end_leave_nothing_counted() {
    for ([header, body], datagrams) in [([300, 700], 2), ([4, 36], 8)] {
        let mut network = Network::pair(1, Setup::default(), Setup::default());
        let (dialer, listener) = network.connect(0, 1);
        let stream = dialer.open().now_or_never().unwrap().unwrap();
        let message = vec![0; header + body];
        let write = |network: &mut Network| {
            assert_eq!(dialer.write_now(stream, &message), message.len());
            network.run_for(EACH_IN_A_PACKET);
        };
        write(&mut network);
        let accepted = listener.accept().now_or_never().unwrap().unwrap();
        let mut most = 0;
        for _ in 0..4 * PILE {
            write(&mut network);
            for len in [header, body] {
                let read = listener.read(accepted, &mut vec![0; len]).now_or_never();
                assert_eq!(read, Some(Ok(len)));
            }
            most = most.max(held(&listener));
        }
        let moved = moved_pieces(&listener);
        assert!(moved <= 10, "{moved}");
        assert!(most <= datagrams * DATAGRAM, "{most}");
    }
}

/// quinn-proto keeps both, and hands out now one and now the other.
#[test]
fn reading_pieces_that_overlap_makes_no_other_piece_uncounted() {
    const BEHIND: u64 = PILE - 8;
    let mut scene = Scene::new(Hostile::Dials);
    scene.open_the_congestion_window();
    let stream = scene.begin(1)[0];
    let accepted = scene.accept_all()[0];
    scene.flood((0..BEHIND).map(|piece| vec![Frame::stream(stream, 2000 + 2 * piece, b"x")]));
    scene.flood((0..2).map(|_| vec![Frame::stream(stream, 1, &[b'x'; 400])]));
    for _ in 0..300 {
        let read = scene.victim.read(accepted, &mut [0]).now_or_never();
        assert_eq!(read, Some(Ok(1)));
    }
    let held = held(&scene.victim);
    assert!(held >= BEHIND * DATAGRAM * 9 / 10, "{held}");
}

/// The same if no data is missing, and the application does not read.
#[test]
fn duplicates_of_what_nobody_reads_cost_no_memory_and_no_work() {
    let mut scene = Scene::new(Hostile::Dials);
    scene.open_the_congestion_window();
    let stream = scene.open(1)[0];
    let held_before = held(&scene.victim);
    scene.flood((0..500).map(|_| crumbs(stream, 0..GAPS_IN_A_PACKET)));
    scene.assert_open();
    let moved = moved_pieces(&scene.victim);
    assert!(moved <= 2 * GAPS_IN_A_PACKET, "{moved}");
    let held = held(&scene.victim);
    assert!(
        held <= held_before + 2 * PILE * DATAGRAM,
        "{held_before}, {held}"
    );
}

#[test]
fn memory_is_that_of_the_data_and_not_of_its_datagrams() {
    let mut scene = Scene::new(Hostile::Dials);
    scene.open_the_congestion_window();
    let streams = scene.open(10);
    // The first byte never arrives.
    let packets = (0..6000).map(|packet: u64| {
        let stream = streams[packet as usize % streams.len()];
        vec![Frame::stream(stream, 1 + packet / 10, b"x")]
    });
    let held_before = held(&scene.victim);
    let mut most = 0;
    let packets: Vec<_> = packets.collect();
    for some in packets.chunks(500) {
        scene.flood(some.iter().cloned());
        most = most.max(held(&scene.victim));
    }
    scene.assert_open();
    // Of the 8.8 MB of datagrams, only the accumulated pieces of each stream are kept.
    let piles = 10 * PILE * DATAGRAM;
    let expected = held_before + piles / 2..=held_before + piles;
    assert!(expected.contains(&most), "{most}, {expected:?}");
}

/// Sends a byte behind a gap on each of the streams, each in a datagram of its own, `rounds` times.
/// Returns the most that the victim held.
pub(super) fn most_held(scene: &mut Scene, streams: &[u64], rounds: u64) -> u64 {
    let mut most = 0;
    for round in 0..rounds {
        let packets = (streams.iter()).map(|&stream| vec![Frame::stream(stream, 2 + round, b"x")]);
        scene.flood(packets.collect::<Vec<_>>().into_iter());
        most = most.max(held(&scene.victim));
    }
    most
}

#[test]
fn datagrams_of_all_streams_together_are_not_kept_beyond_the_window() {
    let mut scene = Scene::new(Hostile::Dials);
    scene.open_the_congestion_window();
    let streams = all_streams(&mut scene);
    // Not many pieces of any stream.
    let rounds = PILE - 20;
    let most = most_held(&mut scene, &streams, rounds);
    scene.assert_open();
    // Of 40 MB in total.
    assert!(rounds * streams.len() as u64 * DATAGRAM > 2 * CONNECTION_WINDOW);
    let limit = CONNECTION_WINDOW + 3 * 1024 * 1024;
    assert!((CONNECTION_WINDOW..limit).contains(&most), "{most}");
    assert_memory(scene, 0..CONNECTION_WINDOW + OVERHEAD);
}

/// The most memory that a peer can take by the ways tested in this file: streams cut into as many
/// pieces as permitted, gaps, a window full of bytes that lie far apart, and datagrams of which one
/// byte is needed.
#[test]
fn memory_is_bounded_whatever_the_peer_sends() {
    let mut scene = Scene::new(Hostile::Dials);
    scene.open_the_congestion_window();
    let streams = all_streams(&mut scene);
    // Makes quinn-proto allocate for as many pieces as permitted.
    for &stream in &streams {
        let ranges = [(2, 130), (262, 130)];
        scene.flood(
            ranges
                .map(|(from, count)| every_other(stream, from, count))
                .into_iter(),
        );
        scene.flood([vec![Frame::stream(stream, 1, &[b'x'; 521])]].into_iter());
    }
    assert_eq!(scene.victim.loss(), None);
    // One byte of each page, up to the end of the window.
    let mut left = CONNECTION_WINDOW - 300_000;
    for &stream in &streams[1..] {
        let span = left.min(9_900_000);
        left -= span;
        let offsets: Vec<_> = (1..span / PAGE).map(|page| 600 + PAGE * page).collect();
        let packets = offsets.chunks(100).map(|offsets| {
            (offsets.iter())
                .map(|&offset| Frame::stream(stream, offset, b"x"))
                .collect::<Vec<_>>()
        });
        scene.flood(packets.collect::<Vec<_>>().into_iter());
    }
    // As many gaps as permitted in addition.
    scene.flood((0..26).map(|packet| every_other(streams[0], 1000 + 200 * packet, 100)));
    assert_eq!(scene.victim.loss(), None);
    let gaps = holding(&scene.victim).gaps;
    assert!(gaps > 9_500, "{gaps}");
    // One byte of each datagram, in streams that may still accumulate pieces.
    let packets = (0..6000).map(|packet: u64| {
        let stream = streams[10 + packet as usize % 240];
        vec![Frame::stream(stream, 600 + packet / 240, b"x")]
    });
    scene.flood(packets.collect::<Vec<_>>().into_iter());
    scene.assert_open();
    assert!(held(&scene.victim) > CONNECTION_WINDOW);
    assert_memory(scene, CONNECTION_WINDOW..CONNECTION_WINDOW + OVERHEAD);
}

#[test]
fn limit_on_memory_holds_a_sender_back_and_lets_it_go() {
    let mut network = Network::pair(1, Setup::default(), Setup::default());
    let (dialer, listener) = network.connect(0, 1);
    let limit = 200_000;
    listener.with(|connection| connection.set_receive_limit(limit));
    // Credit that the peer was given before stays valid, and is used up by this.
    network.block_on(send(dialer.clone(), listener.clone(), vec![0; 16_000_000]));
    let stream = dialer.open().now_or_never().unwrap().unwrap();
    for _ in 0..100 {
        dialer.write_now(stream, &[0; 60_000]);
        network.run_for(Duration::from_millis(50));
    }
    let taken = held(&listener);
    assert!((limit / 2..2 * limit).contains(&taken), "{taken}");
    listener.with(|connection| connection.set_receive_limit(u64::MAX));
    for _ in 0..100 {
        dialer.write_now(stream, &[0; 60_000]);
        network.run_for(Duration::from_millis(50));
    }
    assert!(held(&listener) > 5_000_000);
}

/// Sends on a few streams, in pieces and at times chosen by the seed, over a network that the seed
/// impairs; the receiver accepts and reads them in the same way. Returns how many pieces were moved
/// to our memory.
fn mangled_exchange(seed: u64) -> u64 {
    let mut random = StdRng::seed_from_u64(seed);
    let configure = [narrow, medium, patient][random.random_range(0..3)];
    let [dialing, listening] = [1, 2].map(|salt| Setup {
        changes: mangling(seed << 2 | salt),
        configure,
        ..Setup::default()
    });
    let mut network = Network::pair(seed, dialing, listening);
    let (dialer, listener) = network.connect(0, 1);
    network.impair(Impairments {
        jitter: Duration::from_millis(random.random_range(0..20)),
        loss: random.random_range(0.0..0.2),
        duplication: 0.05,
        ..Impairments::NONE
    });
    let alarms = network.alarms();
    let pause = move |random: &mut StdRng| {
        let millis = if random.random_bool(0.2) {
            random.random_range(0..300)
        } else {
            0
        };
        alarms.after(Duration::from_millis(millis))
    };
    let plan: Vec<_> = (0..random.random_range(1..6))
        .map(|number| payload(seed << 8 | number, random.random_range(0..60_000)))
        .collect();
    let sent: Rc<RefCell<HashMap<StreamId, Vec<u8>>>> = Rc::default();

    for contents in plan.clone() {
        let (peer, pause, sent) = (dialer.clone(), pause.clone(), Rc::clone(&sent));
        let mut random = StdRng::seed_from_u64(random.random());
        network.spawn(async move {
            let stream = peer.open().await.unwrap();
            sent.borrow_mut().insert(stream, contents.clone());
            let mut rest = &contents[..];
            while !rest.is_empty() {
                pause(&mut random).await;
                let most = if random.random_bool(0.5) { 100 } else { 20_000 };
                let (part, after) = rest.split_at(random.random_range(1..=most).min(rest.len()));
                peer.write_all(stream, part).await.unwrap();
                rest = after;
            }
            peer.finish(stream).unwrap();
            assert_eq!(peer.read_to_end(stream).await.unwrap(), [7; 300]);
            peer.drop_stream(stream);
        });
    }
    let accepted: Rc<RefCell<Vec<StreamId>>> = Rc::default();
    network.spawn({
        let (peer, pause, accepted) = (listener.clone(), pause.clone(), Rc::clone(&accepted));
        let mut random = StdRng::seed_from_u64(random.random());
        let count = plan.len();
        async move {
            for _ in 0..count {
                pause(&mut random).await;
                let stream = peer.accept().await.unwrap();
                accepted.borrow_mut().push(stream);
            }
        }
    });
    for _ in &plan {
        let (peer, pause, sent) = (listener.clone(), pause.clone(), Rc::clone(&sent));
        let (accepted, alarms) = (Rc::clone(&accepted), network.alarms());
        let mut random = StdRng::seed_from_u64(random.random());
        network.spawn(async move {
            let stream = loop {
                if let Some(stream) = accepted.borrow_mut().pop() {
                    break stream;
                }
                alarms.after(Duration::from_millis(7)).await;
            };
            let mut received = Vec::new();
            loop {
                pause(&mut random).await;
                let most = if random.random_bool(0.5) { 100 } else { 20_000 };
                let mut buf = vec![0; random.random_range(1..=most)];
                let read = peer.read(stream, &mut buf).await.unwrap();
                if read == 0 {
                    break;
                }
                received.extend_from_slice(&buf[..read]);
            }
            assert!(sent.borrow().get(&stream) == Some(&received), "{stream}");
            peer.write_all(stream, &[7; 300]).await.unwrap();
            peer.drop_stream(stream);
        });
    }
    network.run_until_idle();
    let moved = [&dialer, &listener].map(|peer| {
        assert_eq!(held(peer), 0, "seed {seed}");
        moved_pieces(peer)
    });
    // All credit that was withheld has been given.
    let contents = payload(seed, 100_000);
    let expected = contents.clone();
    network.impair(Impairments::NONE);
    let received = network.block_on(send(dialer, listener, contents));
    assert!(received == expected, "seed {seed}");
    moved.iter().sum()
}

/// Sends this on a new stream; returns what was received.
async fn send(dialer: Peer, listener: Peer, contents: Vec<u8>) -> Vec<u8> {
    let send = async {
        let stream = dialer.open().await.unwrap();
        dialer.write_all(stream, &contents).await.unwrap();
        dialer.drop_stream(stream);
    };
    let receive = async {
        let stream = listener.accept().await.unwrap();
        let mut received = Vec::new();
        let mut buf = vec![0; 64 * 1024];
        loop {
            match listener.read(stream, &mut buf).await.unwrap() {
                0 => break,
                count => received.extend_from_slice(&buf[..count]),
            }
        }
        listener.drop_stream(stream);
        received
    };
    join(send, receive).await.1
}

/// As many streams as the hostile peer may have, besides the carrier.
fn all_streams(scene: &mut Scene) -> Vec<u64> {
    let mut streams = scene.open(99);
    let begun = streams
        .iter()
        .map(|&stream| vec![Frame::stream(stream, 0, b"x")]);
    scene.flood(begun.collect::<Vec<_>>().into_iter());
    streams.extend(scene.open(156));
    streams
}

/// Frames of one byte each, with a gap of one byte before each.
pub(super) fn every_other(stream: u64, from: u64, count: u64) -> Vec<Frame> {
    (0..count)
        .map(|index| Frame::stream(stream, from + 2 * index, b"x"))
        .collect()
}

/// Frames of one byte each.
pub(super) fn crumbs(stream: u64, offsets: Range<u64>) -> Vec<Frame> {
    offsets
        .map(|offset| Frame::stream(stream, offset, b"x"))
        .collect()
}

pub(super) fn held(peer: &Peer) -> u64 {
    peer.stats().held_bytes
}

pub(super) fn moved_pieces(peer: &Peer) -> u64 {
    peer.with(|connection| connection.received().1)
}

/// The data that was received and not read.
pub(super) fn holding(peer: &Peer) -> Holding {
    peer.with(|connection| connection.received().0)
}

pub(super) fn too_fragmented(scene: &Scene) -> u64 {
    scene.network.nodes[VICTIM].stats().1.too_fragmented
}

/// Asserts how much memory the victim's connection to the hostile peer takes, including its part of
/// what the node shares.
pub(super) fn assert_memory(scene: Scene, expected: Range<u64>) {
    let Scene {
        mut network,
        victim,
        ..
    } = scene;
    drop(victim);
    let node = network.nodes.remove(VICTIM);
    let freed = measure(|| drop(node));
    let freed = freed.bytes_current.unsigned_abs();
    assert!(expected.contains(&freed), "{freed}");
}

fn patient(builder: ConfigBuilder) -> ConfigBuilder {
    (super::transfer::patient().configure)(builder)
}

fn narrow(builder: ConfigBuilder) -> ConfigBuilder {
    set_windows::<{ 8 * 1024 }, { 16 * 1024 }>(patient(builder))
}

pub(super) fn medium(builder: ConfigBuilder) -> ConfigBuilder {
    set_windows::<{ 32 * 1024 }, { 48 * 1024 }>(patient(builder))
}

fn wide() -> Setup {
    Setup {
        configure: |builder| {
            builder
                .stream_receive_window_bytes(16_000_000)
                .and_then(|builder| builder.connection_receive_window_bytes(20_000_000))
                .and_then(|builder| builder.send_window_bytes(16_000_000))
                .unwrap()
        },
        ..Setup::default()
    }
}

pub(super) const GAPS_IN_A_PACKET: u64 = 100;

/// This long after a write, it is acknowledged, and the next one is not combined with it.
const EACH_IN_A_PACKET: Duration = Duration::from_millis(60);

/// The most that a datagram counts, on this path.
pub(super) const DATAGRAM: u64 = 1472;
