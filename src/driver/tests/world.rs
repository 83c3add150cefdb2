//! A driver with one connection, in a world where time stands still.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, LazyLock},
    time::Duration,
};

use libp2p_identity::Keypair;
use tokio::runtime;

use crate::{
    config::Config,
    driver::{
        connection::DrivenConnection,
        incoming::IncomingQueue,
        mailbox::Mailbox,
        socket::Socket,
        sockets::Sockets,
        task::{Driver, ReceiveSettings},
    },
    net::{BufferSizes, UdpSocket, clock, task::Runtime},
    proto::{Shard, ShardSeed, Shards},
};

/// A driver that does not run yet, and those it serves.
pub(super) struct World {
    pub(super) driver: Driver,
    pub(super) mailbox: Arc<Mailbox>,
    #[cfg_attr(not(loom), expect(dead_code, reason = "for the models"))]
    pub(super) incoming: Arc<IncomingQueue>,
    pub(super) socket: Arc<Socket>,
    /// To somebody who does not answer.
    pub(super) connection: DrivenConnection,
}

/// How long a connection of [`World`] has been dialling already.
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
        let mut shard = shard();
        let now = match dialling {
            Dialling::JustBegun => clock::now(),
            Dialling::TooLong => clock::now() - Duration::from_secs(60),
        };
        let (handle, connection) = shard
            .connect(
                now,
                CONFIG.client(None, None).unwrap(),
                nobody(),
                Arc::clone(&socket),
            )
            .unwrap();
        let doorbell = Arc::clone(mailbox.doorbell());
        Self {
            driver: Driver::new(
                shard,
                Shards::ONE,
                mailboxes,
                Arc::clone(&incoming),
                #[cfg(feature = "nat")]
                Arc::default(),
                sockets,
                ReceiveSettings {
                    max_datagram_bytes: MAX_DATAGRAM_BYTES,
                    measure_routing: false,
                },
            ),
            connection: DrivenConnection::new(connection, handle, doorbell),
            mailbox,
            incoming,
            socket,
        }
    }
}

fn shard() -> Shard<Arc<Socket>> {
    const SEED: [u8; 32] = [7; 32];
    Shard::new(
        Shards::ONE.of(0),
        Shards::ONE,
        CONFIG.settings(true, 208 * 1024, SEED).unwrap(),
        ShardSeed {
            connection_ids: SEED,
            endpoint: SEED,
            initial_ids: SEED,
        },
        Arc::default(),
        CONFIG.budget(),
    )
}

/// A listening socket that takes what is sent.
fn socket(runtime: &runtime::Runtime, mailbox: &Mailbox) -> Arc<Socket> {
    let context = Runtime::current().unwrap();
    let io = UdpSocket::bind(&context, (Ipv4Addr::LOCALHOST, 0).into(), BUFFERS).unwrap();
    let io = Arc::new(io);
    let socket = Socket::new(
        vec![Arc::clone(&io)],
        true,
        vec![Arc::clone(mailbox.doorbell())],
        Arc::default(),
    );
    runtime.block_on(io.writable());
    Arc::new(socket)
}

const BUFFERS: BufferSizes = BufferSizes {
    receive: 64 * 1024,
    send: 64 * 1024,
};

const MAX_DATAGRAM_BYTES: usize = 1472;

/// Where nobody answers.
pub(super) fn nobody() -> SocketAddr {
    NOBODY.local_addr().unwrap()
}

pub(super) static CONFIG: LazyLock<Config> =
    LazyLock::new(|| Config::new(&Keypair::generate_ed25519()));

static NOBODY: LazyLock<std::net::UdpSocket> =
    LazyLock::new(|| std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());

/// Where time stands still. I/O and timers become ready only while somebody runs it.
pub(super) fn runtime() -> runtime::Runtime {
    runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap()
}
