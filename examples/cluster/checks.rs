//! The checks of the three nodes, in their order.

#![allow(
    clippy::disallowed_methods,
    reason = "an application may read the clock"
)]

use std::{
    collections::HashSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, PeerId};
use libp2p_quinn::ConnectionError;
use tokio::time::timeout;

use crate::{
    behaviour::MAX_CONNECTIONS,
    event::{End, Event},
    failure::Failure,
    guests, messages,
    node::{CLOSE_TIMEOUT, Node},
    scrape::scrape,
    table::table,
    three::{LIMIT, Three},
};

/// The record of node 2.
const KEY: &str = "greeting";
const VALUE: &str = "hello from node 2";

/// A limit on what node 3 sends, in bytes per second.
const LIMITED_RATE: u64 = 50_000;

/// How many guests come when there is no room left.
const TOO_MANY: usize = 3;

/// The reason with which nodes close their connections.
const GOODBYE: &str = "good night";

impl Three {
    pub(crate) async fn check(
        &mut self,
        node_1: Multiaddr,
        metrics: SocketAddr,
    ) -> Result<(), Failure> {
        self.discover().await?;
        self.put_and_get().await?;
        self.broadcast().await?;
        self.request().await?;
        self.refuse_a_long_request().await?;
        self.limit_bandwidth().await?;
        self.evict_guests(node_1).await?;
        self.kill_and_rejoin().await?;
        self.scrape(metrics).await?;
        self.line(&table(&self.nodes));
        self.close().await
    }

    /// Nodes 2 and 3 have the address of node 1 only, and learn of each other from it.
    async fn discover(&mut self) -> Result<(), Failure> {
        self.everybody_meets().await?;
        self.ok("discovery: each node has met both others by ping, identify and gossipsub");
        Ok(())
    }

    async fn everybody_meets(&mut self) -> Result<(), Failure> {
        let has_met_both = |node: &Node| node.peers.names_of_met().len() == 2;
        while !self.nodes.iter().all(has_met_both) {
            self.until("each node meets both others", |_, event| {
                matches!(event, Event::Met(_)).then_some(())
            })
            .await?;
        }
        Ok(())
    }

    async fn put_and_get(&mut self) -> Result<(), Failure> {
        self.nodes[1].put(KEY, VALUE.to_owned())?;
        self.until("node 2 stores a record", |index, event| {
            (index == 1 && matches!(event, Event::Stored)).then_some(())
        })
        .await?;
        self.nodes[2].get(KEY);
        self.until("node 3 gets the record", |index, event| {
            (index == 2 && matches!(event, Event::Found(_, value) if value == VALUE)).then_some(())
        })
        .await?;
        self.ok("kademlia: node 3 gets the record that node 2 has put");
        Ok(())
    }

    async fn broadcast(&mut self) -> Result<(), Failure> {
        self.tell_everybody("hello everybody").await?;
        self.ok("gossipsub: nodes 2 and 3 receive what node 1 tells everybody");
        Ok(())
    }

    async fn tell_everybody(&mut self, told: &str) -> Result<(), Failure> {
        let node_1 = self.nodes[0].peer_id();
        self.nodes[0].broadcast(told)?;
        let mut received = HashSet::new();
        self.until("nodes 2 and 3 receive a broadcast", |index, event| {
            match event {
                Event::Broadcast(author, text) if *author == node_1 && text == told => {
                    received.insert(index);
                }
                _ => {}
            }
            (received == HashSet::from([1, 2])).then_some(())
        })
        .await
    }

    async fn request(&mut self) -> Result<(), Failure> {
        let answer = self.ask("hello node 1".to_owned()).await?;
        self.ok(&format!("request: node 3 asks node 1, and gets: {answer}"));
        Ok(())
    }

    /// Node 3 asks node 1.
    async fn ask(&mut self, text: String) -> Result<String, Failure> {
        let node_1 = self.nodes[0].peer_id();
        self.nodes[2].request(&node_1, text);
        self.until("node 1 answers node 3", |index, event| match event {
            Event::Answered(peer_id, text) if index == 2 && *peer_id == node_1 => {
                Some(text.clone())
            }
            _ => None,
        })
        .await
    }

    /// A request waits for the limit of node 3, which is lifted again.
    async fn limit_bandwidth(&mut self) -> Result<(), Failure> {
        let handle = self.nodes[2].handle.clone();
        let before = handle.bandwidth_limits();
        let mut limits = before;
        limits.send.total = Some(LIMITED_RATE);
        handle
            .set_bandwidth_limits(limits)
            .map_err(|error| Failure::new("cannot limit the bandwidth", &error))?;
        let began = Instant::now();
        self.ask("x".repeat(messages::MAX_BYTES)).await?;
        let took = began.elapsed();
        handle
            .set_bandwidth_limits(before)
            .map_err(|error| Failure::new("cannot lift the limit", &error))?;
        let least = Duration::from_millis(900 * messages::MAX_BYTES as u64 / LIMITED_RATE);
        if took < least {
            return Err(Failure::Other(format!("the limit has no effect: {took:?}")));
        }
        self.ok(&format!(
            "bandwidth: a request of {} bytes takes {:.1} s at {LIMITED_RATE} bytes per second",
            messages::MAX_BYTES,
            took.as_secs_f64()
        ));
        Ok(())
    }

    async fn refuse_a_long_request(&mut self) -> Result<(), Failure> {
        let node_1 = self.nodes[0].peer_id();
        self.nodes[2].request(&node_1, "x".repeat(messages::MAX_BYTES + 1));
        let refusal = self
            .until(
                "node 1 refuses a long request",
                |index, event| match event {
                    Event::Unanswered(peer_id, reason) if index == 2 && *peer_id == node_1 => {
                        Some(reason.clone())
                    }
                    _ => None,
                },
            )
            .await?;
        self.ok(&format!("size limit: node 3 asks node 1, and is {refusal}"));
        Ok(())
    }

    /// Guests take all the room that is left at node 1. It closes their connections when they have
    /// been idle, and keeps those that it needs.
    async fn evict_guests(&mut self, node_1: Multiaddr) -> Result<(), Failure> {
        let taken = self.nodes[0].handle.connections().len();
        let guests = MAX_CONNECTIONS as usize - taken + TOO_MANY;
        tokio::spawn(guests::visit(node_1, guests));
        let (mut refused, mut evicted) = (0, 0);
        self.until("node 1 evicts idle guests", |index, event| {
            match event {
                Event::Full(_) if index == 0 => refused += 1,
                Event::Closed(_, End::Idle) if index == 0 => evicted += 1,
                _ => {}
            }
            (refused > 0 && refused + evicted == guests).then_some(())
        })
        .await?;
        self.ok(&format!(
            "limits: of {guests} guests, node 1 refuses {refused} because it has \
             {MAX_CONNECTIONS} connections, and evicts {evicted} when they are idle"
        ));
        Ok(())
    }

    /// Kills node 3, and starts it again with its key and its file, but without an address.
    async fn kill_and_rejoin(&mut self) -> Result<(), Failure> {
        self.nodes[2].save();
        let remembered = self
            .until("node 3 writes its file", |index, event| match event {
                Event::Saved(peers) if index == 2 && *peers > 0 => Some(*peers),
                _ => None,
            })
            .await?;
        let node_3 = self.nodes[2].peer_id();
        // It closes nothing by itself, but the transport does, so that the others need not wait for
        // its idle timeout.
        drop(self.nodes.pop());
        self.until_others_miss(node_3, |_| true).await?;

        self.settings[2].bootstrap.clear();
        self.settings[2].mdns = false;
        self.start().await?;
        self.everybody_meets().await?;
        // Its own records are lost.
        self.nodes[2].get(KEY);
        self.until("node 3 gets the record from others", |index, event| {
            (index == 2 && matches!(event, Event::Found(Some(_), value) if value == VALUE))
                .then_some(())
        })
        .await?;
        self.tell_everybody("node 3 is back").await?;
        self.ok(&format!(
            "rejoin: node 3 was killed, has its file (peers: {remembered}), and takes part again"
        ));
        Ok(())
    }

    async fn scrape(&mut self, addr: SocketAddr) -> Result<(), Failure> {
        let name = "libp2p_quic_handshakes_total{outcome=\"Completed\"}";
        let scraped = timeout(LIMIT, scrape(addr, name))
            .await
            .map_err(|_| Failure::Other("the metrics do not come".to_owned()))??;
        let counted = self.nodes[0].handle.transport_stats().handshakes_completed;
        if !(1..=counted).contains(&scraped) {
            let reason = format!("{scraped} handshakes in the metrics, and {counted} counted");
            return Err(Failure::Other(reason));
        }
        self.ok(&format!("metrics: {name} {scraped}"));
        Ok(())
    }

    /// Closes the nodes, the last first, each with its number as the code.
    async fn close(&mut self) -> Result<(), Failure> {
        while let Some(node) = self.nodes.pop() {
            let number = self.nodes.len() as u64 + 1;
            let shutdown = node.handle.shutdown(number, GOODBYE, CLOSE_TIMEOUT);
            self.until_others_miss(node.peer_id(), |end| {
                matches!(
                    end,
                    End::Transport(ConnectionError::ClosedByPeer { code, reason })
                        if *code == number && reason == GOODBYE
                )
            })
            .await?;
            if !shutdown.await {
                let reason = format!("{} could not deliver everything", node.name);
                return Err(Failure::Other(reason));
            }
        }
        self.ok("close: each node has told the others its code and its reason");
        Ok(())
    }

    /// Waits until all nodes have lost a peer in the expected way.
    async fn until_others_miss(
        &mut self,
        missed: PeerId,
        is_expected: impl Fn(&End) -> bool,
    ) -> Result<(), Failure> {
        let mut missing: HashSet<_> = (0..self.nodes.len()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        self.until("the others miss a node", |index, event| {
            match event {
                Event::Closed(peer_id, end) if *peer_id == missed && is_expected(end) => {
                    missing.remove(&index);
                }
                _ => {}
            }
            missing.is_empty().then_some(())
        })
        .await
    }

    fn ok(&self, what: &str) {
        self.line(&format!("ok  {what}"));
    }
}
