//! A libp2p node: a Swarm in a separate task, and a handle to it.

use std::time::Duration;

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol, Swarm,
    autonat::v2 as autonat,
    identify,
    identity::Keypair,
    swarm::{
        self, DialError, NetworkBehaviour, SwarmEvent, behaviour::toggle::Toggle,
        dial_opts::DialOpts,
    },
};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::{
    Failure, moves, protocols,
    streams::{self, Link},
    transport::{self, Facts},
};

/// A handle to the Swarm's task; dropping the last one drops the Swarm.
#[derive(Clone)]
pub struct Node {
    commands: mpsc::Sender<Command>,
    pub facts: Facts,
    pub peer_id: PeerId,
}

/// The role of a node.
pub enum Role {
    Dialer,
    /// Listens. With `retry` every client has to prove its address.
    Listener {
        addr: Multiaddr,
        retry: bool,
    },
    /// Dials, and lets the peers test whether it can be reached at this address.
    Tested(Multiaddr),
}

/// Closes connections on behalf of the peers that ask for it.
#[derive(Clone)]
pub struct Closer(mpsc::WeakSender<Command>);

enum Command {
    /// Closes this connection, or the one dialled last. Answered at once.
    Close(Option<Link>, u64, oneshot::Sender<Value>),
    Dial(Multiaddr, oneshot::Sender<Result<PeerId, String>>),
    /// Answered with the end of the connection dialled last, once it has ended.
    Ended(oneshot::Sender<Value>),
    /// Answered with the peer's identify information, once it is available.
    Identify(oneshot::Sender<Value>),
    Open(streams::Request),
    /// Answered with the peer's verdict on an address of ours, once there is one.
    Reachability(oneshot::Sender<Result<Value, String>>),
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    autonat_client: Toggle<autonat::client::Behaviour>,
    autonat_server: autonat::server::Behaviour,
    identify: identify::Behaviour,
    moves: moves::Behaviour,
    streams: streams::Behaviour,
}

impl Node {
    /// Starts a node. Returns its address if it listens.
    pub async fn start(keypair: Keypair, role: Role) -> Result<(Self, Option<Multiaddr>), Failure> {
        let retry = matches!(role, Role::Listener { retry: true, .. });
        let chosen = transport::choose(&keypair, retry)?;
        let peer_id = keypair.public().to_peer_id();
        let identify = identify::Config::new("interop/1.0.0".to_owned(), keypair.public())
            .with_agent_version(chosen.agent);
        let autonat_client = matches!(role, Role::Tested(_)).then(|| {
            let config = autonat::client::Config::default().with_probe_interval(PROBE_INTERVAL);
            autonat::client::Behaviour::new(rand::make_rng(), config)
        });
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let behaviour = Behaviour {
            autonat_client: autonat_client.into(),
            autonat_server: autonat::server::Behaviour::default(),
            identify: identify::Behaviour::new(identify),
            moves: moves::Behaviour::default(),
            streams: streams::Behaviour::new(
                protocols::ALL,
                protocols::server(chosen.facts.clone(), Closer(commands.downgrade())),
            ),
        };
        let config = swarm::Config::with_tokio_executor()
            .with_idle_connection_timeout(Duration::from_secs(3600));
        let mut swarm = Swarm::new(chosen.transport, behaviour, peer_id, config);
        let mut bound = None;
        if let Role::Listener { addr, .. } | Role::Tested(addr) = role {
            swarm
                .listen_on(addr)
                .map_err(|error| format!("not listening: {error}"))?;
            bound = Some(listen_addr(&mut swarm).await?);
        }
        tokio::spawn(run(swarm, receiver, chosen.facts.clone()));
        let node = Self {
            commands,
            facts: chosen.facts,
            peer_id,
        };
        Ok((node, bound))
    }

    /// Dials, and returns the peer that answered.
    pub async fn dial(&self, addr: Multiaddr) -> Result<PeerId, String> {
        let (reply, answer) = oneshot::channel();
        self.command(Command::Dial(addr, reply)).await?;
        answer.await.map_err(|_| SWARM_ENDED.to_owned())?
    }

    /// Closes the connection dialled last, with `code` if the transport supports that. Does not
    /// wait for its end. Returns what the peer should report, and the time.
    pub async fn close(&self, code: u64) -> Result<Value, String> {
        let (reply, answer) = oneshot::channel();
        self.command(Command::Close(None, code, reply)).await?;
        answer
            .await
            .map_err(|_| "no connection to close".to_owned())
    }

    /// Waits for the end of the connection dialled last. Returns how and when it ended.
    pub async fn ended(&self) -> Result<Value, String> {
        let (reply, answer) = oneshot::channel();
        self.command(Command::Ended(reply)).await?;
        answer.await.map_err(|_| SWARM_ENDED.to_owned())
    }

    /// The identify information of the peer that was dialled.
    pub async fn identify(&self) -> Result<Value, String> {
        let (reply, answer) = oneshot::channel();
        self.command(Command::Identify(reply)).await?;
        answer.await.map_err(|_| SWARM_ENDED.to_owned())
    }

    /// The verdict of the peer that was dialled on this node's listen address, after it has tried
    /// that.
    pub async fn reachability(&self) -> Result<Value, String> {
        let (reply, answer) = oneshot::channel();
        self.command(Command::Reachability(reply)).await?;
        answer.await.map_err(|_| SWARM_ENDED.to_owned())?
    }

    /// Opens a stream on the connection dialled last. There is no new connection if that one is
    /// gone.
    pub async fn open(&self, protocol: StreamProtocol) -> Result<Stream, String> {
        loop {
            let (reply, answer) = oneshot::channel();
            let protocol = protocol.clone();
            self.command(Command::Open(streams::Request { protocol, reply }))
                .await?;
            // Dropped if the connection ends at this moment. Another attempt then returns the
            // reason.
            if let Ok(opened) = answer.await {
                return opened;
            }
        }
    }

    async fn command(&self, command: Command) -> Result<(), String> {
        self.commands
            .send(command)
            .await
            .map_err(|_| SWARM_ENDED.to_owned())
    }
}

impl Closer {
    /// Closes the connection that a stream came from.
    pub async fn close(&self, link: Link, code: u64) {
        if let Some(commands) = self.0.upgrade() {
            let (reply, _) = oneshot::channel();
            // Without a Swarm there is no connection.
            let _ = commands.send(Command::Close(Some(link), code, reply)).await;
        }
    }
}

async fn listen_addr(swarm: &mut Swarm<Behaviour>) -> Result<Multiaddr, String> {
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::NewListenAddr { address, .. } => return Ok(address),
            SwarmEvent::ListenerError { error, .. } => return Err(error.to_string()),
            SwarmEvent::ListenerClosed { reason, .. } => return Err(format!("{reason:?}")),
            _ => {}
        }
    }
}

async fn run(mut swarm: Swarm<Behaviour>, mut commands: mpsc::Receiver<Command>, facts: Facts) {
    let mut dial = None;
    let mut waits_for_identify = None;
    let mut identified: Option<Value> = None;
    let mut waits_for_verdict = None;
    let mut verdict: Option<Result<Value, String>> = None;
    // The connection dialled last, its end, and the sender that waits for it.
    let mut latest = None;
    let mut end: Option<Value> = None;
    let mut waits_for_end: Option<oneshot::Sender<Value>> = None;
    // The reason why the last connection ended.
    let mut closed = "there was none".to_owned();
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Close(link, code, reply)) => {
                    let Some(Link { connection_id, peer_id }) = link.or(latest) else { continue };
                    let closing = json!({
                        "closing": peer_id.to_string(),
                        "code": facts.prepare_close(code),
                        "at_ms": crate::now_ms(),
                    });
                    if swarm.close_connection(connection_id) {
                        // A dialer that closes prints its own line.
                        if link.is_some() {
                            crate::print(&closing);
                        }
                        let _ = reply.send(closing);
                    }
                }
                Some(Command::Ended(reply)) => match end.clone() {
                    Some(end) => { let _ = reply.send(end); }
                    None => waits_for_end = Some(reply),
                },
                Some(Command::Dial(addr, reply)) => {
                    let opts = DialOpts::from(addr);
                    let id = opts.connection_id();
                    match swarm.dial(opts) {
                        Ok(()) => dial = Some((id, reply)),
                        Err(error) => { let _ = reply.send(Err(describe(&error))); }
                    }
                }
                Some(Command::Identify(reply)) => match identified.clone() {
                    Some(info) => { let _ = reply.send(info); }
                    None => waits_for_identify = Some(reply),
                },
                Some(Command::Open(request)) => match latest.filter(|_| end.is_none()) {
                    Some(link) => swarm.behaviour_mut().streams.open(link, request),
                    None => {
                        let _ = request.reply.send(Err(format!("no connection: {closed}")));
                    }
                },
                Some(Command::Reachability(reply)) => match verdict.clone() {
                    Some(verdict) => { let _ = reply.send(verdict); }
                    None => waits_for_verdict = Some(reply),
                },
                None => return,
            },
            event = swarm.select_next_some() => match event {
                SwarmEvent::ConnectionEstablished { peer_id, endpoint, connection_id, .. } => {
                    // A dialer prints its own line, even if it is dialled back.
                    if endpoint.is_listener() && !swarm.behaviour().autonat_client.is_enabled() {
                        crate::print(&json!({
                            "connected": peer_id.to_string(),
                            "from": endpoint.get_remote_address(),
                            "facts": facts.of(peer_id),
                        }));
                    }
                    if let Some((_, reply)) = dial.take_if(|(id, _)| *id == connection_id) {
                        latest = Some(Link { connection_id, peer_id });
                        end = None;
                        let _ = reply.send(Ok(peer_id));
                    }
                }
                SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                    match dial.take_if(|(id, _)| *id == connection_id) {
                        Some((_, reply)) => { let _ = reply.send(Err(describe(&error))); }
                        None => eprintln!("not dialled back: {}", describe(&error)),
                    }
                }
                SwarmEvent::IncomingConnectionError { error, .. } => eprintln!("incoming: {error:?}"),
                SwarmEvent::ConnectionClosed { peer_id, connection_id, endpoint, cause, .. } => {
                    let ended = json!({
                        "disconnected": peer_id.to_string(),
                        "code": cause.as_ref().and_then(transport::close_code_of),
                        "error": cause.as_ref().map(transport::describe_end),
                        "at_ms": crate::now_ms(),
                    });
                    // A side that has closed the connection itself has no cause.
                    let is_told = endpoint.is_listener() && cause.is_some();
                    if is_told && !swarm.behaviour().autonat_client.is_enabled() {
                        crate::print(&ended);
                    }
                    if latest.is_some_and(|latest| latest.connection_id == connection_id) {
                        if let Some(reply) = waits_for_end.take() {
                            let _ = reply.send(ended.clone());
                        }
                        end = Some(ended);
                    }
                    closed = format!("{cause:?}");
                    eprintln!("{peer_id} gone: {closed}");
                }
                SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received { info, .. })) => {
                    let info = describe_identity(&info);
                    if let Some(reply) = waits_for_identify.take() {
                        let _ = reply.send(info.clone());
                    }
                    identified = Some(info);
                }
                SwarmEvent::Behaviour(BehaviourEvent::AutonatClient(event)) => {
                    let said = judge(&event, swarm.listeners());
                    if let Some(reply) = waits_for_verdict.take() {
                        let _ = reply.send(said.clone());
                    }
                    verdict = Some(said);
                }
                SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Error { error, .. })) => {
                    eprintln!("identify: {error}");
                }
                // Only a peer that has dialled us can move (RFC 9000 §9).
                SwarmEvent::Behaviour(BehaviourEvent::Moves(moves::Moved { peer_id, addr })) => {
                    crate::print(&json!({ "moved": peer_id.to_string(), "to": addr, "facts": facts.of(peer_id) }));
                }
                _ => {}
            },
        }
    }
}

fn describe_identity(info: &identify::Info) -> Value {
    json!({
        "agent_version": info.agent_version,
        "listen_addrs": info.listen_addrs.iter().map(Multiaddr::to_string).collect::<Vec<_>>(),
        "observed_addr": info.observed_addr.to_string(),
        "peer_id": info.public_key.to_peer_id().to_string(),
        "protocols": info.protocols.iter().map(StreamProtocol::to_string).collect::<Vec<_>>(),
    })
}

/// The verdict. It is positive if the dial-back reached an address of the node.
fn judge<'a>(
    event: &autonat::client::Event,
    mut listen_addrs: impl Iterator<Item = &'a Multiaddr>,
) -> Result<Value, String> {
    let addr = &event.tested_addr;
    match &event.result {
        Err(error) => Err(format!("{addr} is not reachable: {error}")),
        Ok(()) if listen_addrs.any(|listened| listened == addr) => Ok(json!({
            "addr": addr.to_string(),
            "bytes_sent": event.bytes_sent,
        })),
        Ok(()) => Err(format!("{addr} is reachable, but nobody listens there")),
    }
}

/// The error, with its type if our transport caused it.
fn describe(error: &DialError) -> String {
    if let DialError::Transport(errors) = error {
        for (_, error) in errors {
            if let libp2p::TransportError::Other(error) = error
                && let Some(cause) = error.get_ref()
                && let Some(error) = cause.downcast_ref::<libp2p_quinn::Error>()
            {
                return format!("{error:?}");
            }
        }
    }
    format!("{error:?}")
}

/// Each command is answered before the next is sent, except streams, of which a hundred are opened
/// at a time.
const COMMANDS: usize = 128;

/// How long an address waits for a test; the default is five seconds.
const PROBE_INTERVAL: Duration = Duration::from_millis(200);

const SWARM_ENDED: &str = "the swarm has ended";
