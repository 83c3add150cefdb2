//! Three nodes over loopback.

use std::{net::SocketAddr, path::Path, pin::pin, time::Duration};

use futures::future::select_all;
use libp2p::{Multiaddr, identity::Keypair};
use tokio::time::{interval, sleep};

use crate::{
    args::{ANY_PORT, Args},
    behaviour::Settings,
    event::Event,
    failure::Failure,
    metrics,
    node::{Node, interrupted},
    screen::{REFRESH, Screen},
    table::table,
};

/// Longest wait for anything. On a fast machine all checks together take less.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Short, so that the eviction of idle guests can be seen.
const IDLE: Duration = Duration::from_secs(5);

/// Runs three nodes, and checks what they do.
pub(crate) async fn run(args: &Args) -> Result<(), Failure> {
    let directory =
        tempfile::tempdir().map_err(|error| Failure::new("no temporary directory", &error))?;
    let mut three = Three::new(args, directory.path());
    let result = tokio::select! {
        result = three.start_and_check(args.metrics.unwrap_or(ANY_PORT)) => result,
        () = interrupted() => Err(Failure::Interrupted),
    };
    three.screen.clear();
    // None are left after a success.
    for node in three.nodes {
        node.close().await;
    }
    result
}

pub(crate) struct Three {
    /// Nodes 1, 2 and 3, unless they are killed or closed.
    pub(crate) nodes: Vec<Node>,
    /// The settings of the three. Node 3 has a file.
    pub(crate) settings: [Settings; 3],
    addr: &'static str,
    screen: Screen,
    verbose: bool,
}

impl Three {
    fn new(args: &Args, directory: &Path) -> Self {
        let mdns = args.mdns.unwrap_or(false);
        let settings = ["node 1", "node 2", "node 3"].map(|name| Settings {
            name: name.to_owned(),
            key: Keypair::generate_ed25519(),
            bootstrap: Vec::new(),
            limit: args.limit,
            file: (name == "node 3").then(|| directory.join("peers.json")),
            mdns,
            idle: IDLE,
        });
        Self {
            nodes: Vec::new(),
            settings,
            // mDNS is for networks, and does not find what listens on loopback only.
            addr: if mdns {
                "/ip4/0.0.0.0/udp/0/quic-v1"
            } else {
                "/ip4/127.0.0.1/udp/0/quic-v1"
            },
            screen: Screen::new(),
            verbose: args.verbose,
        }
    }

    async fn start_and_check(&mut self, metrics: SocketAddr) -> Result<(), Failure> {
        let node_1 = self.start().await?;
        let metrics = metrics::serve(&self.nodes[0].handle, metrics).await?;
        self.line(&format!("metrics of node 1 at http://{metrics}/metrics"));
        if !self.settings[0].mdns {
            self.settings[1].bootstrap = vec![node_1.clone()];
            self.settings[2].bootstrap = vec![node_1.clone()];
        }
        self.start().await?;
        self.start().await?;
        self.check(node_1, metrics).await
    }

    /// Starts the next node. Returns its address.
    pub(crate) async fn start(&mut self) -> Result<Multiaddr, Failure> {
        let new = self.nodes.len();
        let mut node = Node::new(self.settings[new].clone())?;
        node.listen(self.addr)?;
        let name = node.name.clone();
        self.nodes.push(node);
        let addr = self
            .until("it listens", |index, event| match event {
                Event::Listening(addr) if index == new => Some(addr.clone()),
                _ => None,
            })
            .await?;
        self.line(&format!("{name} at {addr}"));
        Ok(addr)
    }

    /// Runs the nodes until `found` makes something of one of their events. It also gets the index
    /// of the node.
    pub(crate) async fn until<T>(
        &mut self,
        what: &str,
        mut found: impl FnMut(usize, &Event) -> Option<T>,
    ) -> Result<T, Failure> {
        let mut refresh = interval(REFRESH);
        let mut limit = pin!(sleep(LIMIT));
        loop {
            tokio::select! {
                (index, event) = self.next() => {
                    let node = &self.nodes[index];
                    if self.verbose {
                        self.line(&format!("{}: {}", node.name, event.line(&node.peers)));
                    }
                    if let Some(found) = found(index, &event) {
                        return Ok(found);
                    }
                }
                _ = refresh.tick() => self.screen.draw(|| table(&self.nodes)),
                () = &mut limit => {
                    self.line(&table(&self.nodes));
                    let seconds = LIMIT.as_secs();
                    let reason = format!("waited {seconds} s in vain until {what}; try --verbose");
                    return Err(Failure::Other(reason));
                }
            }
        }
    }

    /// The next event of any node, and the index of the node.
    async fn next(&mut self) -> (usize, Event) {
        let next = self.nodes.iter_mut().map(|node| Box::pin(node.next()));
        let (event, index, _) = select_all(next).await;
        (index, event)
    }

    pub(crate) fn line(&self, line: &str) {
        self.screen.line(line);
    }
}
