//! Every interleaving of a driver with the threads that use it, tried by loom: no wake-up is lost, nobody waits for
//! ever.
//!
//! Run by `tests/loom`. The driver, its mailbox, doorbell and queue, the shard and the connections are those that are
//! shipped; only time stands still, and the runtime's I/O never reports anything. A driver that misses a wake-up
//! sleeps for ever then, and loom says "deadlock".

use std::{
    future::poll_fn,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
};

use futures::FutureExt;
use loom::{future::block_on, thread};
use tokio::runtime::Runtime;

use super::world::{CONFIG, Dialling, FIRST_PACKET, World, first_packet, nobody, runtime};
use crate::{
    driver::{
        connection::{DrivenConnection, Handshake},
        mailbox::{Mailbox, read_socket},
        requests::{Dial, Request},
        socket::Socket,
        wakers::Reply,
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
            move || connection.with(|connection| connection.abandon(HandshakeError::Stale))
        });
        assert_eq!(established(&connection), HandshakeError::Stale);
        mailbox.close();
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
        mailbox.close();
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
        let dialler = spawn(move || {
            drop(dial(&mailbox, &socket).unwrap().unwrap());
            // Not before, as `Connecting` sees to.
            mailbox.close();
        });
        drop(connection);
        dialler.join().unwrap();
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
            // In the middle of its work, as a panic or the end of the runtime has it.
            assert!(block_on(poll_fn(|cx| Poll::Ready(driver.poll_unpin(cx)))).is_pending());
            drop(driver);
        });
        let dialler = spawn(move || {
            if let Some(Ok(mut handshake)) = dial(&mailbox, &socket) {
                let lost = block_on(poll_fn(|cx| handshake.poll(cx)));
                assert_eq!(lost.err(), Some(ConnectionError::DriverStopped.into()));
            }
        });
        assert_eq!(
            established(&connection),
            ConnectionError::DriverStopped.into()
        );
        dialler.join().unwrap();
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
            move || mailbox.forward(&mut vec![first_packet(socket)])
        });
        drop(connection);
        let incoming = block_on(poll_fn(|cx| incoming.poll(cx)));
        // Which refuses it: nothing of it is left that would keep the driver.
        drop(incoming);
        mailbox.close();
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
        mailbox.close();
        user.join().unwrap();
        driver.join().unwrap();
    });
}

/// Why the handshake has failed, once it has.
fn established(connection: &DrivenConnection) -> HandshakeError {
    block_on(poll_fn(|cx| {
        connection.with(|connection| connection.poll_established(cx.waker()))
    }))
    .unwrap_err()
}

/// Dials, and waits for the driver to begin; `None` if it is gone.
fn dial(mailbox: &Mailbox, socket: &Arc<Socket>) -> Option<Result<Handshake, Error>> {
    let (reply, receiver) = Reply::new();
    mailbox
        .request(Request::Dial(Dial {
            config: Box::new(CONFIG.client(None, None).unwrap()),
            remote_addr: nobody(),
            socket: Arc::clone(socket),
            deadline: clock::now() + CONFIG.handshake_timeout(),
            silent_for: None,
            reply,
        }))
        .ok()?;
    block_on(receiver).ok()
}

/// It never runs, so no I/O and no timer becomes ready in the middle of a model.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(runtime);

/// Runs `scene` in every interleaving that has few enough preemptions.
fn model(scene: impl Fn() + Send + Sync + 'static) {
    let _runtime = RUNTIME.enter();
    // Made before, because loom wants each run to be like the others.
    LazyLock::force(&FIRST_PACKET);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(PREEMPTIONS);
    let scene = Arc::new(scene);
    let runs = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&runs);
    builder.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        let scene = Arc::clone(&scene);
        // A thread of its own, for the sake of its stack.
        spawn(move || scene()).join().unwrap();
    });
    println!("{} interleavings", runs.load(Ordering::Relaxed));
}

fn spawn<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
    thread::Builder::new().stack_size(STACK).spawn(run).unwrap()
}

/// Most times that a thread is interrupted where it need not wait. loom's authors find nearly all errors with two.
const PREEMPTIONS: usize = 2;

/// Of a thread, in the words of loom's coroutines: a TLS handshake needs more than their usual 32 KB.
const STACK: usize = 256 * 1024;
