//! Where the answers of STUN servers leave the drivers.

use std::{
    net::SocketAddr,
    sync::{Arc, Weak},
    task::Waker,
    time::Instant,
};

use super::{socket::Socket, wakers};
use crate::{
    net::clock,
    proto::StunClient,
    stats::StunStats,
    sync::{Mutex, MutexGuard, lock},
};

/// Leads datagrams that may be answers to whoever has asked.
///
/// Each is judged at once, by the driver that has received it. Nothing is queued; so forgeries, however many, cannot
/// crowd out an answer.
#[derive(Default)]
pub(crate) struct StunDoor(Mutex<Inside>);

#[derive(Default)]
struct Inside {
    guest: Weak<StunGuest>,
    totals: StunStats,
}

/// Whoever asks: a client, and the task to wake when it has been answered.
pub(crate) struct StunGuest(Mutex<Asking>);

pub(crate) struct Asking {
    pub(crate) client: StunClient,
    pub(crate) waker: Option<Waker>,
}

impl StunDoor {
    /// Lets a client in, for as long as the result lives. The one before it, if any, hears nothing more.
    pub(crate) fn admit(&self, client: StunClient) -> Arc<StunGuest> {
        let guest = Arc::new(StunGuest(Mutex::new(Asking {
            client,
            waker: None,
        })));
        self.lock().guest = Arc::downgrade(&guest);
        guest
    }

    pub(super) fn receive(
        &self,
        now: Instant,
        socket: &Arc<Socket>,
        remote_addr: SocketAddr,
        datagram: &[u8],
    ) {
        let local_addr = socket.local_addr();
        self.tell(|client| client.handle(now, local_addr, remote_addr, datagram));
    }

    /// ICMP says that a datagram was received by nobody; this is its beginning.
    pub(super) fn unreachable(&self, socket: &Arc<Socket>, remote_addr: SocketAddr, quoted: &[u8]) {
        let local_addr = socket.local_addr();
        self.tell(|client| client.unreachable(clock::now(), local_addr, remote_addr, quoted));
    }

    /// Adds what a client has counted.
    pub(crate) fn post(&self, stats: StunStats) {
        self.lock().totals += stats;
    }

    pub(super) fn stats(&self) -> StunStats {
        self.lock().totals
    }

    pub(super) fn reset_stats(&self) {
        self.lock().totals = StunStats::default();
    }

    /// Wakes the guest if this has changed anything.
    fn tell(&self, event: impl FnOnce(&mut StunClient) -> bool) {
        let guest = self.lock().guest.upgrade();
        let Some(guest) = guest else {
            return;
        };
        let mut asking = guest.lock();
        let waker = if event(&mut asking.client) {
            asking.waker.take()
        } else {
            None
        };
        let stats = asking.client.take_stats();
        drop(asking);
        self.post(stats);
        wakers::wake(waker);
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        lock(&self.0)
    }
}

impl StunGuest {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Asking> {
        lock(&self.0)
    }
}
