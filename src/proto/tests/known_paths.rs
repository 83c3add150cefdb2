//! What a connection leaves behind for the next one to the same host.

use std::time::Duration;

use futures::future::join;

use super::{
    link::{Bottleneck, Impairments},
    network::Network,
    node::Setup,
};

const ROUND_TRIP: Duration = Duration::from_millis(100);

/// 100 Mb/s, with a queue of a round trip.
fn pair(remembers: bool) -> Network {
    let setup = Setup {
        configure: if remembers {
            |builder| builder.remember_paths(true)
        } else {
            |builder| builder
        },
        ..Setup::default()
    };
    let mut network = Network::pair(1, setup.clone(), setup);
    network.impair(Impairments {
        delay: ROUND_TRIP / 2,
        bottleneck: Some(Bottleneck {
            bytes_per_second: 12_500_000,
            queue_bytes: 1_250_000,
            interface_bytes_per_second: None,
            header_bytes: 28,
        }),
        ..Impairments::NONE
    });
    network
}

/// How long two megabytes take on a new connection, from the dialer or to it.
fn transfer(network: &mut Network, is_up: bool) -> Duration {
    let (dialer, listener) = network.connect(0, 1);
    let began = network.elapsed();
    network.block_on(async move {
        let asks = dialer.open().await.unwrap();
        dialer.write_all(asks, b"?").await.unwrap();
        let answers = listener.accept().await.unwrap();
        assert_eq!(listener.read(answers, &mut [0]).await, Ok(1));
        let (sender, sends, receiver, receives) = if is_up {
            (&dialer, asks, &listener, answers)
        } else {
            (&listener, answers, &dialer, asks)
        };
        let sent = async {
            sender.write_all(sends, &vec![7; 2_000_000]).await.unwrap();
            sender.finish(sends).unwrap();
        };
        let (received, ()) = join(receiver.read_to_end(receives), sent).await;
        assert_eq!(received.unwrap().len(), 2_000_000);
        dialer.close(0);
    });
    let took = network.elapsed() - began;
    network.run_for(Duration::from_secs(1));
    took
}

#[test]
fn later_connection_begins_with_what_an_earlier_one_has_measured_whoever_has_dialled() {
    for is_up in [true, false] {
        let mut network = pair(true);
        let [first, second] = [(); 2].map(|()| transfer(&mut network, is_up));
        assert!(second < first - ROUND_TRIP, "{is_up}: {first:?} {second:?}");

        let mut network = pair(false);
        let [first, second] = [(); 2].map(|()| transfer(&mut network, is_up));
        let difference = first.abs_diff(second);
        assert!(difference < ROUND_TRIP / 2, "{is_up}: {first:?} {second:?}");
    }
}

#[test]
fn lost_first_packet_is_sent_again_after_three_round_trips_that_are_remembered() {
    for (remembers, expected) in [(true, 3 * ROUND_TRIP), (false, Duration::from_millis(999))] {
        let mut network = pair(remembers);
        transfer(&mut network, true);
        let began = network.elapsed();
        let dialer = network.dial(0, 1);
        network.settle();
        assert!(!network.intercept().is_empty());
        network.block_on(async move { dialer.established().await.unwrap() });
        let took = network.elapsed() - began;
        assert!(took >= expected + ROUND_TRIP, "{remembers}: {took:?}");
        assert!(took < expected + 2 * ROUND_TRIP, "{remembers}: {took:?}");
    }
}
