//! A router between one client and its servers, which the test may make behave badly.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::{net::UdpSocket, sync::Notify, task::JoinHandle};

/// Carries the datagrams of one client to its servers in turn, and their answers back.
pub(crate) struct Relay {
    addr: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

struct State {
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
            outside: Mutex::new(Arc::new(bind().await)),
            rebound: Notify::new(),
            cut: AtomicBool::new(false),
            carried: AtomicU64::new(0),
        });
        let task = tokio::spawn(carry(inside, servers.to_vec(), Arc::clone(&state)));
        Self { addr, state, task }
    }

    /// Where the client has to send to.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What servers see as the client's address.
    pub(crate) fn outside_addr(&self) -> SocketAddr {
        self.state.outside().local_addr().unwrap()
    }

    /// Goes on from another port, as a NAT does that has forgotten the binding.
    pub(crate) async fn rebind(&self) {
        let outside = Arc::new(bind().await);
        *self.state.outside.lock().unwrap() = outside;
        self.state.rebound.notify_one();
    }

    /// Loses every datagram from now on.
    pub(crate) fn cut(&self) {
        self.state.cut.store(true, Ordering::Relaxed);
    }

    /// How many datagrams of the client have come by.
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

/// What cannot be sent or received is lost, as on any network.
async fn carry(inside: UdpSocket, servers: Vec<SocketAddr>, state: Arc<State>) {
    let mut client = None;
    let mut servers = servers.iter().cycle();
    let (mut there, mut back) = (vec![0; 65_536], vec![0; 65_536]);
    loop {
        let outside = state.outside();
        tokio::select! {
            received = inside.recv_from(&mut there) => {
                let Ok((length, from)) = received else { continue };
                client = Some(from);
                state.carried.fetch_add(1, Ordering::Relaxed);
                if let Some(server) = servers.next()
                    && !state.cut.load(Ordering::Relaxed)
                {
                    let _ = state.outside().send_to(&there[..length], *server).await;
                }
            }
            received = outside.recv_from(&mut back) => {
                let Ok((length, _)) = received else { continue };
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
