//! Passes answers of STUN servers from the drivers to the client.

use std::{
    net::SocketAddr,
    sync::{Arc, Weak},
    task::Waker,
    time::Instant,
};

use super::{socket_group::SocketGroup, wakers};
use crate::{
    net::clock,
    proto::StunClient,
    stats::{Stats, StunStats},
    sync::{Mutex, MutexGuard, lock},
};

/// Passes datagrams that may be STUN answers to the client that sent the requests.
///
/// The driver that received a datagram has it checked at once. Nothing is queued, so forged answers
/// cannot crowd out a real one.
#[derive(Default)]
pub(crate) struct StunDispatcher(Mutex<Inside>);

#[derive(Default)]
struct Inside {
    registration: Weak<StunRegistration>,
    totals: StunStats,
}

/// A STUN client, and the task to wake when it has got an answer.
pub(crate) struct StunRegistration(Mutex<RegisteredClient>);

pub(crate) struct RegisteredClient {
    pub(crate) client: StunClient,
    pub(crate) waker: Option<Waker>,
}

impl StunDispatcher {
    /// Registers a client until the result is dropped. An earlier client receives nothing more.
    pub(crate) fn register(&self, client: StunClient) -> Arc<StunRegistration> {
        let registration = Arc::new(StunRegistration(Mutex::new(RegisteredClient {
            client,
            waker: None,
        })));
        self.lock().registration = Arc::downgrade(&registration);
        registration
    }

    pub(super) fn receive(
        &self,
        now: Instant,
        socket: &Arc<SocketGroup>,
        remote_addr: SocketAddr,
        datagram: &[u8],
    ) {
        let local_addr = socket.local_addr();
        self.tell(|client| client.handle(now, local_addr, remote_addr, datagram));
    }

    /// Handles an ICMP error about a datagram that was not delivered and begins with `quoted`.
    pub(super) fn unreachable(
        &self,
        socket: &Arc<SocketGroup>,
        remote_addr: SocketAddr,
        quoted: &[u8],
    ) {
        let local_addr = socket.local_addr();
        self.tell(|client| client.unreachable(clock::now(), local_addr, remote_addr, quoted));
    }

    /// Adds the counts of a client.
    pub(crate) fn post(&self, stats: StunStats) {
        self.lock().totals += stats;
    }

    /// Adds its counts to the statistics of the transport.
    pub(super) fn report(&self, stats: &mut Stats) {
        stats.stun = self.lock().totals;
    }

    pub(super) fn reset_stats(&self) {
        self.lock().totals = StunStats::default();
    }

    /// Passes an event to the client, and wakes its task if that has changed anything.
    fn tell(&self, event: impl FnOnce(&mut StunClient) -> bool) {
        let registration = self.lock().registration.upgrade();
        let Some(registration) = registration else {
            return;
        };
        let mut registered = registration.lock();
        let waker = if event(&mut registered.client) {
            registered.waker.take()
        } else {
            None
        };
        let stats = registered.client.take_stats();
        drop(registered);
        self.post(stats);
        wakers::wake(waker);
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        lock(&self.0)
    }
}

impl StunRegistration {
    pub(crate) fn lock(&self) -> MutexGuard<'_, RegisteredClient> {
        lock(&self.0)
    }
}
