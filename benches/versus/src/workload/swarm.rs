//! Complete nodes: the work of the dialing node, measured by the events of its Swarm.

mod steady;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use futures::StreamExt;
use libp2p_identify as identify;
use libp2p_identity::Keypair;
use libp2p_request_response::{self as request_response, Message, OutboundRequestId};
use libp2p_stream::Control;
use libp2p_swarm::{Stream, SwarmEvent};

use super::{
    Effort, bulk,
    close::{self, FORGETTING},
    ping_pong::Echo,
    quantiles,
};
use crate::{
    catalogue::NodeWork,
    control::Checkpoint,
    metric::Metrics,
    service::Amount,
    stack::{
        Address, Facts, Setup,
        libp2p::Flavour,
        swarm::{BehaviourEvent, FactsOf, Node, STREAM},
    },
};

pub async fn run<F: Flavour>(
    work: NodeWork,
    setup: Setup,
    server: Address,
    effort: Effort,
) -> Result<(Metrics, Facts)> {
    let client = Client::new::<F>(work, setup, server.clone()).await?;
    match work {
        NodeWork::Ping => ping(client, effort).await,
        NodeWork::Identify | NodeWork::DialClose => visits(client, work, effort).await,
        NodeWork::Upload { write } => upload(client, write, effort).await,
        NodeWork::Requests { at_once } => requests(client, at_once, effort).await,
        NodeWork::Steady(steady) => {
            let mut clients = vec![client];
            while clients.len() < steady.peers {
                clients.push(Client::new::<F>(work, setup, server.clone()).await?);
            }
            steady::run(steady, clients, effort).await
        }
    }
}

async fn ping(mut client: Client, effort: Effort) -> Result<(Metrics, Facts)> {
    client.connect().await?;
    let mut streams = client.streams();
    let mut echo = Echo::begin(streams.open().await?, PING).await?;
    let metrics = echo.measure(effort).await?;
    Ok((metrics, (streams.facts)()))
}

async fn upload(mut client: Client, write: usize, effort: Effort) -> Result<(Metrics, Facts)> {
    client.connect().await?;
    let mut streams = client.streams();
    let amount = |bytes, limit| Amount {
        bytes,
        write,
        limit,
    };
    let warm_up = amount(bulk::WARM_UP_BYTES, bulk::WARM_UP);
    bulk::upload(streams.open().await?, warm_up).await?;
    let start = Checkpoint::reach().await?;
    let all = amount(effort.bytes(), effort.time());
    let bytes = bulk::upload(streams.open().await?, all).await?;
    let end = Checkpoint::reach().await?;
    Ok((start.until(&end).per_byte(bytes), (streams.facts)()))
}

/// Dials and disconnects, one connection after the other.
async fn visits(mut client: Client, work: NodeWork, effort: Effort) -> Result<(Metrics, Facts)> {
    let count = effort.handshakes();
    client.connect().await?;
    let facts = (client.node.facts)();
    client.disconnect().await?;
    for _ in 1..close::WARM_UP {
        client.visit(work).await?;
    }
    tokio::time::sleep(FORGETTING).await;
    let mut times = Vec::with_capacity(count);
    let start = Checkpoint::reach().await?;
    for _ in 0..count {
        times.push(client.visit(work).await?);
    }
    let mut metrics = close::outcome(&start, count).await?;
    metrics.extend(quantiles(times));
    Ok((metrics, facts))
}

async fn requests(mut client: Client, at_once: usize, effort: Effort) -> Result<(Metrics, Facts)> {
    let count = effort.streams();
    client.connect().await?;
    client.ask(count / 10, at_once, effort.time()).await?;
    let start = Checkpoint::reach().await?;
    let times = client.ask(count, at_once, effort.time()).await?;
    let end = Checkpoint::reach().await?;
    let mut metrics = start.until(&end).per_operation(times.len());
    metrics.extend(quantiles(times));
    Ok((metrics, (client.node.facts)()))
}

/// A node and the address that it dials.
struct Client {
    node: Node,
    server: Address,
}

/// An event that a client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Connected,
    /// The server has sent its identify information.
    Heard,
    /// This node has sent its own.
    Told,
    Reply(OutboundRequestId),
    Closed,
}

impl Client {
    async fn new<F: Flavour>(work: NodeWork, setup: Setup, server: Address) -> Result<Self> {
        let node = Node::bind::<F>(&Keypair::generate_ed25519(), setup, work).await?;
        Ok(Self { node, server })
    }

    async fn connect(&mut self) -> Result<()> {
        self.node.dial(&self.server)?;
        self.until(Step::Connected).await
    }

    async fn disconnect(&mut self) -> Result<()> {
        if self
            .node
            .swarm
            .disconnect_peer_id(self.server.peer)
            .is_err()
        {
            bail!("nothing to disconnect");
        }
        self.until(Step::Closed).await
    }

    /// Makes one connection, and returns the time from the dial to its end.
    async fn visit(&mut self, work: NodeWork) -> Result<Duration> {
        let begin = Instant::now();
        self.connect().await?;
        if work.identifies() {
            let mut missing = vec![Step::Heard, Step::Told];
            while !missing.is_empty() {
                let step = self.next().await?;
                missing.retain(|other| *other != step);
            }
        }
        self.disconnect().await?;
        Ok(begin.elapsed())
    }

    /// Sends `count` requests, or fewer if `limit` ends first. Returns how long each reply took.
    async fn ask(
        &mut self,
        count: usize,
        at_once: usize,
        limit: Duration,
    ) -> Result<Vec<Duration>> {
        let begin = Instant::now();
        let mut asked = 0;
        let mut waiting = HashMap::new();
        let mut times = Vec::with_capacity(count);
        loop {
            while waiting.len() < at_once && asked < count && begin.elapsed() < limit {
                waiting.insert(self.request(), Instant::now());
                asked += 1;
            }
            if waiting.is_empty() {
                return Ok(times);
            }
            if let Step::Reply(id) = self.next().await?
                && let Some(since) = waiting.remove(&id)
            {
                times.push(since.elapsed());
            }
        }
    }

    /// Sends a request.
    fn request(&mut self) -> OutboundRequestId {
        let question = self.node.exchange.question();
        let requests = &mut self.node.swarm.behaviour_mut().requests;
        requests.send_request(&self.server.peer, question)
    }

    async fn until(&mut self, step: Step) -> Result<()> {
        while self.next().await? != step {}
        Ok(())
    }

    /// Waits for the next step, or fails if the connection fails.
    async fn next(&mut self) -> Result<Step> {
        loop {
            match self.node.swarm.select_next_some().await {
                SwarmEvent::ConnectionEstablished { .. } => return Ok(Step::Connected),
                SwarmEvent::ConnectionClosed { cause: None, .. } => return Ok(Step::Closed),
                SwarmEvent::ConnectionClosed {
                    cause: Some(cause), ..
                } => return Err(cause.into()),
                SwarmEvent::OutgoingConnectionError { error, .. } => return Err(error.into()),
                SwarmEvent::Behaviour(event) => {
                    if let Some(step) = step(event)? {
                        return Ok(step);
                    }
                }
                _ => {}
            }
        }
    }

    /// Moves the Swarm to its own task, and returns a way to open streams.
    fn streams(mut self) -> Streams {
        let control = self.node.swarm.behaviour().streams.new_control();
        tokio::spawn(async move {
            loop {
                self.node.swarm.select_next_some().await;
            }
        });
        Streams {
            control,
            server: self.server,
            facts: self.node.facts,
        }
    }
}

fn step(event: BehaviourEvent) -> Result<Option<Step>> {
    Ok(match event {
        BehaviourEvent::Identify(identify::Event::Received { .. }) => Some(Step::Heard),
        BehaviourEvent::Identify(identify::Event::Sent { .. }) => Some(Step::Told),
        BehaviourEvent::Identify(identify::Event::Error { error, .. }) => return Err(error.into()),
        BehaviourEvent::Requests(request_response::Event::Message {
            message: Message::Response { request_id, .. },
            ..
        }) => Some(Step::Reply(request_id)),
        BehaviourEvent::Requests(request_response::Event::OutboundFailure { error, .. }) => {
            return Err(error.into());
        }
        _ => None,
    })
}

/// Opens streams on a connected node.
struct Streams {
    control: Control,
    server: Address,
    facts: FactsOf,
}

impl Streams {
    async fn open(&mut self) -> Result<Stream> {
        Ok(self.control.open_stream(self.server.peer, STREAM).await?)
    }
}

/// The bytes of a message.
const PING: usize = 64;
