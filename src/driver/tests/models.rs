//! Loom models of a driver and the threads that use it: in every interleaving, no wake-up is lost
//! and nobody waits for ever.
//!
//! `tests/loom` runs them. The driver, its mailbox, doorbell and queue, the shard and the
//! connections are the production code. Only time stands still, and the runtime's I/O never becomes
//! ready. A driver that misses a wake-up then sleeps for ever, and loom reports "deadlock".

use std::{
    future::poll_fn,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use futures::FutureExt;
use loom::{future::block_on, thread};
use tokio::runtime::Runtime;

use super::world::{
    CONFIG, Dialling, World, first_packet, first_packet_of_a_dial, nobody, runtime,
};
use crate::{
    driver::{
        connection::{DrivenConnection, Handshake},
        mailbox::{Mailbox, read_socket},
        requests::{DialRequest, Reply, Request},
        socket_group::SocketGroup,
    },
    error::{ConnectionError, Error, HandshakeError},
    net::clock,
};

#[test]
fn what_a_thread_does_is_served_and_others_are_woken() {
    model(|| {
        let World {
            driver,
            mailbox,
            connection,
            ..
        } = World::new(&RUNTIME, Dialling::JustBegun);
        let driver = spawn(|| block_on(driver));
        let other = spawn({
            let connection = connection.clone();
            move || connection.with(|connection| connection.abandon(HandshakeError::Abandoned))
        });
        assert_eq!(established(&connection), HandshakeError::Abandoned);
        mailbox.allow_stop();
        other.join().unwrap();
        driver.join().unwrap();
    });
}

#[test]
fn what_time_brings_wakes_who_waits() {
    model(|| {
        let World {
            driver,
            mailbox,
            connection,
            ..
        } = World::new(&RUNTIME, Dialling::TooLong);
        let driver = spawn(|| block_on(driver));
        assert_eq!(established(&connection), HandshakeError::TimedOut);
        mailbox.allow_stop();
        driver.join().unwrap();
    });
}

#[test]
fn requests_are_answered_and_dropped_handshakes_forgotten() {
    model(|| {
        let World {
            driver,
            mailbox,
            connection,
            socket,
            ..
        } = World::new(&RUNTIME, Dialling::TooLong);
        let driver = spawn(|| block_on(driver));
        let dialer = spawn(move || {
            drop(dial(&mailbox, &socket).unwrap().unwrap());
            // Only after the dial, because `Connecting` keeps the drivers until then.
            mailbox.allow_stop();
        });
        drop(connection);
        dialer.join().unwrap();
        driver.join().unwrap();
    });
}

#[test]
fn nobody_waits_for_a_driver_that_is_gone() {
    model(|| {
        let World {
            mut driver,
            mailbox,
            connection,
            socket,
            ..
        } = World::new(&RUNTIME, Dialling::JustBegun);
        let driver = spawn(move || {
            // Dropped during its work, as by a panic or the end of the runtime.
            assert!(block_on(poll_fn(|cx| Poll::Ready(driver.poll_unpin(cx)))).is_pending());
            drop(driver);
        });
        let dialer = spawn(move || {
            if let Some(Ok(mut handshake)) = dial(&mailbox, &socket) {
                let lost = block_on(poll_fn(|cx| handshake.poll(cx)));
                assert_eq!(lost.err(), Some(ConnectionError::DriverStopped.into()));
            }
        });
        assert_eq!(
            established(&connection),
            ConnectionError::DriverStopped.into()
        );
        dialer.join().unwrap();
        driver.join().unwrap();
    });
}

#[test]
fn a_flush_is_done_whatever_becomes_of_the_driver() {
    model(|| {
        let World {
            mut driver,
            mailbox,
            connection,
            ..
        } = World::new(&RUNTIME, Dialling::JustBegun);
        let driver = spawn(move || {
            // The driver is polled once, or until it asks for another round, and then stops before
            // the flush is done.
            let _ = block_on(poll_fn(|cx| Poll::Ready(driver.poll_unpin(cx))));
            drop(driver);
        });
        drop(connection);
        let flush = mailbox.ask_for_flush();
        // In a model time stands still, so this waits until it is woken.
        assert!(
            mailbox
                .flushes()
                .wait(flush, clock::now() + Duration::from_secs(1))
        );
        driver.join().unwrap();
    });
}

#[test]
fn the_transport_hears_of_connections_and_its_answer_is_heard() {
    model(|| {
        let World {
            driver,
            mailbox,
            incoming,
            connection,
            socket,
            ..
        } = World::new(&RUNTIME, Dialling::TooLong);
        let driver = spawn(|| block_on(driver));
        let other_shard = spawn({
            let mailbox = Arc::clone(&mailbox);
            move || mailbox.forward(&mut vec![first_packet(socket, &FIRST_PACKET)])
        });
        drop(connection);
        let incoming = block_on(poll_fn(|cx| incoming.poll(cx)));
        // Dropping it refuses it, so nothing is left that would keep the driver running.
        drop(incoming);
        mailbox.allow_stop();
        other_shard.join().unwrap();
        driver.join().unwrap();
    });
}

#[test]
fn the_last_user_of_a_socket_ends_its_reading() {
    model(|| {
        let World {
            driver,
            mailbox,
            connection,
            socket,
            ..
        } = World::new(&RUNTIME, Dialling::TooLong);
        drop(connection);
        let io = socket.io_of(0).unwrap();
        read_socket(&[Arc::clone(&mailbox)], 0, &socket, &io).unwrap();
        drop(io);
        let driver = spawn(|| block_on(driver));
        let user = spawn(move || drop(socket));
        mailbox.allow_stop();
        user.join().unwrap();
        driver.join().unwrap();
    });
}

/// The error of a handshake that has failed.
fn established(connection: &DrivenConnection) -> HandshakeError {
    block_on(poll_fn(|cx| {
        connection.with(|connection| connection.poll_established(cx.waker()))
    }))
    .unwrap_err()
}

/// Dials, and waits for the driver to begin; `None` if the driver has stopped.
fn dial(mailbox: &Mailbox, socket: &Arc<SocketGroup>) -> Option<Result<Handshake, Error>> {
    let (reply, receiver) = Reply::new();
    mailbox
        .request(Request::Dial(DialRequest {
            config: Box::new(CONFIG.client(None, None).unwrap()),
            max_payload: None,
            remote_addr: nobody(),
            socket: Arc::clone(socket),
            deadline: clock::now() + CONFIG.handshake_timeout(),
            silent_for: None,
            reply,
        }))
        .ok()?;
    block_on(receiver).ok()
}

/// A runtime that never runs, so that no I/O and no timer becomes ready during a model.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(runtime);

/// The first packet of a connection.
static FIRST_PACKET: LazyLock<Vec<u8>> = LazyLock::new(first_packet_of_a_dial);

/// Runs `scene` in every interleaving with at most [`PREEMPTIONS`] preemptions.
fn model(scene: impl Fn() + Send + Sync + 'static) {
    let _runtime = RUNTIME.enter();
    // Initialized before, because loom requires every run to be the same.
    LazyLock::force(&FIRST_PACKET);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(PREEMPTIONS);
    let scene = Arc::new(scene);
    let runs = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&runs);
    builder.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        let scene = Arc::clone(&scene);
        // A separate thread, because of its stack size.
        spawn(move || scene()).join().unwrap();
    });
    println!("{} interleavings", runs.load(Ordering::Relaxed));
}

fn spawn<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
    thread::Builder::new().stack_size(STACK).spawn(run).unwrap()
}

/// The most times that a thread is preempted. According to loom's authors, two find nearly all
/// errors.
const PREEMPTIONS: usize = 2;

/// The stack size of a thread in words of loom's coroutines: a TLS handshake needs more than the
/// usual 32 KB.
const STACK: usize = 256 * 1024;
