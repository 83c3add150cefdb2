//! A driver with one connection, in paused time.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, LazyLock},
    time::Duration,
};

use bytes::BytesMut;
use libp2p_identity::Keypair;
use tokio::runtime;

use crate::{
    config::Config,
    driver::{
        connection::DrivenConnection,
        incoming::IncomingQueue,
        mailbox::Mailbox,
        socket_group::SocketGroup,
        sockets::Sockets,
        task::{Driver, ReceiveSettings, Shared},
    },
    net::{BufferSizes, UdpSocket, clock, task::Runtime},
    proto::{Datagram, DialDeadlines, Registry, Route, Shard, ShardCount, ShardSeed, route},
    sync::Mutex,
};

/// A driver that does not run yet, and its surroundings.
pub(super) struct World {
    pub(super) driver: Driver,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) incoming: Arc<IncomingQueue>,
    pub(super) socket: Arc<SocketGroup>,
    #[cfg_attr(loom, expect(dead_code, reason = "for those who count"))]
    pub(super) registry: Arc<Mutex<Registry>>,
    /// A dial to an address that does not answer.
    pub(super) connection: DrivenConnection,
}

/// How long the connection of [`World`] has been dialling.
#[derive(Clone, Copy)]
pub(super) enum Dialling {
    JustBegun,
    #[cfg_attr(not(loom), expect(dead_code, reason = "for the models"))]
    TooLong,
}

impl World {
    pub(super) fn new(runtime: &runtime::Runtime, dialling: Dialling) -> Self {
        let _context = runtime.enter();
        let mailbox: Arc<Mailbox> = Arc::default();
        let mailboxes: Arc<[_]> = Arc::new([Arc::clone(&mailbox)]);
        let incoming = Arc::new(IncomingQueue::new(1));
        let sockets = Arc::new(Sockets::new(
            BUFFERS,
            Arc::clone(&mailboxes),
            Arc::clone(&incoming),
        ));
        let socket = socket(runtime, &mailbox);
        let registry: Arc<Mutex<Registry>> = Arc::default();
        let mut shard = shard(Arc::clone(&registry));
        let now = match dialling {
            Dialling::JustBegun => clock::now(),
            Dialling::TooLong => clock::now() - Duration::from_secs(60),
        };
        let deadlines = DialDeadlines {
            handshake: now + CONFIG.handshake_timeout(),
            silent: None,
        };
        let (handle, connection) = shard
            .connect(
                now,
                deadlines,
                CONFIG.client(None, None).unwrap(),
                None,
                nobody(),
                Arc::clone(&socket),
            )
            .unwrap();
        let doorbell = Arc::clone(mailbox.doorbell());
        Self {
            driver: Driver::new(
                shard,
                Shared {
                    shards: ShardCount::ONE,
                    mailboxes,
                    incoming: Arc::clone(&incoming),
                    stun: Arc::default(),
                    sockets,
                    idle: Arc::default(),
                },
                ReceiveSettings {
                    max_datagram_bytes: MAX_DATAGRAM_BYTES,
                    measure_routing: false,
                },
            ),
            connection: DrivenConnection::new(connection, handle, doorbell),
            mailbox,
            incoming,
            registry,
            socket,
        }
    }
}

fn shard(registry: Arc<Mutex<Registry>>) -> Shard<Arc<SocketGroup>> {
    const SEED: [u8; 32] = [7; 32];
    Shard::new(
        ShardCount::ONE.of(0),
        ShardCount::ONE,
        CONFIG.settings(true, 208 * 1024, SEED, SEED).unwrap(),
        ShardSeed {
            connection_ids: SEED,
            endpoint: SEED,
            initial_ids: SEED,
        },
        registry,
        CONFIG.budget(),
    )
}

/// A listening socket that accepts all sends.
fn socket(runtime: &runtime::Runtime, mailbox: &Mailbox) -> Arc<SocketGroup> {
    let context = Runtime::current().unwrap();
    let io = UdpSocket::bind(&context, (Ipv4Addr::LOCALHOST, 0).into(), BUFFERS).unwrap();
    let io = Arc::new(io);
    let socket = SocketGroup::new(
        vec![Arc::clone(&io)],
        true,
        0,
        vec![Arc::clone(mailbox.doorbell())],
        Arc::default(),
    );
    runtime.block_on(io.writable());
    Arc::new(socket)
}

/// The first packet of a connection, as another shard forwards it.
pub(super) fn first_packet(
    socket: Arc<SocketGroup>,
    contents: &[u8],
) -> Datagram<Arc<SocketGroup>> {
    let contents = BytesMut::from(contents);
    let Route::Quic { shard, header } = route(&contents, ShardCount::ONE) else {
        panic!("not QUIC");
    };
    Datagram {
        socket,
        shard,
        header,
        remote_addr: nobody(),
        local_ip: None,
        ecn: None,
        held: contents.len(),
        contents,
    }
}

const BUFFERS: BufferSizes = BufferSizes {
    receive: 64 * 1024,
    send: 64 * 1024,
};

const MAX_DATAGRAM_BYTES: usize = 1472;

/// An address that does not answer.
pub(super) fn nobody() -> SocketAddr {
    NOBODY.local_addr().unwrap()
}

pub(super) static CONFIG: LazyLock<Config> =
    LazyLock::new(|| Config::new(&Keypair::generate_ed25519()));

static NOBODY: LazyLock<std::net::UdpSocket> =
    LazyLock::new(|| std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());

/// A runtime with paused time. I/O and timers become ready only while it runs.
pub(super) fn runtime() -> runtime::Runtime {
    runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap()
}

/// Dials, and returns the first packet.
pub(super) fn first_packet_of_a_dial() -> Vec<u8> {
    let mut endpoint = quinn_proto::Endpoint::new(Arc::default(), None, false, None);
    let config = CONFIG.client(None, None).unwrap();
    let (_, mut connection) = endpoint
        .connect(clock::now(), config, nobody(), "libp2p")
        .unwrap();
    let mut packet = Vec::new();
    let sent = connection.poll_transmit(clock::now(), 1, &mut packet);
    assert!(sent.is_some());
    packet
}
