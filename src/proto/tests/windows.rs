//! Windows that grow with what a path holds, and what they leave to others.

use std::time::Duration;

use futures::{FutureExt, future::join};

use super::{link::Impairments, network::Network, node::Setup, peer::Peer};
use crate::{authenticator::Protection, proto::StreamId};

/// What a stream and a connection begin with, and the most that a stream may have.
const FIRST_STREAM: u64 = 10_000_000;
const FIRST_CONNECTION: u64 = 15_000_000;
const LARGEST_STREAM: u64 = 44_000_000;

#[test]
fn stream_that_nobody_reads_has_the_window_that_it_began_with() {
    let (mut network, dialer, listener) = pair();
    let stream = dialer.open().now_or_never().unwrap().unwrap();
    let arrived = stall(&mut network, &dialer, &listener, stream);
    assert!(
        (FIRST_STREAM * 9 / 10..FIRST_STREAM * 21 / 20).contains(&arrived),
        "{arrived}"
    );
    assert_goes_on(&mut network, &dialer, &listener);
}

#[test]
fn connection_that_nobody_reads_has_the_window_that_it_began_with() {
    let (mut network, dialer, listener) = pair();
    let mut arrived = 0;
    for _ in 0..3 {
        let stream = dialer.open().now_or_never().unwrap().unwrap();
        arrived += stall(&mut network, &dialer, &listener, stream);
    }
    assert!(
        (FIRST_CONNECTION * 9 / 10..FIRST_CONNECTION * 21 / 20).contains(&arrived),
        "{arrived}"
    );
}

#[test]
fn stream_that_was_read_fast_has_more_and_leaves_something_to_others() {
    let (mut network, dialer, listener) = pair();
    let stream = dialer.open().now_or_never().unwrap().unwrap();
    let contents = vec![7; 120_000_000];
    let (writer, reader) = (dialer.clone(), listener.clone());
    network.block_on(async move {
        let write = async { writer.write_all(stream, &contents).await.unwrap() };
        let read = async {
            let stream = reader.accept().await.unwrap();
            let mut buf = vec![0; 256 * 1024];
            let mut left = contents.len();
            while left > 0 {
                let most = left.min(buf.len());
                left -= reader.read(stream, &mut buf[..most]).await.unwrap();
            }
        };
        join(write, read).await;
    });
    let arrived = stall(&mut network, &dialer, &listener, stream);
    // A quarter is taken out before it stops.
    assert!(
        (2 * FIRST_STREAM..LARGEST_STREAM * 27 / 20).contains(&arrived),
        "{arrived}"
    );
    assert_goes_on(&mut network, &dialer, &listener);
}

/// With default settings and a round trip of 200 ms.
fn pair() -> (Network, Peer, Peer) {
    let setup = Setup {
        protection: Protection::None,
        ..Setup::default()
    };
    let mut network = Network::pair(1, setup.clone(), setup);
    network.record_nothing();
    network.impair(Impairments {
        delay: Duration::from_millis(100),
        ..Impairments::NONE
    });
    let (dialer, listener) = network.connect(0, 1);
    (network, dialer, listener)
}

/// Writes as much as is taken, and tells how much has arrived.
fn stall(network: &mut Network, dialer: &Peer, listener: &Peer, stream: StreamId) -> u64 {
    let before = listener.stats().bytes_received;
    let data = vec![7; 64 * 1024];
    for _ in 0..200 {
        while dialer.write_now(stream, &data) > 0 {}
        network.run_for(Duration::from_millis(50));
    }
    listener.stats().bytes_received - before
}

/// Another stream is read to its end.
fn assert_goes_on(network: &mut Network, dialer: &Peer, listener: &Peer) {
    let (dialer, listener) = (dialer.clone(), listener.clone());
    let read = network.block_on(async move {
        let write = async {
            let stream = dialer.open().await.unwrap();
            dialer.write_all(stream, &vec![9; 2_000_000]).await.unwrap();
            dialer.finish(stream).unwrap();
        };
        let read = async {
            loop {
                let stream = listener.accept().await.unwrap();
                let mut buf = [0; 1];
                listener.read(stream, &mut buf).await.unwrap();
                if buf == [9] {
                    return listener.read_to_end(stream).await.unwrap().len();
                }
            }
        };
        join(write, read).await.1
    });
    assert_eq!(read, 1_999_999);
}
