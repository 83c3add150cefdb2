//! Replaces sockets that were given up or have failed.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use super::{Sockets, for_dials::DialSocket};
use crate::{
    driver::socket_group::SocketGroup,
    error::RebindError,
    net::{clock, sleep, task::Runtime},
    sync::lock,
};

/// How long a socket that was given up is still read: about as long as a datagram to it may be
/// under way.
const GIVEN_UP_TIME: Duration = Duration::from_secs(1);

/// The most sockets that are kept open only for that. Each is a descriptor, and [`Sockets::rebind`]
/// may be called often.
const MAX_GIVEN_UP: usize = 16;

/// Delay before a failed socket is bound again: by then all drivers have most likely dropped it.
const FIRST_ATTEMPT: Duration = Duration::from_millis(10);

/// Interval between attempts to bind an address again, and the shortest time between two reported
/// failures of a socket.
const NEXT_ATTEMPT: Duration = Duration::from_secs(1);

/// The most failed sockets of listeners that wait to be reported. There is at most one report a
/// second for each.
const MAX_FAILED: usize = 64;

impl Sockets {
    /// Replaces each socket that dials and does not listen, or none of them if an error occurs. A
    /// replacement that is not used yet is kept.
    pub(in crate::driver) fn rebind(self: &Arc<Self>) -> Result<(), RebindError> {
        if self.have_stopped() {
            return Err(RebindError::DriverStopped);
        }
        let Some(runtime) = self.runtime() else {
            return Ok(());
        };
        let mut dialling = lock(&self.dialling);
        // Unused sockets need no replacement: the next dial opens a new one.
        self.close_idle();
        let mut moves = Vec::new();
        for dial_socket in dialling.sockets() {
            if dial_socket.is_used(self.is_kept(&dial_socket.current))
                && let Some(socket) = dial_socket.current.upgrade()
            {
                let successor = self.open_beside(&runtime, &socket)?;
                moves.push((dial_socket, socket, successor));
            }
        }
        for (dial_socket, socket, successor) in moves {
            self.give_up(&runtime, dial_socket, socket, &successor, "rebind");
        }
        drop(dialling);
        self.tell_drivers();
        Ok(())
    }

    /// Handles a failed socket. If it only dials, another socket replaces it. In any case its own
    /// address is bound again, for the connections that cannot move.
    pub(in crate::driver) fn replace_failed(
        self: &Arc<Self>,
        socket: &Arc<SocketGroup>,
        error: io::Error,
    ) {
        let Some(runtime) = self.runtime() else {
            return;
        };
        if !socket.begin_repair() {
            return;
        }
        tracing::warn!(%error, addr = %socket.local_addr(), "a socket has failed");
        self.report(socket, error);
        if let Err(error) = self.replace(&runtime, socket) {
            tracing::debug!(%error, "could not open another socket");
        }
        runtime.spawn(bind_again(
            Arc::downgrade(self),
            Arc::downgrade(socket),
            runtime.clone(),
        ));
    }

    /// Sockets of listeners that have failed since the last call. The transport is woken when there
    /// are any.
    pub(in crate::driver) fn take_failed(&self) -> VecDeque<(Weak<SocketGroup>, io::Error)> {
        std::mem::take(&mut *lock(&self.failed))
    }

    /// Opens a socket at another port of the same wildcard address.
    fn open_beside(
        &self,
        runtime: &Runtime,
        socket: &SocketGroup,
    ) -> Result<Arc<SocketGroup>, RebindError> {
        let addr = SocketAddr::new(socket.local_addr().ip(), 0);
        let context = runtime.enter();
        let ios = self.bind(runtime, addr).map_err(RebindError::Bind)?;
        drop(context);
        self.put_to_use(ios, false)
            .map_err(|_| RebindError::DriverStopped)
    }

    /// Replaces a failed socket if it only dials.
    fn replace(
        self: &Arc<Self>,
        runtime: &Runtime,
        socket: &Arc<SocketGroup>,
    ) -> Result<(), RebindError> {
        let mut dialling = lock(&self.dialling);
        let dial_socket = dialling
            .sockets()
            .find(|dial_socket| Weak::as_ptr(&dial_socket.current) == Arc::as_ptr(socket));
        let now = clock::now();
        let Some(dial_socket) = dial_socket.filter(|dial_socket| {
            // If the replacement fails again so soon, another one is unlikely to do better.
            (dial_socket.replaced_at).is_none_or(|replaced_at| now >= replaced_at + NEXT_ATTEMPT)
        }) else {
            return Ok(());
        };
        let successor = self.open_beside(runtime, socket)?;
        self.give_up(
            runtime,
            dial_socket,
            Arc::clone(socket),
            &successor,
            "failed",
        );
        dial_socket.replaced_at = Some(now);
        drop(dialling);
        self.tell_drivers();
        Ok(())
    }

    /// Replaces this socket. The old one stays open for a while and owns the new one until someone
    /// uses it.
    fn give_up(
        self: &Arc<Self>,
        runtime: &Runtime,
        dial_socket: &mut DialSocket,
        socket: Arc<SocketGroup>,
        successor: &Arc<SocketGroup>,
        reason: &str,
    ) {
        let (from, to) = (socket.local_addr(), successor.local_addr());
        tracing::debug!(reason, %from, %to, "replaced a socket");
        dial_socket.give_up(&socket, successor);
        self.keep_instead(&socket, successor);
        self.rebound.fetch_add(1, Ordering::Relaxed);
        self.read_for_a_while(runtime, socket);
    }

    /// Keeps a socket open for datagrams that are under way to it.
    fn read_for_a_while(self: &Arc<Self>, runtime: &Runtime, socket: Arc<SocketGroup>) {
        let closes = ClosesOnDrop {
            sockets: Arc::downgrade(self),
            socket: Arc::downgrade(&socket),
        };
        let mut given_up = lock(&self.given_up);
        given_up.push_back(socket);
        let closed = if given_up.len() > MAX_GIVEN_UP {
            given_up.pop_front()
        } else {
            None
        };
        drop(given_up);
        drop(closed);
        runtime.spawn(async move {
            sleep(GIVEN_UP_TIME).await;
            drop(closes);
        });
    }

    fn tell_drivers(&self) {
        for mailbox in self.mailboxes.iter() {
            mailbox.note_given_up();
        }
    }

    /// Makes the transport report a failed socket, if a listener uses it.
    fn report(&self, socket: &Arc<SocketGroup>, error: io::Error) {
        if !crate::proto::SocketHandle::is_listening(socket) {
            return;
        }
        let mut failed = lock(&self.failed);
        if failed.len() < MAX_FAILED {
            failed.push_back((Arc::downgrade(socket), error));
        }
        drop(failed);
        self.incoming.wake();
    }

    /// Binds the address of a failed socket again.
    fn repair(&self, runtime: &Runtime, socket: &Arc<SocketGroup>) -> io::Result<()> {
        let ios = self.bind(runtime, socket.local_addr())?;
        socket.reopen(ios.clone());
        self.rebound.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(reason = "failed", addr = %socket.local_addr(), "bound a socket again");
        // This fails only if all drivers have stopped, and then no connection needs what arrives.
        let _ = self.read(socket, &ios);
        Ok(())
    }
}

/// Closes a socket that was kept open for a while. It does so on drop, so also if the runtime shuts
/// down earlier.
struct ClosesOnDrop {
    sockets: Weak<Sockets>,
    socket: Weak<SocketGroup>,
}

impl Drop for ClosesOnDrop {
    fn drop(&mut self) {
        let (Some(sockets), Some(socket)) = (self.sockets.upgrade(), self.socket.upgrade()) else {
            return;
        };
        lock(&sockets.given_up).retain(|given_up| !Arc::ptr_eq(given_up, &socket));
    }
}

/// Binds the address of a failed socket again as soon as possible, unless nobody uses the socket
/// any more.
async fn bind_again(sockets: Weak<Sockets>, socket: Weak<SocketGroup>, runtime: Runtime) {
    sleep(FIRST_ATTEMPT).await;
    loop {
        {
            let (Some(sockets), Some(socket)) = (sockets.upgrade(), socket.upgrade()) else {
                return;
            };
            match sockets.repair(&runtime, &socket) {
                Ok(()) => break,
                Err(error) => {
                    tracing::debug!(%error, addr = %socket.local_addr(), "could not bind again");
                }
            }
        }
        sleep(NEXT_ATTEMPT).await;
    }
    // Errors until then are ignored: they concern the old socket, or they will occur again.
    sleep(NEXT_ATTEMPT).await;
    if let Some(socket) = socket.upgrade() {
        socket.end_repair();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test panics where it fails")]
mod tests {
    use tokio::time::advance;
    use tracing::{Level, level_filters::LevelFilter};

    use super::{
        super::fixture::{open, sockets},
        *,
    };
    use crate::{proto::SocketHandle as _, trace::collected::Traced};

    const MOMENT: Duration = Duration::from_millis(5);

    #[tokio::test]
    async fn max_failed_sockets_wait_to_be_reported_and_only_those_of_listeners() {
        let sockets = sockets();
        let [listener, dialler] = [true, false].map(|listening| open(&sockets, listening));
        let report = |socket| sockets.report(socket, io::ErrorKind::BrokenPipe.into());
        report(&dialler);
        assert!(sockets.take_failed().is_empty());
        (0..=MAX_FAILED).for_each(|_| report(&listener));
        assert_eq!(sockets.take_failed().len(), MAX_FAILED);
        report(&listener);
        assert_eq!(sockets.take_failed().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn max_given_up_sockets_stay_open_for_a_second() {
        let runtime = Runtime::current().unwrap();
        let sockets = sockets();
        for _ in 0..=MAX_GIVEN_UP {
            sockets.read_for_a_while(&runtime, open(&sockets, false));
        }
        assert_eq!(sockets.open(), MAX_GIVEN_UP);
        sleep(GIVEN_UP_TIME - MOMENT).await;
        assert_eq!(sockets.open(), MAX_GIVEN_UP);
        sleep(2 * MOMENT).await;
        assert_eq!(sockets.open(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn socket_that_fails_again_within_a_second_is_not_replaced_again() {
        let runtime = Runtime::current().unwrap();
        let sockets = sockets();
        let open = |_| Ok::<_, io::Error>(open(&sockets, false));
        let first = (sockets.to_dial_from([127, 0, 0, 1].into(), false, open)).unwrap();
        sockets.replace(&runtime, &first).unwrap();
        let second = first.successor().unwrap();
        for (wait, replaced) in [(Duration::ZERO, 1), (NEXT_ATTEMPT - MOMENT, 1), (MOMENT, 2)] {
            advance(wait).await;
            sockets.replace(&runtime, &second).unwrap();
            assert_eq!(sockets.rebound(), replaced, "{wait:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn address_that_is_taken_is_bound_again_later_and_each_attempt_is_traced() {
        let traced = Traced::up_to(LevelFilter::DEBUG);
        let runtime = Runtime::current().unwrap();
        let sockets = sockets();
        let socket = open(&sockets, true);
        let addr = socket.local_addr();
        assert!(socket.begin_repair());
        // The driver, which does not run, would close the failed socket.
        let (all, group) = (Arc::downgrade(&sockets), Arc::downgrade(&socket));
        let repair = tokio::spawn(bind_again(all, group, runtime));
        sleep(2 * NEXT_ATTEMPT + MOMENT).await;
        let failed = traced.events("could not bind again");
        assert!(!failed.is_empty());
        for event in failed {
            assert_eq!(event.field("addr"), addr.to_string());
            assert!(!event.field("error").is_empty());
        }
        assert!(traced.events("bound a socket again").is_empty());

        drop(sockets.mailboxes[0].take());
        repair.await.unwrap();
        let bound = traced.events("bound a socket again");
        assert_eq!(bound.len(), 1);
        assert_eq!(bound[0].field("reason"), "failed");
        assert_eq!(bound[0].field("addr"), addr.to_string());
    }

    #[tokio::test]
    async fn failure_of_a_socket_that_cannot_be_replaced_is_traced_too() {
        let traced = Traced::up_to(LevelFilter::DEBUG);
        let runtime = Runtime::current().unwrap();
        let sockets = sockets();
        sockets.run_on(&runtime);
        let open = |_| Ok::<_, io::Error>(open(&sockets, false));
        let socket = (sockets.to_dial_from([127, 0, 0, 1].into(), false, open)).unwrap();
        // Nobody would read another one.
        drop(sockets.mailboxes[0].stop());
        sockets.replace_failed(&socket, io::ErrorKind::BrokenPipe.into());
        let failed = traced.events("a socket has failed");
        assert_eq!(failed.len(), 1);
        assert_eq!(failed[0].level, Level::WARN);
        assert_eq!(failed[0].field("addr"), socket.local_addr().to_string());
        assert!(!failed[0].field("error").is_empty());
        let not_replaced = traced.events("could not open another socket");
        assert_eq!(not_replaced.len(), 1);
        assert!(!not_replaced[0].field("error").is_empty());
    }
}
