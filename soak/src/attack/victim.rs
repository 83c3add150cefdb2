//! The attacked process: a node with default settings, which serves honest peers.

use std::{
    collections::HashSet,
    future::poll_fn,
    process::exit,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use futures::{AsyncReadExt, AsyncWriteExt};
use harness::{
    process::{answer, limit_time, listen},
    resources::Usage,
};
use libp2p_core::{
    Transport as _,
    muxing::StreamMuxerExt,
    transport::{ListenerId, TransportEvent},
};
use libp2p_identity::{Keypair, PeerId};
use libp2p_quinn::{Config, Connection, Handle, Stream, Transport};
use multiaddr::Protocol;
use serde::{Deserialize, Serialize};
use tikv_jemalloc_ctl::{epoch, stats};
use tokio::sync::watch;

use super::{
    ECHO,
    lines::{Line, Order},
};
use crate::{
    LONGEST,
    flood::{
        PORT, network, runtime,
        server::{next_event, overruns, serve_stream},
    },
};

/// The treatment of a stranger's streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Manner {
    /// They are accepted, and not read.
    #[default]
    Hold,
    /// They are not accepted, as by an application with too many streams.
    Leave,
    /// They are read to their end, like those of other peers.
    Serve,
    /// They are accepted, not read, and written to as much as possible.
    Feed,
}

/// The victim's work in an interval.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Window {
    pub seconds: f64,
    pub cpu: Duration,
    /// Bytes of the transfer that the application has read.
    pub transferred: u64,
    /// Datagrams dropped because a socket's buffer was full.
    pub overrun: u64,
    /// Handshakes of all peers.
    pub completed: u64,
    pub failed: u64,
}

/// The victim's memory and connections.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Held {
    /// Bytes allocated and not freed.
    pub bytes: u64,
    /// The peak since the last time.
    pub peak: u64,
    /// Connections in the statistics, including those that have ended and are not discarded.
    pub connections: u64,
    pub handshaking: u64,
    /// Strangers' connections that the application has.
    pub strangers: u64,
}

/// The ends of strangers' connections.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Closed {
    pub before: u64,
    pub left: u64,
    /// Time until none was left, or the limit.
    pub seconds: f64,
}

/// The process of the victim.
pub fn run() -> Result<()> {
    limit_time(LONGEST);
    network::leave()?;
    answer(&Line::Namespace(std::process::id()))?;
    let Order::Listen(friends) = listen()? else {
        bail!("victims listen");
    };
    network::CLIENT.connect()?;
    network::ATTACKER.connect()?;
    network::answer_everybody()?;
    let friends: Result<_, _> = friends.iter().map(|friend| friend.parse()).collect();
    let town = Arc::new(Town::new(friends?));
    let weight = watch_memory();
    let runtime = runtime()?;
    let (address, handle) = runtime.block_on(serve(Arc::clone(&town)))?;
    answer(&Line::Listening(address))?;
    loop {
        match listen()? {
            Order::Window { millis } => {
                answer(&Line::Window(town.window(millis, &handle)?))?;
            }
            Order::Treat(manner) => {
                *lock(&town.manner) = manner;
                answer(&Line::Ready)?;
            }
            Order::Weigh => answer(&Line::Held(town.weigh(&weight, &handle)?))?,
            Order::Close { millis } => {
                town.close.send_replace(true);
                answer(&Line::Closed(town.wait(millis)))?;
                town.close.send_replace(false);
            }
            Order::Await { millis } => answer(&Line::Closed(town.wait(millis)))?,
            order => bail!("{order:?} is not for a victim"),
        }
    }
}

/// The victim's peers.
struct Town {
    friends: HashSet<PeerId>,
    manner: Mutex<Manner>,
    /// Strangers' connections that have not ended, for the application.
    strangers: AtomicUsize,
    transferred: AtomicU64,
    close: watch::Sender<bool>,
}

impl Town {
    fn new(friends: HashSet<PeerId>) -> Self {
        Self {
            friends,
            manner: Mutex::default(),
            strangers: AtomicUsize::new(0),
            transferred: AtomicU64::new(0),
            close: watch::Sender::new(false),
        }
    }

    fn window(&self, millis: u64, handle: &Handle) -> Result<Window> {
        handle.reset_stats();
        let (start, used, overrun) = (Instant::now(), Usage::now()?, overruns()?);
        let transferred = self.transferred.load(Relaxed);
        thread::sleep(Duration::from_millis(millis));
        let mut window = Window {
            seconds: start.elapsed().as_secs_f64(),
            transferred: self.transferred.load(Relaxed) - transferred,
            cpu: Usage::now()?.since(&used).cpu(),
            overrun: overruns()? - overrun,
            ..Window::default()
        };
        let transport = handle.stats().transport;
        window.completed = transport.handshakes_completed;
        window.failed = transport.handshakes_failed;
        Ok(window)
    }

    fn weigh(&self, weight: &AtomicU64, handle: &Handle) -> Result<Held> {
        let registry = handle.stats().registry;
        let bytes = allocated()?;
        Ok(Held {
            bytes,
            peak: weight.swap(0, Relaxed).max(bytes),
            connections: registry.connections as u64,
            handshaking: registry.handshaking as u64,
            strangers: self.strangers.load(Relaxed) as u64,
        })
    }

    fn wait(&self, millis: u64) -> Closed {
        let (start, limit) = (Instant::now(), Duration::from_millis(millis));
        let mut before = 0_u64;
        loop {
            let left = self.strangers.load(Relaxed) as u64;
            // The last of them may have been established only now.
            before = before.max(left);
            if left == 0 || start.elapsed() >= limit {
                return Closed {
                    before,
                    left,
                    seconds: start.elapsed().as_secs_f64(),
                };
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    async fn meet(self: Arc<Self>, peer: PeerId, muxer: Connection) {
        if self.friends.contains(&peer) {
            self.meet_friend(muxer).await;
        } else {
            self.strangers.fetch_add(1, Relaxed);
            self.meet_stranger(muxer).await;
            self.strangers.fetch_sub(1, Relaxed);
        }
    }

    async fn meet_friend(self: &Arc<Self>, mut muxer: Connection) {
        while let Ok(stream) = poll_fn(|cx| muxer.poll_inbound_unpin(cx)).await {
            tokio::spawn(Arc::clone(self).befriend(stream));
        }
    }

    /// Echoes streams that begin with [`ECHO`], counts those that begin with
    /// [`TRANSFER`](super::TRANSFER), and answers questions.
    async fn befriend(self: Arc<Self>, mut stream: Stream) {
        let mut buffer = vec![0; BLOCK];
        let Ok(length) = stream.read(&mut buffer[..1]).await else {
            return;
        };
        let first = buffer[..length].first().copied();
        match first {
            Some(ECHO) => {
                while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                    if stream.write_all(&buffer[..length]).await.is_err()
                        || stream.flush().await.is_err()
                    {
                        return;
                    }
                }
            }
            Some(super::TRANSFER) => {
                while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                    self.transferred.fetch_add(length as u64, Relaxed);
                }
            }
            _ => serve_stream(stream, length as u64).await,
        }
    }

    async fn meet_stranger(self: &Arc<Self>, mut muxer: Connection) {
        let mut close = self.close.subscribe();
        // Kept, but not read.
        let mut held = Vec::new();
        let manner = *lock(&self.manner);
        if manner == Manner::Leave {
            while poll_fn(|cx| muxer.poll_unpin(cx)).await.is_ok() {}
            return;
        }
        loop {
            tokio::select! {
                stream = poll_fn(|cx| muxer.poll_inbound_unpin(cx)) => {
                    let Ok(stream) = stream else {
                        return;
                    };
                    match manner {
                        Manner::Hold | Manner::Leave => held.push(stream),
                        Manner::Serve => drop(tokio::spawn(serve_stream(stream, 0))),
                        Manner::Feed => drop(tokio::spawn(feed(stream))),
                    }
                }
                () = async { drop(close.wait_for(|&close| close).await) } => {
                    let _ = poll_fn(|cx| muxer.poll_close_unpin(cx)).await;
                    return;
                }
            }
        }
    }
}

/// Writes as much as possible.
async fn feed(mut stream: Stream) {
    let block = vec![0x5a; BLOCK];
    while stream.write_all(&block).await.is_ok() {}
}

/// Starts serving, and returns the address.
async fn serve(town: Arc<Town>) -> Result<(String, Handle)> {
    let identity = Keypair::generate_ed25519();
    let mut transport = Transport::new(Config::new(&identity));
    let handle = transport.handle();
    let anywhere = format!("/ip4/0.0.0.0/udp/{PORT}/quic-v1").parse()?;
    transport.listen_on(ListenerId::next(), anywhere)?;
    loop {
        let event = next_event(&mut transport).await;
        let addr = event.into_new_address().context("no address")?;
        if addr.iter().next() == Some(Protocol::Ip4(network::CLIENT.server)) {
            let addr = addr.with(Protocol::P2p(identity.public().to_peer_id()));
            tokio::spawn(accept(transport, town));
            return Ok((addr.to_string(), handle));
        }
    }
}

async fn accept(mut transport: Transport, town: Arc<Town>) {
    loop {
        if let TransportEvent::Incoming { upgrade, .. } = next_event(&mut transport).await {
            let town = Arc::clone(&town);
            tokio::spawn(async move {
                if let Ok((peer, muxer)) = upgrade.await {
                    town.meet(peer, muxer).await;
                }
            });
        }
    }
}

/// Notes the peak memory of this process, and ends it before it exhausts the machine.
fn watch_memory() -> Arc<AtomicU64> {
    let peak = Arc::new(AtomicU64::new(0));
    let noted = Arc::clone(&peak);
    thread::spawn(move || {
        while let Ok(bytes) = allocated() {
            noted.fetch_max(bytes, Relaxed);
            if bytes > MOST_HELD {
                let _ = answer(&Line::Exhausted(bytes));
                exit(3);
            }
            thread::sleep(WEIGH_EVERY);
        }
    });
    peak
}

/// Bytes in use, including those of C libraries.
fn allocated() -> Result<u64> {
    // jemalloc updates its figures only on request.
    epoch::advance().context("jemalloc's epoch")?;
    Ok(stats::allocated::read().context("jemalloc's count")? as u64)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A victim that holds more ends itself, because other programs run on the machine.
const MOST_HELD: u64 = 3_000_000_000;

const WEIGH_EVERY: Duration = Duration::from_millis(5);

const LOOK_EVERY: Duration = Duration::from_millis(5);

const BLOCK: usize = 64 * 1024;
