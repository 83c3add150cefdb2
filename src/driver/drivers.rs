//! The drivers of one transport: what they share with it and with its handles, and when they stop.

mod dialling;
mod starting;
mod statistics;
#[cfg(feature = "nat")]
mod stun_client;

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use quinn_proto::{ConnectionHandle, VarInt};

pub(crate) use self::dialling::DialFrom;
use self::statistics::Listening;
use super::{
    connection::DrivenConnection,
    idle::Idle,
    incoming::{IncomingConnection, IncomingQueue},
    mailbox::{CloseAll, Mailbox},
    silent_hosts::SilentHosts,
    socket_group::SocketGroup,
    sockets::{Former, Sockets},
    stun::StunDispatcher,
};
use crate::{
    authenticator::GenerateError,
    config::Config,
    error::{DialError, RebindError},
    net::{clock, task::Runtime},
    proto::{Bandwidth, Budget, Established, Registry, ShardCount},
    sync::{self, AtomicWaker, Mutex},
};

/// The drivers of one transport: their mailboxes, sockets and statistics.
pub(crate) struct Drivers {
    config: Config,
    budget: Budget,
    shards: ShardCount,
    mailboxes: Arc<[Arc<Mailbox>]>,
    registries: Vec<Arc<Mutex<Registry>>>,
    incoming: Arc<IncomingQueue>,
    idle: Arc<Idle>,
    is_shut_down: AtomicBool,
    listeners: Mutex<Vec<Listening>>,
    stun: Arc<StunDispatcher>,
    sockets: Arc<Sockets>,
    /// Whether drivers were started and have not been given up for new ones.
    has_drivers: Mutex<bool>,
    next_shard: AtomicUsize,
    silent_hosts: SilentHosts,
}

/// The reason why a socket could not be opened.
#[derive(Debug)]
pub(crate) enum OpenError {
    Bind(io::Error),
    Certificate(Arc<GenerateError>),
    DriverStopped,
}

/// Attempts to bind an address while drivers, which run on other threads, close the socket that
/// listened there. One takes some microseconds, and a driver closes it in its next round.
const CLOSING_ATTEMPTS: usize = 1000;

/// Keeps the drivers running even if they have no connections. Dropping it tells them to stop once
/// they have none.
pub(crate) struct UseGuard(Arc<Drivers>);

impl UseGuard {
    pub(crate) fn new(config: Config) -> Self {
        Self(Arc::new(Drivers::new(config)))
    }

    pub(crate) fn drivers(&self) -> &Arc<Drivers> {
        &self.0
    }
}

impl Drop for UseGuard {
    fn drop(&mut self) {
        self.0.incoming.clear();
        for mailbox in self.0.mailboxes.iter() {
            mailbox.allow_stop();
        }
    }
}

/// The longest time that the drop of a transport waits for drivers on other threads to tell peers
/// which connections were closed before. If nothing else is under way, it takes them 0.2 to 0.4 ms,
/// and a round trip more if data has to be acknowledged first.
///
/// The thread may be about to end the process, and need not wait for the runtime to end.
const FLUSH_TIME: Duration = Duration::from_millis(100);

impl Drivers {
    fn new(config: Config) -> Self {
        let config = config.counting_for_itself();
        let shards = config.shards();
        let mailboxes: Arc<[_]> = shards.iter().map(|_| Arc::default()).collect();
        let incoming = Arc::new(IncomingQueue::new(config.max_pending_incoming()));
        Self {
            budget: config.budget(),
            shards,
            sockets: Arc::new(Sockets::new(
                config.socket_buffers(),
                Arc::clone(&mailboxes),
                Arc::clone(&incoming),
            )),
            mailboxes,
            registries: shards.iter().map(|_| Arc::default()).collect(),
            incoming,
            idle: Arc::default(),
            is_shut_down: AtomicBool::new(false),
            listeners: Mutex::default(),
            stun: Arc::default(),
            has_drivers: Mutex::default(),
            next_shard: AtomicUsize::new(0),
            silent_hosts: SilentHosts::default(),
            config,
        }
    }

    /// Waits a moment until the drivers have told the peers which connections are closed, if they
    /// can while this thread is blocked. Refuses incoming connections before.
    pub(crate) fn flush(&self) {
        self.incoming.clear();
        let runtime = self.sockets.runtime();
        if !runtime.is_some_and(|runtime| runtime.runs_beside_this_thread()) {
            return;
        }
        let until = clock::now() + FLUSH_TIME;
        let asked: Vec<_> = self
            .mailboxes
            .iter()
            .map(|mailbox| mailbox.ask_for_flush())
            .collect();
        for (mailbox, flush) in self.mailboxes.iter().zip(asked) {
            if !mailbox.flushes().wait(flush, until) {
                tracing::debug!("the transport is dropped before all peers are told of the end");
                break;
            }
        }
    }

    /// Opens a socket to listen on. If a socket at this address has listened before and connections
    /// still use it, that one listens again.
    pub(crate) fn listen(
        &self,
        runtime: &Runtime,
        addr: SocketAddr,
    ) -> Result<Arc<SocketGroup>, OpenError> {
        self.replace_gone_drivers();
        let mut attempts = match self.sockets.listen_again(addr) {
            Former::Open(socket) => return Ok(socket),
            Former::Closing => CLOSING_ATTEMPTS,
            Former::None => 1,
        };
        loop {
            attempts -= 1;
            match self.open_socket(runtime, addr, true) {
                Err(OpenError::Bind(error))
                    if error.kind() == io::ErrorKind::AddrInUse && attempts > 0 =>
                {
                    std::thread::yield_now();
                }
                opened => return opened,
            }
        }
    }

    /// Whether the current drivers may read this socket; earlier drivers may have opened it.
    pub(crate) fn may_be_read(&self, socket: &SocketGroup) -> bool {
        self.sockets.is_current(socket)
    }

    /// Whether drivers were started and all of them have stopped.
    pub(crate) fn have_stopped(&self) -> bool {
        self.sockets.have_stopped()
    }

    /// Closes all connections, and lets no new one begin.
    pub(crate) fn shut_down(&self, code: VarInt, reason: Bytes) {
        self.is_shut_down.store(true, Ordering::Relaxed);
        let listening: Vec<_> = sync::lock(&self.listeners)
            .iter()
            .filter_map(|listening| listening.socket.upgrade())
            .collect();
        for socket in listening {
            self.stop_listening(&socket);
        }
        self.close_connections(code, reason, false);
        // Woken, the transport reports that its listeners are closed.
        self.incoming.wake();
    }

    /// Closes the connections that are left after [`shut_down`](Self::shut_down) at once.
    pub(crate) fn close_at_once(&self) {
        self.close_connections(VarInt::from_u32(0), Bytes::new(), true);
    }

    pub(crate) fn is_shut_down(&self) -> bool {
        self.is_shut_down.load(Ordering::Relaxed)
    }

    /// Ready when there is no connection. Each future that waits has a waker of its own, which is
    /// forgotten with it.
    pub(crate) fn poll_idle(&self, cx: &Context<'_>, waker: &Arc<AtomicWaker>) -> Poll<()> {
        // Registered before checking, so that no change is missed in between.
        self.idle.register(cx, waker);
        let mut registries = self.registries.iter();
        if registries.any(|registry| sync::lock(registry).has_connections()) {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }

    fn close_connections(&self, code: VarInt, reason: Bytes, at_once: bool) {
        for mailbox in self.mailboxes.iter() {
            mailbox.close_connections(CloseAll {
                code,
                reason: reason.clone(),
                at_once,
            });
        }
    }

    /// The number of drivers that have stopped, and the number of all. The transport is woken when
    /// that changes.
    pub(crate) fn stopped(&self, cx: &Context<'_>) -> (usize, usize) {
        // Registered before checking, so that no change is missed in between.
        self.incoming.register(cx.waker());
        let stopped = self
            .mailboxes
            .iter()
            .filter(|mailbox| mailbox.has_stopped());
        (stopped.count(), self.mailboxes.len())
    }

    pub(crate) fn poll_incoming(&self, cx: &mut Context<'_>) -> Poll<IncomingConnection> {
        self.incoming.poll(cx)
    }

    /// Stops accepting connections at this socket, and refuses those that the application has not
    /// answered.
    pub(crate) fn stop_listening(&self, socket: &Arc<SocketGroup>) {
        socket.stop_listening();
        self.sockets.note_former_listener(socket);
        self.incoming.refuse_from(socket);
    }

    pub(crate) fn bandwidth(&self) -> &Bandwidth {
        self.config.bandwidth()
    }

    /// Moves the connections that were dialled from sockets without a listener to new sockets.
    pub(crate) fn rebind(&self) -> Result<(), RebindError> {
        self.sockets.rebind()
    }

    /// Sockets of listeners that have failed since the last call. The transport is woken when there
    /// are any.
    pub(crate) fn take_failed(&self) -> VecDeque<(Weak<SocketGroup>, io::Error)> {
        self.sockets.take_failed()
    }

    /// The wanted ones of the connections that have not ended and whose peer is authenticated, each
    /// with its shard. It locks none of them.
    pub(crate) fn established(
        &self,
        is_wanted: impl Fn(&Established) -> bool,
    ) -> Vec<(usize, Established)> {
        let mut all = Vec::new();
        for (shard, registry) in self.registries.iter().enumerate() {
            let registry = sync::lock(registry);
            let wanted = registry.established().filter(&is_wanted);
            all.extend(wanted.map(|found| (shard, found)));
        }
        all
    }

    /// The connection of this shard with this handle and number, unless it has ended.
    pub(crate) fn find(
        &self,
        shard: usize,
        handle: ConnectionHandle,
        number: u64,
    ) -> Option<DrivenConnection> {
        let connection = sync::lock(&self.registries[shard]).find(handle, number)?;
        let doorbell = Arc::clone(self.mailboxes[shard].doorbell());
        Some(DrivenConnection::new(connection, handle, doorbell))
    }

    /// The mailbox of shard `shard` modulo the number of shards, or of the next shard that has a
    /// running driver.
    pub(super) fn mailbox(&self, shard: usize) -> Result<&Mailbox, DialError> {
        (0..self.mailboxes.len())
            .map(|step| &*self.mailboxes[(shard + step) % self.mailboxes.len()])
            .find(|mailbox| !mailbox.has_stopped())
            .ok_or(DialError::DriverStopped)
    }
}
