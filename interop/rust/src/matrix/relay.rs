//! A NAT between the dialer and the listener, which forgets its mapping.

use std::{
    io, mem,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use tokio::{net::UdpSocket, runtime, sync::oneshot};

/// Forwards datagrams on a separate thread until it is dropped.
pub struct Relay {
    /// The address to dial.
    pub addr: String,
    sources: Sources,
    is_silent: Arc<AtomicBool>,
    _stop: oneshot::Sender<()>,
}

/// The addresses that the listener has seen.
type Sources = Arc<Mutex<Vec<SocketAddr>>>;

impl Relay {
    /// Starts a relay in front of the listener at the multiaddress `addr`.
    ///
    /// After each `every` datagrams from the dialer, [`REBINDINGS`] times, it moves to a new port
    /// on the listener's side, and no longer reads the old one.
    pub fn start(addr: &str, every: Option<u64>) -> io::Result<Self> {
        let listener =
            socket_addr(addr).ok_or_else(|| io::Error::other("no address to relay to"))?;
        let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
        let front = runtime.block_on(bind(listener))?;
        let back = runtime.block_on(bind(listener))?;
        let here = front.local_addr()?;
        let sources = Arc::new(Mutex::new(vec![back.local_addr()?]));
        let is_silent = Arc::new(AtomicBool::new(false));
        let nat = Nat {
            front,
            back,
            forgotten: Vec::new(),
            listener,
            every,
            sources: Arc::clone(&sources),
            is_silent: Arc::clone(&is_silent),
        };
        let (stop, stopped) = oneshot::channel();
        thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    Err(error) = nat.forward() => eprintln!("the relay has failed: {error}"),
                    _ = stopped => {}
                }
            });
        });
        Ok(Self {
            addr: addr.replacen(&udp(listener), &udp(here), 1),
            sources,
            is_silent,
            _stop: stop,
        })
    }

    /// The addresses that the listener has seen, the latest one last.
    pub fn sources(&self) -> Vec<SocketAddr> {
        lock(&self.sources).clone()
    }

    /// Drops the listener's datagrams from now on.
    pub fn silence(&self) {
        self.is_silent.store(true, Ordering::Relaxed);
    }
}

struct Nat {
    /// Towards the dialer.
    front: UdpSocket,
    /// Towards the listener.
    back: UdpSocket,
    /// Old sockets, which are not read. They stay open, because a closed port would cause ICMP
    /// errors, which no NAT sends.
    forgotten: Vec<UdpSocket>,
    listener: SocketAddr,
    every: Option<u64>,
    sources: Sources,
    is_silent: Arc<AtomicBool>,
}

impl Nat {
    async fn forward(mut self) -> io::Result<()> {
        let mut outward = vec![0; DATAGRAM_BYTES];
        let mut homeward = vec![0; DATAGRAM_BYTES];
        let mut dialer = None;
        let mut carried = 0;
        loop {
            // Datagrams that cannot be sent are lost, as on any path.
            tokio::select! {
                received = self.front.recv_from(&mut outward) => {
                    let (length, from) = received?;
                    if length > PATH_MTU {
                        continue;
                    }
                    dialer = Some(from);
                    carried += 1;
                    let is_time = self.every.is_some_and(|every| carried % every == 0);
                    if is_time && self.forgotten.len() < REBINDINGS {
                        self.rebind().await?;
                    }
                    let _ = self.back.send_to(&outward[..length], self.listener).await;
                }
                received = self.back.recv_from(&mut homeward) => {
                    let (length, _) = received?;
                    let is_silent = self.is_silent.load(Ordering::Relaxed);
                    if let Some(dialer) = dialer && length <= PATH_MTU && !is_silent {
                        let _ = self.front.send_to(&homeward[..length], dialer).await;
                    }
                }
            }
        }
    }

    async fn rebind(&mut self) -> io::Result<()> {
        let back = bind(self.listener).await?;
        lock(&self.sources).push(back.local_addr()?);
        self.forgotten.push(mem::replace(&mut self.back, back));
        Ok(())
    }
}

/// The multiaddress of a QUIC transport at this address.
pub fn multiaddr(addr: SocketAddr) -> String {
    let family = if addr.is_ipv4() { "ip4" } else { "ip6" };
    format!("/{family}/{}/udp/{}/quic-v1", addr.ip(), addr.port())
}

/// A socket on the loopback address of `peer`'s family.
async fn bind(peer: SocketAddr) -> io::Result<UdpSocket> {
    UdpSocket::bind(SocketAddr::new(peer.ip(), 0)).await
}

/// The address in a multiaddress `/ip4|ip6/IP/udp/PORT/…`.
fn socket_addr(multiaddr: &str) -> Option<SocketAddr> {
    let mut parts = multiaddr.split('/');
    let ip: IpAddr = parts.nth(2)?.parse().ok()?;
    let port = parts.nth(1)?.parse().ok()?;
    Some(SocketAddr::new(ip, port))
}

fn udp(addr: SocketAddr) -> String {
    format!("/udp/{}/", addr.port())
}

fn lock(sources: &Sources) -> MutexGuard<'_, Vec<SocketAddr>> {
    sources.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The number of rebindings.
pub const REBINDINGS: usize = 3;

/// Largest UDP payload on Ethernet over IPv4; larger datagrams are dropped.
const PATH_MTU: usize = 1472;

/// No datagram is larger.
const DATAGRAM_BYTES: usize = 65_535;
