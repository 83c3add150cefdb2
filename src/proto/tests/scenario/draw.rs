//! Random nodes and links.

use std::time::Duration;

use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};

use super::super::{
    link::{Bottleneck, Ecn, Impairments},
    node::{Outbox, Reader, Setup},
    transfer::patient,
};
use crate::config::{ConfigBuilder, RetryPolicy};

/// Configuration of the nodes. `moves` is whether some of their peers move.
pub(super) fn draw_setup(random: &mut StdRng, moves: bool) -> Setup {
    fn with_retry(builder: ConfigBuilder) -> ConfigBuilder {
        (patient().configure)(builder.retry_policy(RetryPolicy::Always))
    }
    /// Windows that block a writer now and then.
    fn narrow(builder: ConfigBuilder) -> ConfigBuilder {
        (patient().configure)(builder)
            .stream_receive_window_bytes(4096)
            .and_then(|builder| builder.connection_receive_window_bytes(32 * 1024))
            .and_then(|builder| builder.send_window_bytes(16 * 1024))
            .unwrap()
    }
    // If a node moves, its socket never blocks, so that it can send on the new path at once; see
    // `play_or_trip`.
    let room = if !moves && random.random_bool(0.3) {
        random.random_range(1..4)
    } else {
        usize::MAX
    };
    Setup {
        configure: match random.random_range(0..5) {
            0 => with_retry,
            1 if !moves => narrow,
            _ => patient().configure,
        },
        outbox: Outbox {
            max_segments: random.random_range(1..=16),
            room,
            ..Outbox::default()
        },
        reader: *[Reader::Owner, Reader::NeverTheOwner]
            .choose(random)
            .unwrap(),
        shards: random.random_range(1..=4),
        ..Setup::default()
    }
}

/// Each kind of impairment, on some of the links.
pub(super) fn draw_link(random: &mut StdRng) -> Impairments {
    let milliseconds =
        |random: &mut StdRng, most| Duration::from_millis(random.random_range(0..=most));
    let mut link = Impairments {
        delay: milliseconds(random, 150),
        ..Impairments::NONE
    };
    if random.random_bool(0.5) {
        link.jitter = milliseconds(random, 30);
    }
    if random.random_bool(0.5) {
        link.loss = *[0.01, 0.1, 0.3].choose(random).unwrap();
    }
    if random.random_bool(0.3) {
        link.duplication = 0.05;
    }
    if random.random_bool(0.3) {
        link.corruption = 0.05;
    }
    if random.random_bool(0.3) {
        link.mtu = random.random_range(1200..=1472);
    }
    if random.random_bool(0.3) {
        link.bottleneck = Some(Bottleneck::new(
            1 << random.random_range(15..=21),
            1 << random.random_range(14..=18),
        ));
    }
    if random.random_bool(0.3) {
        link.ecn = *[Ecn::Bleached, Ecn::ForgedCe, Ecn::ForgedEct1]
            .choose(random)
            .unwrap();
    }
    link
}
