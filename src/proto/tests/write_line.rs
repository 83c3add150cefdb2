//! Streams that wait for the window of their connection, and what runs first.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    rc::Rc,
    task::Poll,
    time::Duration,
};

use futures::FutureExt;

use super::{link::Impairments, network::Network, node::Setup, peer::Peer};
use crate::proto::StreamId;

const ROUND_TRIP: Duration = Duration::from_millis(20);

/// Two connected peers; few bytes may be unacknowledged.
fn narrow() -> (Network, Peer, Peer) {
    let narrow = Setup {
        configure: |builder| builder.send_window_bytes(64 * 1024).unwrap(),
        ..Setup::default()
    };
    let mut network = Network::pair(1, narrow.clone(), narrow);
    let (dialled, accepted) = network.connect(0, 1);
    network.impair(Impairments {
        delay: ROUND_TRIP / 2,
        ..Impairments::NONE
    });
    (network, dialled, accepted)
}

/// Writes after all other tasks that were woken with this one: a runtime may run first what was
/// woken last.
async fn write_late(peer: &Peer, stream: StreamId, data: &[u8]) -> usize {
    let mut is_late = false;
    poll_fn(|cx| {
        is_late = !is_late;
        if is_late {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        peer.with(|connection| connection.streams().poll_write(stream, data, cx.waker()))
    })
    .await
    .unwrap()
}

/// Opens a stream that the accepting side reads, and counts what it reads.
fn open(network: &mut Network, from: &Peer, to: &Peer) -> (StreamId, Rc<Cell<u64>>) {
    let stream = from.open().now_or_never().unwrap().unwrap();
    assert_eq!(from.write_now(stream, &[0]), 1);
    let read: Rc<Cell<u64>> = Rc::default();
    network.spawn({
        let (to, read) = (to.clone(), Rc::clone(&read));
        async move {
            let stream = to.accept().await.unwrap();
            let mut buf = vec![0; 64 * 1024];
            while let Ok(bytes @ 1..) = to.read(stream, &mut buf).await {
                read.set(read.get() + bytes as u64);
            }
        }
    });
    network.run_for(ROUND_TRIP);
    (stream, read)
}

#[test]
fn small_write_beside_a_transfer_waits_for_a_round_trip_whatever_runs_first() {
    let (mut network, from, to) = narrow();
    let [(bulk, _), (ping, _)] = [(); 2].map(|()| open(&mut network, &from, &to));
    network.spawn({
        let from = from.clone();
        async move { while from.write_all(bulk, &[7; 64 * 1024]).await.is_ok() {} }
    });
    network.run_for(Duration::from_secs(1));
    let written = Rc::new(RefCell::new(Vec::new()));
    let alarms = network.alarms();
    network.spawn({
        let written = Rc::clone(&written);
        async move {
            for _ in 0..20 {
                let began = alarms.now();
                write_late(&from, ping, &[1; 64]).await;
                written.borrow_mut().push(alarms.now() - began);
            }
        }
    });
    network.run_for(Duration::from_secs(2));
    let written = written.borrow();
    assert_eq!(written.len(), 20);
    assert!(
        written.iter().all(|&time| time <= 2 * ROUND_TRIP),
        "{written:?}"
    );
}

#[test]
fn transfers_share_the_window_whatever_runs_first() {
    let (mut network, from, to) = narrow();
    let streams = [(); 3].map(|()| open(&mut network, &from, &to));
    let [(first, _), (second, _), (small, _)] = streams;
    network.spawn({
        let from = from.clone();
        async move { while from.write_all(first, &[7; 64 * 1024]).await.is_ok() {} }
    });
    network.spawn({
        let from = from.clone();
        async move {
            loop {
                write_late(&from, second, &[7; 64 * 1024]).await;
            }
        }
    });
    network.spawn(async move { while from.write_all(small, &[7; 1024]).await.is_ok() {} });
    network.run_for(Duration::from_secs(1));
    let before = streams.each_ref().map(|(_, read)| read.get());
    network.run_for(Duration::from_secs(5));
    let mut bytes = [0, 1, 2].map(|index| streams[index].1.get() - before[index]);
    bytes.sort_unstable();
    // They take turns; the one with small writes writes a smaller chunk in each.
    assert!(bytes[0] * 4 > bytes[2], "{bytes:?}");
}

/// Others may write before its task comes, which may be never.
#[test]
fn stream_that_is_the_only_one_to_wait_holds_nobody_back() {
    let begin = || {
        let (mut network, from, to) = narrow();
        let [(waiting, _), (other, _)] = [(); 2].map(|()| open(&mut network, &from, &to));
        while from.write_now(waiting, &[7; 64 * 1024]) > 0 {}
        (network, from, waiting, other)
    };
    let (mut network, from, waiting, _) = begin();
    let began = network.elapsed();
    let written = network.block_on(async move { from.write(waiting, &[7; 64 * 1024]).await });
    assert!(written.unwrap() > 0);
    let until_open = network.elapsed() - began;
    assert!(until_open > Duration::ZERO);

    let (mut network, from, _, other) = begin();
    network.run_for(until_open);
    assert!(from.write_now(other, &[7; 64 * 1024]) > 0);
}

/// It may wait for something else first, or have ended.
#[test]
fn stream_whose_task_does_not_come_holds_up_nobody() {
    let read_beside = |has_idle: bool| {
        let (mut network, from, to) = narrow();
        let [(bulk, read), (idle, _)] = [(); 2].map(|()| open(&mut network, &from, &to));
        while from.write_now(bulk, &[7; 64 * 1024]) > 0 {}
        if has_idle {
            assert_eq!(from.write_now(idle, &[7; 64 * 1024]), 0);
        }
        network.spawn(async move { while from.write_all(bulk, &[7; 64 * 1024]).await.is_ok() {} });
        network.run_for(Duration::from_secs(5));
        read.get()
    };
    let (beside, alone) = (read_beside(true), read_beside(false));
    assert!(beside as f64 > 0.95 * alone as f64, "{beside} {alone}");
}
