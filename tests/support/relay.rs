//! A router between one client and its servers, which tests can make misbehave.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::{net::UdpSocket, sync::Notify, task::JoinHandle};

/// Forwards the datagrams of one client to its servers in turn, and their answers back.
pub(crate) struct Relay {
    addr: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

/// A connection ID, as everyone on the path can see it.
pub(crate) type ConnectionId = [u8; 8];

struct State {
    /// The socket that the client sees.
    inside: UdpSocket,
    client: Mutex<Option<SocketAddr>>,
    to_servers: Mutex<BTreeSet<ConnectionId>>,
    to_client: Mutex<BTreeSet<ConnectionId>>,
    /// The socket that servers see.
    outside: Mutex<Arc<UdpSocket>>,
    rebound: Notify,
    cut: AtomicBool,
    carried: AtomicU64,
}

impl Relay {
    pub(crate) async fn to(servers: &[SocketAddr]) -> Self {
        let inside = bind().await;
        let addr = inside.local_addr().unwrap();
        let state = Arc::new(State {
            inside,
            client: Mutex::default(),
            to_servers: Mutex::default(),
            to_client: Mutex::default(),
            outside: Mutex::new(Arc::new(bind().await)),
            rebound: Notify::new(),
            cut: AtomicBool::new(false),
            carried: AtomicU64::new(0),
        });
        let task = tokio::spawn(carry(servers.to_vec(), Arc::clone(&state)));
        Self { addr, state, task }
    }

    /// The address to which the client sends.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The client's address as servers see it.
    pub(crate) fn outside_addr(&self) -> SocketAddr {
        self.state.outside().local_addr().unwrap()
    }

    /// Continues from another port, like a NAT that has forgotten the mapping.
    pub(crate) async fn rebind(&self) {
        let outside = Arc::new(bind().await);
        *self.state.outside.lock().unwrap() = outside;
        self.state.rebound.notify_one();
    }

    /// Drops every datagram from now on.
    pub(crate) fn cut(&self) {
        self.state.cut.store(true, Ordering::Relaxed);
    }

    /// Destination IDs of the client's packets with short headers.
    pub(crate) fn ids_of_servers(&self) -> BTreeSet<ConnectionId> {
        self.state.to_servers.lock().unwrap().clone()
    }

    /// Destination IDs of such packets to the client.
    pub(crate) fn ids_of_client(&self) -> BTreeSet<ConnectionId> {
        self.state.to_client.lock().unwrap().clone()
    }

    /// Sends a forged datagram to the client, from the server's address.
    pub(crate) async fn forge_to_client(&self, datagram: &[u8]) {
        let client = self.state.client.lock().unwrap().expect("a client");
        self.state.inside.send_to(datagram, client).await.unwrap();
    }

    /// Sends a forged datagram to a server, from the client's address.
    pub(crate) async fn forge_to(&self, server: SocketAddr, datagram: &[u8]) {
        let outside = self.state.outside();
        outside.send_to(datagram, server).await.unwrap();
    }

    /// The number of the client's datagrams so far.
    pub(crate) fn carried(&self) -> u64 {
        self.state.carried.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl State {
    fn outside(&self) -> Arc<UdpSocket> {
        Arc::clone(&self.outside.lock().unwrap())
    }
}

async fn bind() -> UdpSocket {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap()
}

/// The ID in a packet with a short header (RFC 9000 §17.3.1).
fn short_header_id(datagram: &[u8]) -> Option<ConnectionId> {
    let (first, rest) = datagram.split_first()?;
    (first & 0x80 == 0).then(|| rest.first_chunk().copied())?
}

/// Datagrams that cannot be sent or received are lost, as on any network.
async fn carry(servers: Vec<SocketAddr>, state: Arc<State>) {
    let inside = &state.inside;
    let mut servers = servers.iter().cycle();
    let (mut there, mut back) = (vec![0; 65_536], vec![0; 65_536]);
    loop {
        let outside = state.outside();
        tokio::select! {
            received = inside.recv_from(&mut there) => {
                let Ok((length, from)) = received else { continue };
                *state.client.lock().unwrap() = Some(from);
                state.to_servers.lock().unwrap().extend(short_header_id(&there[..length]));
                state.carried.fetch_add(1, Ordering::Relaxed);
                if let Some(server) = servers.next()
                    && !state.cut.load(Ordering::Relaxed)
                {
                    let _ = state.outside().send_to(&there[..length], *server).await;
                }
            }
            received = outside.recv_from(&mut back) => {
                let Ok((length, _)) = received else { continue };
                state.to_client.lock().unwrap().extend(short_header_id(&back[..length]));
                let client = *state.client.lock().unwrap();
                if let Some(client) = client
                    && !state.cut.load(Ordering::Relaxed)
                {
                    let _ = inside.send_to(&back[..length], client).await;
                }
            }
            () = state.rebound.notified() => {}
        }
    }
}
