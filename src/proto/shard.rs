//! One shard: a quinn-proto endpoint, its connections, and the order of their turns.

mod after_turn;
mod dialling;
mod incoming;
mod routing;
mod settings;
mod slots;
mod turns;

#[cfg(test)]
pub(super) use self::turns::READY_BESIDE_TIMERS;

use std::{
    mem,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use quinn_proto::{ConnectionHandle, Endpoint, ServerConfig, Transmit};
use rand::{RngExt, SeedableRng, rngs::StdRng};

pub(crate) use self::{
    dialling::{DialDeadlines, MAX_UNMATCHED},
    settings::{Beginning, MakeSingleConfig, Settings, ShardSeed},
};
use self::{
    settings::MakeTransportConfig,
    slots::{InitialState, slot_of},
};
use super::{
    bandwidth::Bandwidth,
    budget::Budget,
    closing::ClosingConnections,
    connection::{StreamLimits, lock_connection},
    connection_id::{
        IdQuota, IssuedIds, ResetPermit, ShardConnectionIdGenerator, ShardCount, ShardId,
    },
    datagram::SocketHandle,
    datagram::datagrams,
    deadlines::Deadlines,
    handshake_bytes::AllHandshakeBytes,
    hole_punch::Punches,
    inbox::InboxBytes,
    linger::LingeringConnections,
    path_doubts::DoubtfulHosts,
    per_interface::PerInterface,
    reception::Reception,
    registry::{self, Registry, Totals},
    reset_limits::ResetLimits,
    slot::Slot,
    turn::Offload,
    turn_queue::TurnQueue,
    unanswered::UnansweredDials,
    untaken::UntakenStreams,
    work::Debtors,
};
use crate::sync::Mutex;

/// One quinn-proto endpoint with its connections.
///
/// Its user passes it datagrams ([`route`](Self::route), or [`handle`](Self::handle) for those
/// that another shard has routed), time ([`prepare_turns`](Self::prepare_turns)) and requests of
/// the application, and then gives turns to connections ([`give_turn`](Self::give_turn)) until
/// none needs one.
pub(crate) struct Shard<S> {
    id: ShardId,
    shards: ShardCount,
    endpoint: Endpoint,
    transport: MakeTransportConfig,
    single: Option<MakeSingleConfig>,
    servers: PerInterface<ServerConfig>,
    handshake_timeout: Duration,
    id_quota: IdQuota,
    idle_timeout: Option<Duration>,
    keep_alive_interval: Option<Duration>,
    linger_timeout: Duration,
    offload: Offload,
    bandwidth: Bandwidth,
    stream_limits: StreamLimits,
    /// Indexed by quinn-proto's connection handles, which are dense.
    slots: Vec<Option<Slot<S>>>,
    /// The number of connections that are not closed.
    connections: usize,
    /// Connections that have ended.
    closing: ClosingConnections<S>,
    lingering: LingeringConnections,
    untaken: UntakenStreams,
    doubtful_hosts: DoubtfulHosts,
    reception: Reception<S>,
    reset_limits: ResetLimits,
    reset_permit: ResetPermit,
    unanswered: UnansweredDials,
    /// Senders of datagrams that belong to no connection of this shard, for the other shards.
    unmatched: Vec<SocketAddr>,
    ready: TurnQueue,
    /// Connections that need a turn as soon as their socket is writable.
    blocked: Vec<ConnectionHandle>,
    /// Connections that wait for their next turn because they are in debt.
    debtors: Debtors,
    deadlines: Deadlines,
    /// Turns for which no timer has been handled yet.
    turns_beside_timers: usize,
    punches: Punches<S>,
    inbox_bytes: InboxBytes,
    handshake_bytes: AllHandshakeBytes,
    issued: IssuedIds,
    rng: StdRng,
    totals: Totals,
    registry: Arc<Mutex<Registry>>,
    budget: Budget,
    buf: Vec<u8>,
}

impl<S: SocketHandle> Shard<S> {
    /// `seed` is the only source of randomness, except in TLS.
    pub(crate) fn new(
        id: ShardId,
        shards: ShardCount,
        settings: Settings,
        seed: ShardSeed,
        registry: Arc<Mutex<Registry>>,
        budget: Budget,
    ) -> Self {
        let issued = IssuedIds::default();
        let reset_permit = ResetPermit::default();
        let mut rng = StdRng::from_seed(seed.initial_ids);
        let mut config = settings.endpoint;
        config
            .cid_generator({
                let (issued, permit) = (issued.clone(), reset_permit.clone());
                move || {
                    let (issued, permit) = (issued.clone(), permit.clone());
                    let ids = seed.connection_ids;
                    let generator = ShardConnectionIdGenerator::new(id, shards, ids, issued);
                    Box::new(generator.with_permit(permit))
                }
            })
            .rng_seed(Some(seed.endpoint));
        Self {
            id,
            shards,
            endpoint: Endpoint::new(
                Arc::new(config),
                Some(Arc::clone(&settings.server)),
                settings.mtu_discovery,
                None,
            ),
            transport: settings.transport,
            single: settings.single,
            servers: PerInterface::default(),
            handshake_timeout: settings.handshake_timeout,
            id_quota: settings.id_quota,
            idle_timeout: settings.idle_timeout,
            keep_alive_interval: settings.keep_alive_interval,
            linger_timeout: settings.linger_timeout,
            offload: settings.offload,
            bandwidth: settings.bandwidth,
            stream_limits: settings.stream_limits,
            slots: Vec::new(),
            connections: 0,
            closing: ClosingConnections::new(),
            lingering: LingeringConnections::default(),
            untaken: UntakenStreams::default(),
            doubtful_hosts: DoubtfulHosts::default(),
            reception: Reception::new(settings.server, settings.admission, settings.pending),
            reset_limits: ResetLimits::new(rng.random()),
            reset_permit,
            unanswered: UnansweredDials::default(),
            unmatched: Vec::new(),
            ready: TurnQueue::default(),
            blocked: Vec::new(),
            debtors: Debtors::default(),
            deadlines: Deadlines::default(),
            turns_beside_timers: 0,
            punches: Punches::default(),
            inbox_bytes: InboxBytes::default(),
            handshake_bytes: AllHandshakeBytes::default(),
            issued,
            rng,
            totals: Totals::default(),
            registry,
            budget,
            buf: Vec::new(),
        }
    }

    pub(crate) fn id(&self) -> ShardId {
        self.id
    }

    /// Totals, which are posted at the end of the round.
    pub(crate) fn totals(&mut self) -> &mut Totals {
        &mut self.totals
    }

    /// Bytes of datagrams that wait for their connections' turns, without those of connections in
    /// debt.
    pub(crate) fn inbox_bytes(&self) -> usize {
        self.inbox_bytes.ready()
    }

    /// Whether a connection needs a turn that is expected to have little to do.
    pub(crate) fn has_light(&self) -> bool {
        self.ready.has_light()
    }

    /// Whether there are connections that are not closed.
    pub(crate) fn has_connections(&self) -> bool {
        self.connections > 0
    }

    /// Whether nothing is left to drive.
    pub(crate) fn is_empty(&self) -> bool {
        self.connections == 0
            && self.closing.is_empty()
            && self.untaken.is_empty()
            && self.reception.waiting() == 0
            && self.punches.is_empty()
    }

    /// The number of connections that need a turn.
    pub(crate) fn ready(&self) -> usize {
        self.ready.len()
    }

    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether no connection has anything to send now, or waits for an acknowledgement, a socket or
    /// the end of its debt before it sends its CONNECTION_CLOSE.
    pub(crate) fn has_sent_all(&self) -> bool {
        self.ready.is_empty()
            && self.blocked.is_empty()
            && self.lingering.is_empty()
            && !self.has_closed_debtors()
    }

    /// Whether a connection is closed, and has its turn when its debt is paid.
    fn has_closed_debtors(&self) -> bool {
        let mut debtors = (self.slots.iter().flatten()).filter(|slot| slot.debt.is_some());
        debtors.any(|slot| lock_connection(&slot.connection).has_to_close())
    }

    /// Whether there are no connection IDs left for another connection.
    fn has_no_ids(&self) -> bool {
        self.connections + self.closing.len() + self.reception.waiting()
            >= self.id_quota.connections
    }

    /// When [`prepare_turns`](Self::prepare_turns) is due.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let timeouts = [
            self.deadlines.first(),
            self.reception.first_deadline(),
            self.punches.next_timeout(),
            self.debtors.first(),
            self.closing.next_timeout(),
            self.untaken.next_timeout(),
        ];
        timeouts.into_iter().flatten().min()
    }

    /// Adds the counts since the last call to the registry.
    pub(crate) fn post_totals(&mut self) {
        let totals = mem::take(&mut self.totals);
        registry::lock(&self.registry).post(&totals);
    }

    fn count_sent(&mut self, transmit: &Transmit) {
        self.totals.transport.bytes_sent += transmit.size as u64;
        self.totals.transport.datagrams_sent += datagrams(transmit);
    }
}
