//! The commands of the program.

use std::{net::SocketAddr, time::Duration};

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId,
    swarm::{SwarmEvent, dial_opts::DialOpts},
};
use libp2p_quinn::{ConnectionStats, Handle};
use tokio::{sync::oneshot, time::timeout};

use crate::{
    args::Args,
    failure::{self, Failure},
    metrics,
    node::{BehaviourEvent, Node, interrupted},
    progress::Progress,
    summary::{self, Summary},
    transfer::{Event, Job, Moved, Outcome, Request, Side},
};

const ROUND_TRIPS: u64 = 100;

/// Longest wait for the answers of libp2p's own ping and identify.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest wait until closed connections are drained; packets for them may still arrive (RFC 9000
/// §10.2).
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);

/// Both nodes in this process.
pub(crate) async fn both(args: &Args) -> Result<(), Failure> {
    let mut listener = Node::new(&args.logs)?;
    serve_metrics(&listener, args.metrics).await?;
    let listener_handle = listener.handle.clone();
    let addr = "/ip4/127.0.0.1/udp/0/quic-v1"
        .parse()
        .map_err(|error| Failure::new("bad address", &error))?;
    let addr = listener.listen(addr).await?;
    let (stop, stopped) = oneshot::channel::<()>();
    let listening = tokio::spawn(async move {
        tokio::select! {
            () = serve(&mut listener, |_| {}) => {}
            _ = stopped => {}
        }
        listener.close().await;
    });

    let mut dialer = Node::new(&args.logs)?;
    let result = until_interrupted(talk(&mut dialer, addr, args.bytes)).await;
    dialer.close().await;
    let _ = stop.send(());
    let _ = listening.await;
    let summary = result?;

    drained(&dialer.handle).await;
    drained(&listener_handle).await;
    print!("{}", summary.table());
    print!(
        "{}",
        summary::totals(&[
            ("dialer", dialer.handle.stats()),
            ("listener", listener_handle.stats()),
        ])
    );
    Ok(())
}

/// The dialling node only.
pub(crate) async fn dial(addr: Multiaddr, args: &Args) -> Result<(), Failure> {
    let mut node = Node::new(&args.logs)?;
    serve_metrics(&node, args.metrics).await?;
    let result = until_interrupted(talk(&mut node, addr, args.bytes)).await;
    node.close().await;
    let summary = result?;
    drained(&node.handle).await;
    print!("{}", summary.table());
    print!("{}", summary::totals(&[("dialer", node.handle.stats())]));
    Ok(())
}

/// The listening node only.
pub(crate) async fn listen(addr: Multiaddr, args: &Args) -> Result<(), Failure> {
    let mut node = Node::new(&args.logs)?;
    serve_metrics(&node, args.metrics).await?;
    let addr = node.listen(addr).await?;
    println!("listening, until Ctrl-C; in another terminal, there or elsewhere:");
    println!("  cargo run --release --example node -- dial {addr}");
    tokio::select! {
        () = serve(&mut node, |line| println!("{line}")) => {}
        () = interrupted() => {}
    }
    node.close().await;
    drained(&node.handle).await;
    println!();
    print!("{}", summary::totals(&[("listener", node.handle.stats())]));
    Ok(())
}

/// Serves the metrics of a node, if they are wanted.
async fn serve_metrics(node: &Node, addr: Option<SocketAddr>) -> Result<(), Failure> {
    if let Some(addr) = addr {
        let addr = metrics::serve(&node.handle, addr).await?;
        println!("metrics at http://{addr}/metrics");
    }
    Ok(())
}

/// Serves peers for ever, and logs events.
async fn serve(node: &mut Node, log: impl Fn(String)) {
    loop {
        match node.swarm.select_next_some().await {
            SwarmEvent::NewListenAddr { address, .. } => {
                log(format!("also at {}", node.dialable(address)));
            }
            SwarmEvent::ListenerError { error, .. } => {
                log(format!("listener in trouble: {}", failure::chain(&error)));
            }
            SwarmEvent::IncomingConnectionError {
                send_back_addr,
                error,
                ..
            } => log(format!(
                "{send_back_addr} failed: {}",
                failure::chain(&error)
            )),
            SwarmEvent::ConnectionEstablished {
                peer_id, endpoint, ..
            } => log(format!(
                "{peer_id} has come from {}",
                endpoint.get_remote_address()
            )),
            SwarmEvent::ConnectionClosed { peer_id, cause, .. } => log(match cause {
                Some(cause) => format!("{peer_id} has left: {}", failure::chain(&cause)),
                None => format!("{peer_id} has left"),
            }),
            SwarmEvent::Behaviour(BehaviourEvent::Transfer((
                peer_id,
                Event {
                    side: Side::Responder,
                    result,
                },
            ))) => log(match result {
                Ok(outcome) => format!("{peer_id} {}", summary::served(&outcome)),
                Err(error) => format!("{peer_id} request failed: {}", failure::chain(&error)),
            }),
            _ => {}
        }
    }
}

/// Dials, greets, and transfers in both directions.
async fn talk(node: &mut Node, addr: Multiaddr, bytes: u64) -> Result<Summary, Failure> {
    let peer_id = connect(node, addr.clone()).await?;
    let mut talk = Talk {
        node,
        peer_id,
        ping: None,
        agent: None,
    };
    talk.greet().await?;
    let echo = talk.run(Request::Echo(ROUND_TRIPS)).await?;
    let upload = talk.run(Request::Upload(bytes)).await?;
    let download = talk.run(Request::Download(bytes)).await?;
    let Talk { ping, agent, .. } = talk;
    Ok(Summary {
        local_peer_id: node.peer_id(),
        peer_id,
        addr,
        agent,
        ping,
        connection: connection_to(&node.handle, peer_id),
        echo,
        upload,
        download,
    })
}

async fn connect(node: &mut Node, addr: Multiaddr) -> Result<PeerId, Failure> {
    let opts = DialOpts::from(addr);
    let dialled = opts.connection_id();
    node.swarm
        .dial(opts)
        .map_err(|error| Failure::dial(&error))?;
    loop {
        match node.swarm.select_next_some().await {
            SwarmEvent::ConnectionEstablished { peer_id, .. } => return Ok(peer_id),
            SwarmEvent::OutgoingConnectionError {
                connection_id,
                error,
                ..
            } if connection_id == dialled => return Err(Failure::dial(&error)),
            _ => {}
        }
    }
}

/// A connection on which requests are made, one after the other.
struct Talk<'a> {
    node: &'a mut Node,
    peer_id: PeerId,
    ping: Option<Duration>,
    agent: Option<String>,
}

impl Talk<'_> {
    /// Waits for libp2p's ping and identify, which a peer may not support.
    async fn greet(&mut self) -> Result<(), Failure> {
        let greeting = async {
            while self.ping.is_none() || self.agent.is_none() {
                self.next().await?;
            }
            Ok(())
        };
        timeout(GREETING_TIMEOUT, greeting).await.unwrap_or(Ok(()))
    }

    async fn run(&mut self, request: Request) -> Result<Outcome, Failure> {
        let moved = Moved::default();
        let mut progress = Progress::new(request, moved.clone());
        self.node
            .swarm
            .behaviour_mut()
            .transfer
            .request(self.peer_id, Job { request, moved });
        let result = loop {
            tokio::select! {
                event = self.next() => match event {
                    Ok(None) => {}
                    Ok(Some(result)) => {
                        break result.map_err(|error| Failure::new(request.name(), &error));
                    }
                    Err(failure) => break Err(failure),
                },
                () = progress.tick() => {}
            }
        };
        progress.finish(result.is_ok());
        result
    }

    /// Handles one event. Returns the end of our request, or `None`.
    async fn next(&mut self) -> Result<Option<std::io::Result<Outcome>>, Failure> {
        match self.node.swarm.select_next_some().await {
            SwarmEvent::Behaviour(BehaviourEvent::Transfer((
                _,
                Event {
                    side: Side::Opener,
                    result,
                },
            ))) => return Ok(Some(result)),
            SwarmEvent::Behaviour(BehaviourEvent::Ping(ping)) => {
                self.ping = self.ping.or_else(|| ping.result.ok());
            }
            SwarmEvent::Behaviour(BehaviourEvent::Identify(
                libp2p::identify::Event::Received { info, .. },
            )) => self.agent = Some(info.agent_version),
            SwarmEvent::ConnectionClosed {
                num_established: 0,
                cause,
                ..
            } => {
                return Err(match cause {
                    Some(cause) => Failure::new("lost the connection", &cause),
                    None => Failure::Other("lost the connection".to_owned()),
                });
            }
            _ => {}
        }
        Ok(None)
    }
}

async fn until_interrupted<T>(
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::select! {
        result = work => result,
        () = interrupted() => Err(Failure::Interrupted),
    }
}

fn connection_to(handle: &Handle, peer_id: PeerId) -> Option<ConnectionStats> {
    let stats = handle.stats();
    stats
        .connections
        .into_iter()
        .find(|connection| connection.peer_id == Some(peer_id))
}

/// Waits until closed connections are drained, so that the figures are final.
async fn drained(handle: &Handle) {
    let drained = async {
        while handle.stats().registry.active_ids > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // After the timeout, the figures show what is left.
    let _ = timeout(DRAIN_TIMEOUT, drained).await;
}
