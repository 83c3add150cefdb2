//! Received data of more streams than connections usually have: memory and work are in proportion
//! to them.

use std::{rc::Rc, time::Duration};

use futures::FutureExt;
use quinn_proto::TransportErrorCode;

use super::{
    link::Impairments,
    network::Network,
    node::Setup,
    received::{
        CONNECTION_WINDOW, DATAGRAM, OVERHEAD, PILE, assert_memory, every_other, held, most_held,
        moved_pieces, too_fragmented,
    },
    scene::{Hostile, SIDES, Scene, VICTIM},
    transfer::payload,
};
use crate::{
    config::{ConfigBuilder, Preset},
    proto::connection::MOST_BLOCKED,
    simulation::frame::{Frame, Number},
};

const MANY: usize = 4096;

/// Streams that may have a pile each in quinn-proto.
const PILES: usize = 256;

/// What each stream beyond [`PILES`] may take.
const EACH: u64 = 8 * 1024;

fn many_streams(side: Hostile) -> Scene {
    scene(side, |builder| builder.preset(Preset::ManyStreams))
}

fn scene(side: Hostile, configure: fn(ConfigBuilder) -> ConfigBuilder) -> Scene {
    let victim = Setup {
        configure,
        ..Setup::default()
    };
    let mut scene = Scene::with(side, victim);
    scene.open_the_congestion_window();
    scene
}

/// Makes quinn-proto allocate for as many pieces as a pile and a datagram may have: gaps, and a
/// frame that closes them.
fn cut_up(scene: &mut Scene, stream: u64) {
    let gaps = [(2, 130), (262, 130)].map(|(from, count)| every_other(stream, from, count));
    scene.flood(gaps.into_iter());
    scene.flood([vec![Frame::stream(stream, 1, &[b'x'; 521])]].into_iter());
}

/// quinn-proto keeps places for all pieces of all streams while the connection lives.
#[test]
fn cutting_up_one_stream_after_the_other_closes() {
    for side in SIDES {
        let mut scene = many_streams(side);
        let streams = scene.begin(390);
        let survived = (streams.into_iter()).take_while(|&stream| {
            cut_up(&mut scene, stream);
            scene.is_open()
        });
        let survived = survived.count();
        assert!((PILES..PILES + 30).contains(&survived), "{survived}");
        assert_eq!(too_fragmented(&scene), 1);
        scene.assert_ended(TransportErrorCode::INTERNAL_ERROR);
    }
}

/// Opens streams one after the other with what `packets` says, until the victim objects. Returns
/// how many survived.
fn survivors(scene: &mut Scene, count: usize, packets: fn(u64) -> Vec<Vec<Frame>>) -> usize {
    let mut survived = 0;
    while survived < count {
        for stream in scene.open(50) {
            scene.flood(packets(stream).into_iter());
            if !scene.is_open() {
                return survived;
            }
            survived += 1;
        }
    }
    survived
}

/// Nothing is left of them when we see the reset.
#[test]
fn pieces_before_a_reset_in_the_same_datagram_count() {
    let mut scene = many_streams(Hostile::Dials);
    scene.begin(200);
    let survived = survivors(&mut scene, 400, |stream| {
        // Eight pieces at a time, and then one frame that fills all gaps.
        let gaps = (0..70).map(|packet| every_other(stream, 1 + 16 * packet, 8));
        let filled = Frame::stream(stream, 0, &[b'x'; 1120]);
        let reset = Frame::ResetStream {
            stream: stream.into(),
            code: Number(0),
            final_size: Number(1120),
        };
        gaps.chain([vec![filled, reset]]).collect()
    });
    assert!((8..30).contains(&survived), "{survived}");
    assert_eq!(too_fragmented(&scene), 1);
    scene.assert_ended(TransportErrorCode::INTERNAL_ERROR);
}

/// quinn-proto lists the streams that wait for the connection's credit, also those that are over.
#[test]
fn credit_for_streams_without_end_and_none_for_the_connection_closes() {
    let mut scene = Scene::new(Hostile::Dials);
    scene.open_the_congestion_window();
    let stream = scene.begin(1)[0];
    let accepted = scene.accept_all()[0];
    let write = |scene: &mut Scene| {
        let written = scene.victim.write_now(accepted, &[0; 1000]);
        scene.network.run_for(Duration::from_millis(45));
        written
    };
    let say = |scene: &mut Scene, packets: u64| {
        let credit = |number| Frame::MaxStreamData {
            stream: stream.into(),
            limit: Number(number),
        };
        scene.flood((0..packets).map(|packet| {
            (0..100)
                .map(|number| credit(100 * packet + number))
                .collect()
        }));
    };
    let most = MOST_BLOCKED / 100;
    for _ in 0..2 {
        // It gives credit, which is used.
        assert_eq!(write(&mut scene), 1000);
        say(&mut scene, most);
        scene.assert_open();
    }
    say(&mut scene, 1);
    assert_eq!(scene.network.nodes[VICTIM].stats().1.too_many_blocked, 1);
    scene.assert_ended(TransportErrorCode::INTERNAL_ERROR);
}

/// The most memory that a test makes a connection hold: as many streams as permitted, each with as
/// many pieces as permitted, and what [`received`](super::received) does with fewer streams.
#[test]
fn memory_is_bounded_with_as_many_streams_as_the_preset_permits() {
    let mut scene = many_streams(Hostile::Dials);
    let streams = scene.begin(MANY - 1);
    let (piles, few) = streams.split_at(PILES + 20);
    for &stream in piles {
        cut_up(&mut scene, stream);
    }
    // Of each of these, at most two pieces are found for each of its few frames.
    let packets = few.iter().flat_map(|&stream| {
        let around = vec![Frame::stream(stream, 1, &[b'x'; 31])];
        [
            every_other(stream, 2, 8),
            every_other(stream, 18, 7),
            around,
        ]
    });
    scene.flood(packets.collect::<Vec<_>>().into_iter());
    assert_eq!(scene.victim.loss(), None);
    // Two pages of each stream.
    for offset in [2047, 2048] {
        let frame = |&stream| Frame::stream(stream, offset, b"x");
        let packets = (few.chunks(100)).map(|some| some.iter().map(frame).collect());
        scene.flood(packets.collect::<Vec<_>>().into_iter());
    }
    // One byte of each page, up to the end of the window.
    let mut left = CONNECTION_WINDOW - 2049 * MANY as u64 - 400_000;
    for &stream in piles {
        let span = left.min(900_000);
        left -= span;
        let offsets: Vec<_> = (1..span / 2048).map(|page| 600 + 2048 * page).collect();
        let packets = (offsets.chunks(100)).map(|offsets| {
            let frame = |&offset| Frame::stream(stream, offset, b"x");
            offsets.iter().map(frame).collect()
        });
        scene.flood(packets.collect::<Vec<_>>().into_iter());
    }
    // One byte of each datagram.
    for round in 0..4 {
        let packets = (few.iter()).map(|&stream| vec![Frame::stream(stream, 32 + round, b"x")]);
        scene.flood(packets.collect::<Vec<_>>().into_iter());
    }
    scene.assert_open();
    let counted = held(&scene.victim);
    println!("{counted} bytes are counted");
    assert!(counted > 2 * CONNECTION_WINDOW, "{counted}");
    let most = CONNECTION_WINDOW + OVERHEAD + 1024 * 1024 + EACH * (MANY - PILES) as u64;
    assert_memory(scene, CONNECTION_WINDOW..most);
}

/// What is to be taken out is looked for once for many datagrams, and not for each stream.
#[test]
fn looking_for_what_takes_memory_is_no_more_work_with_many_streams() {
    const STREAMS: usize = 2000;
    const ROUNDS: u64 = 4;
    let mut scene = scene(Hostile::Dials, |builder| {
        builder
            .max_peer_streams(STREAMS as u32 + 1)
            .and_then(|builder| builder.stream_receive_window_bytes(64 * 1024))
            .and_then(|builder| builder.connection_receive_window_bytes(128 * 1024))
            .unwrap()
    });
    let streams = scene.begin(STREAMS);
    // A datagram takes less than the page that it would become.
    let most = most_held(&mut scene, &streams, ROUNDS);
    scene.assert_open();
    let datagrams = STREAMS * ROUNDS as usize;
    let limit = 128 * 1024 + 512 * 1024 + 4096 * STREAMS as u64;
    assert!(datagrams as u64 * DATAGRAM > limit);
    // The gap of each stream counts besides.
    let gaps = 90 * STREAMS as u64;
    assert!(
        (limit / 2..limit + DATAGRAM + gaps).contains(&most),
        "{most}"
    );
    let looked_at = scene.victim.with(|connection| connection.looked_at());
    assert!((1..20 * datagrams).contains(&looked_at), "{looked_at}");
}

/// It is memory that others cannot have.
#[test]
fn places_for_pieces_count_in_the_budget() {
    let mut scene = scene(Hostile::Dials, |builder| builder);
    for stream in scene.begin(200) {
        cut_up(&mut scene, stream);
    }
    scene.assert_open();
    let used = scene.network.nodes[VICTIM].budget.used();
    let data = held(&scene.victim);
    assert!(used > data + 200 * 2 * PILE * 56, "{used} {data}");
}

/// Each has a place in the table of up to where streams have data, until the peer ends it.
#[test]
fn places_for_the_sizes_of_streams_count_as_kept() {
    let kept = |scene: &Scene| scene.victim.with(|connection| connection.kept_bytes());
    let mut scene = many_streams(Hostile::Dials);
    let streams = scene.begin(3000);
    let open = kept(&scene);
    assert!((3000 * 17..3000 * 40).contains(&open), "{open}");
    let ended = (streams.chunks(50)).map(|some| {
        let last = |&stream: &u64| Frame::Stream {
            stream: stream.into(),
            offset: Number(1),
            data: Vec::new(),
            fin: true,
        };
        some.iter().map(last).collect()
    });
    scene.flood(ended.collect::<Vec<_>>().into_iter());
    assert_eq!(kept(&scene), 0);
}

#[test]
fn places_for_pieces_take_no_more_than_half_of_the_budget() {
    const BUDGET: u64 = 8 * 1024 * 1024;
    let mut scene = scene(Hostile::Dials, |builder| {
        builder.max_buffered_bytes(Some(BUDGET)).unwrap()
    });
    let streams = scene.begin(200);
    let used = |scene: &Scene| scene.network.nodes[VICTIM].budget.used();
    let mut most = 0;
    for stream in streams {
        cut_up(&mut scene, stream);
        most = most.max(used(&scene));
    }
    assert!((BUDGET / 2..BUDGET * 3 / 4).contains(&most), "{most}");
    assert_eq!(too_fragmented(&scene), 1);
    scene.assert_ended(TransportErrorCode::INTERNAL_ERROR);
}

/// More of them than may have a pile, over a bad link and to a slow reader.
#[test]
fn streams_of_an_honest_peer_arrive_whole() {
    const STREAMS: usize = 400;
    let setup = || Setup {
        configure: |builder| builder.preset(Preset::ManyStreams),
        ..Setup::default()
    };
    let mut network = Network::pair(1, setup(), setup());
    let (dialer, listener) = network.connect(0, 1);
    network.impair(Impairments {
        delay: Duration::from_millis(20),
        jitter: Duration::from_millis(20),
        loss: 0.05,
        ..Impairments::NONE
    });
    let contents: Rc<[u8]> = payload(1, 20_000).into();
    let mut opened = 0;
    while opened < STREAMS {
        while opened < STREAMS
            && let Some(stream) = dialer.open().now_or_never()
        {
            let (dialer, contents) = (dialer.clone(), Rc::clone(&contents));
            network.spawn(async move {
                let stream = stream.unwrap();
                dialer.write_all(stream, &contents).await.unwrap();
                dialer.finish(stream).unwrap();
            });
            opened += 1;
        }
        network.run_for(Duration::from_millis(50));
    }
    // Nobody reads before all of it has come.
    network.run_for(Duration::from_secs(200));
    let moved = moved_pieces(&listener);
    let reader = listener.clone();
    network.block_on(async move {
        for _ in 0..STREAMS {
            let stream = reader.accept().await.unwrap();
            let received = reader.read_to_end(stream).await.unwrap();
            assert!(received[..] == contents[..]);
        }
    });
    assert!(moved > 1000, "{moved}");
    assert_eq!(network.nodes[1].stats().1.too_fragmented, 0);
}
