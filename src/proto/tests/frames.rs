//! Frames that no honest peer sends. Each ends its connection with the right code or does no harm,
//! and another connection of the same node is not affected.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::Range,
    time::Duration,
};

use futures::FutureExt;
use quinn_proto::TransportErrorCode;

use super::{
    node::Setup,
    scene::{DIALERS_STREAM, HOSTILE, Hostile, LISTENERS_STREAM, SIDES, Scene, VICTIM},
};
use crate::{
    config::CongestionControl,
    simulation::frame::{Frame, Number},
};

/// The default.
const STREAM_WINDOW: u64 = 10_000_000;

#[test]
fn acknowledgement_of_what_was_never_sent_closes() {
    for largest in [Number(1_000_000), Number::MAX] {
        for side in SIDES {
            let mut scene = Scene::new(side);
            scene.say(&[Frame::Ack {
                largest,
                first_range: Number(0),
                ranges: Vec::new(),
            }]);
            scene.assert_closed(TransportErrorCode::PROTOCOL_VIOLATION);
        }
    }
}

#[test]
fn acknowledgement_of_less_than_nothing_closes() {
    for (first_range, ranges) in [
        (Number(1), Vec::new()),
        (Number::MAX, Vec::new()),
        (Number(0), vec![(Number(0), Number(0))]),
        (Number(0), vec![(Number::MAX, Number::MAX)]),
    ] {
        for side in SIDES {
            let mut scene = Scene::new(side);
            scene.say(&[Frame::Ack {
                largest: Number(0),
                first_range,
                ranges: ranges.clone(),
            }]);
            scene.assert_closed(TransportErrorCode::FRAME_ENCODING_ERROR);
        }
    }
}

#[test]
fn stream_beyond_the_limit_closes() {
    // IDs of bidirectional streams increase by four; other streams are not permitted (RFC 9000
    // §2.1, §4.6).
    for (side, beyond) in [
        (Hostile::Dials, DIALERS_STREAM + 4 * 100),
        (Hostile::Dials, DIALERS_STREAM + 2),
        (Hostile::Dials, Number::MAX.0 & !3),
        (Hostile::Listens, LISTENERS_STREAM + 4 * 100),
        (Hostile::Listens, LISTENERS_STREAM + 2),
    ] {
        let stream = Number(beyond);
        for frame in [
            Frame::stream(beyond, 0, b"x"),
            Frame::ResetStream {
                stream,
                code: Number(0),
                final_size: Number(0),
            },
        ] {
            let mut scene = Scene::new(side);
            scene.say(&[frame]);
            scene.assert_closed(TransportErrorCode::STREAM_LIMIT_ERROR);
        }
    }
}

#[test]
fn last_stream_below_the_limit_is_no_crime() {
    let mut scene = Scene::new(Hostile::Dials);
    scene.say(&[Frame::stream(DIALERS_STREAM + 4 * 99, 0, b"x")]);
    scene.assert_open();
}

#[test]
fn frame_for_a_stream_that_is_only_ours_to_open_closes() {
    for (side, ours) in [
        (Hostile::Dials, LISTENERS_STREAM),
        (Hostile::Listens, DIALERS_STREAM),
    ] {
        let stream = Number(ours);
        for frame in [
            Frame::stream(ours, 0, b"x"),
            Frame::StopSending {
                stream,
                code: Number(0),
            },
            Frame::MaxStreamData {
                stream,
                limit: Number(1),
            },
        ] {
            let mut scene = Scene::new(side);
            scene.say(&[frame]);
            scene.assert_closed(TransportErrorCode::STREAM_STATE_ERROR);
        }
    }
}

#[test]
fn more_streams_than_can_be_numbered_closes() {
    for frame in [
        Frame::MaxStreams {
            bidirectional: true,
            limit: Number(1 + (1 << 60)),
        },
        Frame::StreamsBlocked {
            bidirectional: true,
            limit: Number(1 + (1 << 60)),
        },
    ] {
        let mut scene = Scene::new(Hostile::Dials);
        scene.say(&[frame]);
        scene.assert_closed(TransportErrorCode::FRAME_ENCODING_ERROR);
    }
}

#[test]
fn data_beyond_the_window_closes() {
    for side in SIDES {
        for offset in [STREAM_WINDOW, Number::MAX.0 - 1] {
            let mut scene = Scene::new(side);
            let stream = scene.stream();
            scene.say(&[Frame::stream(stream, offset, b"x")]);
            scene.assert_closed(TransportErrorCode::FLOW_CONTROL_ERROR);
        }
        // A reset counts as much as the data up to its final size.
        let mut scene = Scene::new(side);
        let stream = scene.stream();
        scene.say(&[Frame::ResetStream {
            stream: Number(stream),
            code: Number(0),
            final_size: Number(STREAM_WINDOW + 1),
        }]);
        scene.assert_closed(TransportErrorCode::FLOW_CONTROL_ERROR);
    }
}

#[test]
fn data_on_all_streams_together_is_bounded_too() {
    let mut scene = Scene::new(Hostile::Dials);
    let last = |stream| Frame::stream(stream, STREAM_WINDOW - 1, b"x");
    scene.say(&[last(DIALERS_STREAM)]);
    scene.assert_open();
    // 20 MB of the permitted 15.
    scene.say(&[last(DIALERS_STREAM + 4)]);
    scene.assert_closed(TransportErrorCode::FLOW_CONTROL_ERROR);
}

#[test]
fn stream_that_ends_twice_in_different_places_closes() {
    let end = |offset| Frame::Stream {
        stream: Number(DIALERS_STREAM),
        offset: Number(offset),
        data: Vec::new(),
        fin: true,
    };
    for second in [
        end(9),
        Frame::stream(DIALERS_STREAM, 10, b"x"),
        Frame::ResetStream {
            stream: Number(DIALERS_STREAM),
            code: Number(0),
            final_size: Number(9),
        },
    ] {
        let mut scene = Scene::new(Hostile::Dials);
        scene.say(&[end(10), second]);
        scene.assert_closed(TransportErrorCode::FINAL_SIZE_ERROR);
    }
}

/// quinn-proto would accept the end, and count less than nothing at the reset.
#[test]
fn stream_that_ends_before_its_data_closes() {
    const DATA: &[u8] = &[b'x'; 1000];
    for side in SIDES {
        for (is_at_once, is_read) in [(true, false), (false, false), (false, true)] {
            for others in [0, 1] {
                let mut scene = Scene::new(side);
                let stream = scene.open(1)[0];
                let mut packets = vec![vec![Frame::stream(stream, 0, DATA)]];
                packets[0].extend((0..others).map(|_| Frame::stream(scene.stream(), 0, b"x")));
                packets.push(vec![ends(stream, 10)]);
                packets.push(vec![resets(stream, 10)]);
                if is_at_once {
                    scene.say(&packets.concat());
                } else {
                    for (index, packet) in packets.iter().enumerate() {
                        if scene.is_open() {
                            scene.say(packet);
                        }
                        if is_read && index == 0 {
                            read_all(&mut scene, stream, 1000);
                        }
                    }
                }
                scene.assert_closed(TransportErrorCode::FINAL_SIZE_ERROR);
            }
        }
    }
}

/// A peer may reset a stream that it has ended (RFC 9000 §3.1), and what is lost comes again.
#[test]
fn end_that_is_told_again_closes_nothing() {
    const DATA: &[u8] = &[b'x'; 1000];
    let data = |stream| Frame::stream(stream, 0, DATA);
    for is_at_once in [true, false] {
        for is_read in [true, false] {
            let mut scene = Scene::new(Hostile::Dials);
            let stream = scene.open(1)[0];
            let frames = [
                data(stream),
                ends(stream, 1000),
                data(stream),
                ends(stream, 1000),
                resets(stream, 1000),
                ends(stream, 1000),
                data(stream),
                resets(stream, 1000),
            ];
            if is_at_once {
                // A packet has no room for the data three times.
                let small = [(); 2].map(|()| [ends(stream, 1000), resets(stream, 1000)]);
                scene.say(&[vec![data(stream)], small.into_iter().flatten().collect()].concat());
            } else {
                for (index, frame) in frames.iter().enumerate() {
                    scene.say(std::slice::from_ref(frame));
                    if is_read && index == 0 {
                        read_all(&mut scene, stream, 1000);
                    }
                }
            }
            scene.assert_open();
            let sizes = scene.victim.with(|connection| connection.grown().sizes);
            assert!(sizes <= 1, "only the carrier's stream is open");
        }
    }
}

fn ends(stream: u64, size: u64) -> Frame {
    Frame::Stream {
        stream: Number(stream),
        offset: Number(size),
        data: Vec::new(),
        fin: true,
    }
}

fn resets(stream: u64, size: u64) -> Frame {
    Frame::ResetStream {
        stream: Number(stream),
        code: Number(0),
        final_size: Number(size),
    }
}

fn read_all(scene: &mut Scene, stream: u64, bytes: usize) {
    for accepted in scene.accept_all() {
        if u64::from(accepted) == stream {
            let read = scene.victim.read(accepted, &mut [0; 2000]).now_or_never();
            assert_eq!(read, Some(Ok(bytes)));
        }
    }
}

#[test]
fn crypto_data_far_ahead_closes() {
    for side in SIDES {
        let mut scene = Scene::new(side);
        // The first byte never arrives.
        scene.say(&[Frame::Crypto {
            offset: Number(1),
            data: vec![0; 100],
        }]);
        scene.assert_open();
        scene.say(&[Frame::Crypto {
            offset: Number(CRYPTO_BUFFER),
            data: vec![0; 1],
        }]);
        scene.assert_closed(TransportErrorCode::CRYPTO_BUFFER_EXCEEDED);
    }
}

#[test]
fn more_connection_ids_than_we_want_closes() {
    for side in SIDES {
        let mut scene = Scene::new(side);
        scene.say(&[connection_id(1_000, 0)]);
        scene.assert_closed(TransportErrorCode::CONNECTION_ID_LIMIT_ERROR);
    }
}

#[test]
fn connection_ids_that_retire_more_than_there_were_closes() {
    let mut scene = Scene::new(Hostile::Dials);
    scene.say(&[connection_id(7, 8)]);
    scene.assert_closed(TransportErrorCode::FRAME_ENCODING_ERROR);
}

#[test]
fn flood_of_connection_ids_each_retiring_all_before_it_closes() {
    for side in SIDES {
        // All at once, so that we cannot send the retirements to the peer in between.
        let mut scene = Scene::new(side);
        let flood: Vec<_> = (10..10 + 2 * IDS_IN_A_PACKET)
            .map(|sequence| connection_id(sequence, sequence))
            .collect();
        scene.say_at_once(flood.chunks(IDS_IN_A_PACKET as usize));
        // The peer does not receive the close, because it does not know its own IDs.
        scene.assert_violation(TransportErrorCode::CONNECTION_ID_LIMIT_ERROR);
        scene.assert_honest_goes_on();

        // The same with an ID that is already retired, repeatedly.
        let mut scene = Scene::new(side);
        let mut flood = vec![connection_id(5, 2)];
        flood.extend((1..2 * IDS_IN_A_PACKET).map(|_| connection_id(1, 0)));
        scene.say_at_once(flood.chunks(IDS_IN_A_PACKET as usize));
        scene.assert_closed(TransportErrorCode::CONNECTION_ID_LIMIT_ERROR);
    }
}

#[test]
fn retirement_of_an_id_that_was_never_issued_closes() {
    for side in SIDES {
        let mut scene = Scene::new(side);
        scene.say(&[Frame::RetireConnectionId(Number(1_000))]);
        scene.assert_closed(TransportErrorCode::PROTOCOL_VIOLATION);
    }
}

#[test]
fn flood_of_retirements_is_answered_id_by_id() {
    let mut scene = Scene::new(Hostile::Dials);
    let active = scene.network.nodes[VICTIM].stats().0.active_ids;
    for sequence in 0..20 {
        scene.say(&[Frame::RetireConnectionId(Number(sequence))]);
        if !scene.is_open() {
            break;
        }
        let registry = scene.network.nodes[VICTIM].stats().0;
        assert!(registry.active_ids <= active);
    }
    // Retiring the ID to which the packet was sent is a violation (RFC 9000 §19.16). quinn-proto
    // permits it, because the peer harms only itself.
    assert_eq!(scene.victim.loss(), None);
    scene.assert_honest_goes_on();
}

#[test]
fn challenges_are_answered_one_by_one_and_not_all() {
    for side in SIDES {
        let mut scene = Scene::new(side);
        let before = scene.network.nodes[VICTIM].stats().1;
        let packets = 10;
        for number in 0..packets {
            let flood: Vec<_> = (0..CHALLENGES_IN_A_PACKET)
                .map(|challenge| Frame::PathChallenge([number, challenge, 0, 0, 0, 0, 0, 0]))
                .collect();
            scene.say(&flood);
        }
        scene.assert_open();
        let after = scene.network.nodes[VICTIM].stats().1;
        let answers = after.datagrams_sent - before.datagrams_sent;
        let bytes = after.bytes_sent - before.bytes_sent;
        // A response may fill a datagram (RFC 9000 §8.2.2), and other packets are sent as well; a
        // thousand would be too many.
        assert!(answers <= 8 * u64::from(packets), "{answers} datagrams");
        assert!(bytes <= 4 * 1500 * u64::from(packets), "{bytes} bytes");
        scene.assert_honest_goes_on();
    }
}

#[test]
fn challenges_from_many_addresses_are_answered_to_a_few() {
    let mut scene = Scene::new(Hostile::Dials);
    let challenges: Vec<_> = (0..ADDRESSES)
        .map(|number| Frame::PathChallenge([number; 8]))
        .collect();
    scene.open_the_congestion_window();
    scene.begin_to_say(challenges.chunks(1));
    let mut datagrams = Vec::new();
    while !scene.has_said_all() {
        scene.network.run_for(Duration::from_millis(1));
        datagrams.extend(scene.network.intercept());
    }
    let now = scene.network.now;
    let mut received = 0;
    for (number, datagram) in (0..ADDRESSES).zip(datagrams) {
        received += datagram.contents.len();
        let from = ([198, 51, 100, number], 9).into();
        scene.network.nodes[VICTIM].receive(now, from, &datagram.contents);
        // One after another, or several in one turn.
        if number % 2 == 0 {
            scene.network.settle();
        }
    }
    scene.network.settle();
    let own_addr = scene.network.nodes[HOSTILE].addr();
    let answers = scene.network.intercept();
    let elsewhere: Vec<_> = answers
        .iter()
        .filter(|answer| answer.to != own_addr)
        .collect();
    assert!((1..=16).contains(&elsewhere.len()), "{}", elsewhere.len());
    let sent: usize = answers.iter().map(|answer| answer.contents.len()).sum();
    assert!(sent <= 3 * received);
    assert_eq!(scene.victim.loss(), None);
    scene.assert_honest_goes_on();
}

/// An address of no node.
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));

#[test]
fn packets_from_elsewhere_are_answered_with_three_times_as_much_at_most() {
    for addresses in [1, 2, 7] {
        let mut scene = Scene::new(Hostile::Dials);
        scene.open_the_congestion_window();
        let datagrams: Vec<_> = (0..60)
            .flat_map(|_| scene.say_little(&Frame::Ping))
            .collect();
        let mut received = [0; 7];
        let mut sent = [0; 7];
        for (number, datagram) in datagrams.iter().enumerate() {
            let number = number % addresses;
            received[number] += datagram.contents.len();
            let from = SocketAddr::new(ELSEWHERE, 10 + number as u16);
            let now = scene.network.now;
            scene.network.nodes[VICTIM].receive(now, from, &datagram.contents);
            scene.network.settle();
            // Time for acknowledgements, retransmissions, and probes of the path.
            for _ in 0..6 {
                for answer in scene.network.intercept() {
                    if answer.to.ip() == ELSEWHERE {
                        sent[usize::from(answer.to.port()) - 10] += answer.contents.len();
                    }
                }
                scene.network.pass(Duration::from_millis(9));
            }
        }
        for (sent, received) in sent.iter().zip(&received) {
            assert!(*sent <= 3 * received, "{sent} for {received}");
        }
        let withheld = scene.network.nodes[VICTIM].stats().1.sends_not_credited;
        assert!(withheld > 0, "{addresses}");
        assert_eq!(scene.victim.loss(), None);
        scene.assert_honest_goes_on();
    }
}

/// quinn-proto counts it, wherever it is sent.
#[test]
fn response_to_a_challenge_from_elsewhere_takes_its_part_of_the_window() {
    let victim = Setup {
        configure: |builder| builder.congestion_control(CongestionControl::Bbr),
        ..Setup::default()
    };
    let mut scene = Scene::with(Hostile::Dials, victim);
    let probe = scene.say_little(&Frame::PathChallenge([7; 8])).remove(0);
    let state = |scene: &Scene| {
        scene.victim.with(|connection| {
            let room = connection.path_control().paced().unwrap().room();
            (room, connection.quic_stats().frame_tx.path_response)
        })
    };
    let (room, responses) = state(&scene);
    let now = scene.network.now;
    scene.network.nodes[VICTIM].receive(now, (ELSEWHERE, 10).into(), &probe.contents);
    scene.network.nodes[VICTIM].turn(now);
    assert_eq!(state(&scene), (room - 1_200, responses + 1));
}

/// A packet that is too small for the answer comes from there. It may be a NAT's new port, or that
/// of another host behind the NAT.
#[test]
fn another_port_of_the_host_is_asked_without_padding() {
    let mut scene = Scene::new(Hostile::Dials);
    scene.open_the_congestion_window();
    let datagram = scene.say_little(&Frame::Ping).remove(0);
    let own = scene.network.nodes[HOSTILE].addr();
    let elsewhere = SocketAddr::new(own.ip(), own.port() + 1);
    // The packet with the challenge has this as well.
    let stream = scene.victim.open().now_or_never().unwrap().unwrap();
    assert_eq!(scene.victim.write_now(stream, &[7; 400]), 400);
    let now = scene.network.now;
    scene.network.nodes[VICTIM].receive(now, elsewhere, &datagram.contents);
    scene.network.settle();
    let sent = scene.network.intercept();
    let sent: Vec<_> = (sent.iter())
        .filter(|datagram| datagram.to == elsewhere)
        .map(|datagram| datagram.contents.len())
        .collect();
    let [len] = sent[..] else {
        panic!("{sent:?}");
    };
    assert!(len > 3 * datagram.contents.len(), "{len}");
    assert!(len < 600, "{len}");
}

/// A challenge is also sent to the peer's previous address. That packet must not go to another
/// address: no packet number may be used twice, and an answer to it would validate the wrong
/// address.
#[test]
fn challenge_for_one_address_is_not_sent_to_another_one() {
    let mut scene = Scene::new(Hostile::Dials);
    scene.open_the_congestion_window();
    let frames = [Frame::PathChallenge([7; 8]), Frame::Ping];
    let datagrams = frames.map(|frame| scene.say_little(&frame).remove(0));
    let now = scene.network.now;
    // The answer goes to the first address, while the peer seems to be at the second one.
    for (datagram, port) in datagrams.iter().zip([10, 11]) {
        let from = SocketAddr::new(ELSEWHERE, port);
        scene.network.nodes[VICTIM].receive(now, from, &datagram.contents);
    }
    scene.network.settle();
    let sent = scene.network.intercept();
    let own_addr = scene.network.nodes[HOSTILE].addr();
    assert!(sent.iter().any(|datagram| datagram.to == own_addr));
    assert!(sent.iter().any(|datagram| datagram.to != own_addr));
    let frames: HashSet<_> = sent
        .iter()
        .map(|datagram| &datagram.contents[FRAME])
        .collect();
    assert_eq!(frames.len(), sent.len(), "encrypted under the same number");
}

#[test]
fn tokens_for_later_are_forgotten_and_wrong_ones_close() {
    let mut scene = Scene::new(Hostile::Listens);
    // As long as a packet permits; none of them is stored.
    for _ in 0..20 {
        scene.say(&[Frame::NewToken(vec![7; TOKEN_IN_A_PACKET])]);
    }
    scene.assert_open();
    scene.say(&[Frame::NewToken(Vec::new())]);
    scene.assert_closed(TransportErrorCode::FRAME_ENCODING_ERROR);

    let mut scene = Scene::new(Hostile::Dials);
    scene.say(&[Frame::NewToken(vec![7; 16])]);
    scene.assert_closed(TransportErrorCode::PROTOCOL_VIOLATION);
}

#[test]
fn only_a_listener_completes_the_handshake() {
    let mut scene = Scene::new(Hostile::Dials);
    scene.say(&[Frame::HandshakeDone]);
    scene.assert_closed(TransportErrorCode::PROTOCOL_VIOLATION);

    let mut scene = Scene::new(Hostile::Listens);
    scene.say(&[Frame::HandshakeDone]);
    scene.assert_open();
}

#[test]
fn what_is_no_frame_closes() {
    for (raw, code) in [
        // Unknown types (RFC 9000 §12.4), and a truncated STREAM frame.
        (vec![0x21], TransportErrorCode::FRAME_ENCODING_ERROR),
        (
            vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            TransportErrorCode::FRAME_ENCODING_ERROR,
        ),
        // A length beyond the end of the packet.
        (
            vec![0x06, 0x00, 0x7f, 0xff],
            TransportErrorCode::FRAME_ENCODING_ERROR,
        ),
        // DATAGRAM, which was not negotiated (RFC 9221 §3).
        (
            vec![0x31, 0x01, 0x00],
            TransportErrorCode::PROTOCOL_VIOLATION,
        ),
    ] {
        for side in SIDES {
            let mut scene = Scene::new(side);
            scene.say(&[Frame::Raw(raw.clone())]);
            scene.assert_closed(code);
        }
    }
}

fn connection_id(sequence: u64, retire_prior_to: u64) -> Frame {
    Frame::NewConnectionId {
        sequence: sequence.into(),
        retire_prior_to: retire_prior_to.into(),
        id: (0x5a5a_0000_0000_0000 | sequence).to_be_bytes(),
    }
}

const IDS_IN_A_PACKET: u64 = 38;
const CHALLENGES_IN_A_PACKET: u8 = 120;
const ADDRESSES: u8 = 40;
const TOKEN_IN_A_PACKET: usize = 1100;

/// The bytes of the first frame in a packet with a short header, for every length of the packet
/// number.
const FRAME: Range<usize> = 13..19;

/// quinn-proto's default.
const CRYPTO_BUFFER: u64 = 16 * 1024;
