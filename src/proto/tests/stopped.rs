//! Streams that the application has stopped or dropped: what quinn-proto keeps of them counts until
//! the peer has ended them, and acknowledged our end.

use std::{cell::Cell, rc::Rc, time::Duration};

use futures::FutureExt;
use quinn_proto::TransportErrorCode;

use super::{
    link::Impairments,
    network::Network,
    node::Setup,
    received::{
        CONNECTION_WINDOW, GAPS_IN_A_PACKET, every_other, medium, moved_pieces, too_fragmented,
    },
    scene::{DIALERS_STREAM, HOSTILE, Hostile, SIDES, Scene, VICTIM},
};
use crate::simulation::frame::Frame;

const GAPS_IN_A_STREAM: u64 = 20 * GAPS_IN_A_PACKET;

/// Makes gaps in a new stream of the hostile peer, and returns its ID.
fn make_gaps(scene: &mut Scene) -> u64 {
    let stream = scene.open(1)[0];
    scene.carry_by(stream);
    let gaps = (0..GAPS_IN_A_STREAM / GAPS_IN_A_PACKET)
        .map(|packet| every_other(stream, 1 + 2 * packet * GAPS_IN_A_PACKET, GAPS_IN_A_PACKET));
    scene.flood(gaps);
    stream
}

/// Makes the victim's application take all streams and let this one go.
fn stop(scene: &mut Scene, stream: u64) {
    while let Some(Ok(accepted)) = scene.victim.accept().now_or_never() {
        if u64::from(accepted) == stream {
            scene.victim.drop_stream(accepted);
        }
    }
    scene.network.run_for(Duration::from_millis(45));
}

/// The end of a stream with gaps.
fn end(stream: u64) -> Frame {
    Frame::Stream {
        stream: stream.into(),
        offset: (3 * GAPS_IN_A_STREAM).into(),
        data: vec![7],
        fin: true,
    }
}

/// quinn-proto has them until the peer has ended the stream.
#[test]
fn gaps_of_stopped_streams_close_if_the_peer_never_ends_them() {
    for side in SIDES {
        let mut scene = Scene::new(side);
        scene.open_the_congestion_window();
        let mut gaps = 0;
        while scene.is_open() {
            let stream = make_gaps(&mut scene);
            scene.withhold_next();
            stop(&mut scene, stream);
            gaps += GAPS_IN_A_STREAM;
            assert!(gaps < 20_000, "nobody objects to {gaps} gaps");
        }
        assert!(gaps > CONNECTION_WINDOW / 2400, "{gaps}");
        assert_eq!(too_fragmented(&scene), 1);
        scene.assert_ended(TransportErrorCode::INTERNAL_ERROR);
    }
}

#[test]
fn gaps_of_stopped_streams_are_gone_once_the_peer_has_ended_them() {
    #[derive(Debug)]
    enum Ended {
        Before,
        After,
        ByReset,
    }
    for ended in [Ended::Before, Ended::After, Ended::ByReset] {
        let mut scene = Scene::new(Hostile::Dials);
        scene.open_the_congestion_window();
        for _ in 0..20 {
            let stream = make_gaps(&mut scene);
            assert!(scene.is_open(), "{ended:?}");
            if matches!(ended, Ended::Before) {
                scene.say(&[end(stream)]);
            }
            if !matches!(ended, Ended::ByReset) {
                scene.withhold_next();
            }
            stop(&mut scene, stream);
            if matches!(ended, Ended::After) {
                scene.carry_by(DIALERS_STREAM);
                scene.say(&[end(stream)]);
            }
        }
        scene.assert_open();
    }
}

/// They are not read before, but nothing is missing between them.
#[test]
fn frames_of_stopped_streams_are_no_gaps() {
    const STREAMS: usize = 50;
    const FRAMES: u64 = 100;
    let victim = Setup {
        configure: |builder| {
            medium(builder)
                .connection_receive_window_bytes(64 * 1024)
                .unwrap()
        },
        ..Setup::default()
    };
    let mut scene = Scene::with(Hostile::Dials, victim);
    scene.open_the_congestion_window();
    let streams = scene.open(STREAMS);
    for &stream in &streams {
        // Read in any order from now on.
        scene.flood([every_other(stream, 1, 140)].into_iter());
        scene.say(&[Frame::stream(stream, 0, &[b'x'; 281])]);
        for frame in 0..FRAMES {
            scene.whisper(&Frame::stream(stream, 281 + 3 * frame, b"xxx"));
        }
    }
    let moved = moved_pieces(&scene.victim);
    for _ in 0..2 * STREAMS {
        scene.withhold_next();
    }
    for accepted in scene.accept_all() {
        scene.victim.drop_stream(accepted);
    }
    scene.network.run_for(Duration::from_millis(45));
    assert!(moved_pieces(&scene.victim) > moved);
    assert_eq!(scene.victim.loss(), None);
}

/// quinn-proto takes it for one that may have come before, and drops it.
#[test]
fn end_in_a_packet_that_comes_too_late_ends_nothing() {
    let mut scene = Scene::new(Hostile::Dials);
    scene.open_the_congestion_window();
    let mut gaps = 0;
    while scene.is_open() {
        let stream = scene.open(1)[0];
        let ending = Frame::ResetStream {
            stream: stream.into(),
            code: 0.into(),
            final_size: 1_000_000.into(),
        };
        let late = scene.say_little(&ending);
        let packets = (0..20).map(|packet| every_other(stream, 1 + 200 * packet, 100));
        // And as many more as quinn-proto remembers.
        scene.flood(packets.chain(vec![vec![Frame::Ping]; 130]));
        scene.withhold_next();
        stop(&mut scene, stream);
        let (now, from) = (scene.network.now, scene.network.nodes[HOSTILE].addr());
        for datagram in &late {
            scene.network.nodes[VICTIM].receive(now, from, &datagram.contents);
        }
        scene.network.settle();
        gaps += 2000;
        assert!(gaps < 20_000, "nobody objects to {gaps} gaps");
    }
    assert_eq!(too_fragmented(&scene), 1);
    scene.assert_ended(TransportErrorCode::INTERNAL_ERROR);
}

/// Which half of a stream is over for quinn-proto before the application drops it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Over {
    Sending,
    Receiving,
    Neither,
}

/// An application may have to wait, but loses no connection.
#[test]
fn after_4096_dropped_streams_the_next_waits_until_some_are_over() {
    const DROPPED: usize = 4096;
    for over in [Over::Sending, Over::Receiving, Over::Neither] {
        let listener = Setup {
            configure: |builder| builder.max_peer_streams(65_536).unwrap(),
            ..Setup::default()
        };
        let mut network = Network::pair(1, Setup::default(), listener);
        let (dialer, listener) = network.connect(0, 1);
        let mut streams = Vec::new();
        while streams.len() < DROPPED {
            while streams.len() < DROPPED
                && let Some(stream) = dialer.open().now_or_never()
            {
                let stream = stream.unwrap();
                assert_eq!(dialer.write_now(stream, b"x"), 1);
                streams.push(stream);
            }
            network.run_for(Duration::from_millis(45));
        }
        for &stream in &streams {
            let accepted = listener.accept().now_or_never().unwrap().unwrap();
            match over {
                Over::Sending => dialer.finish(stream).unwrap(),
                Over::Receiving => listener.finish(accepted).unwrap(),
                Over::Neither => {}
            }
        }
        network.run_for(Duration::from_secs(1));
        if over == Over::Receiving {
            for &stream in &streams {
                let read = dialer.read(stream, &mut [0; 1]).now_or_never();
                assert_eq!(read, Some(Ok(0)));
            }
        }
        network.impair(Impairments {
            loss: 1.0,
            ..Impairments::NONE
        });
        let last = streams.pop().unwrap();
        for &stream in &streams {
            dialer.drop_stream(stream);
        }
        assert!(
            matches!(dialer.open().now_or_never(), Some(Ok(_))),
            "{over:?}"
        );
        dialer.drop_stream(last);
        let is_open = Rc::new(Cell::new(false));
        network.spawn({
            let (dialer, is_open) = (dialer.clone(), Rc::clone(&is_open));
            async move { is_open.set(dialer.open().await.is_ok()) }
        });
        network.run_for(Duration::from_secs(1));
        assert!(!is_open.get(), "{over:?}");
        network.impair(Impairments::NONE);
        network.run_for(Duration::from_secs(10));
        assert!(is_open.get(), "{over:?}");
        assert_eq!(dialer.loss(), None);
    }
}
