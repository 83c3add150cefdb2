//! Two hosts with two cables between them.
//!
//! ```text
//!     near  a0 10.1.0.1 ───── 10.1.0.2 a0  far
//!            fd00:1::1         fd00:1::2
//!           b0 10.2.0.1 ───── 10.2.0.2 b0
//! ```
//!
//! Each host is a network namespace. The test runs at the near one; a node at the far one echoes.

use std::{sync::mpsc, thread::JoinHandle};

use futures::channel::oneshot;
use harness::namespace::Namespace;
use libp2p_quinn::Handle;
use multiaddr::Multiaddr;

use super::{
    node::{Node, bounded},
    visit::{block_on, outcome, visit},
};

/// The far host's addresses, by cable.
const FAR: [&str; 2] = ["10.1.0.2", "10.2.0.2"];

/// The far host's IPv6 address on the first cable.
const FAR_V6: &str = "fd00:1::2";

/// The two hosts. The near one can be changed during a test.
pub(crate) struct Cables {
    near: Namespace,
    far: Namespace,
}

/// The environment of a test at the near host.
pub(crate) struct Near {
    cables: Cables,
    /// The addresses of the far node: one socket for each cable.
    pub(crate) far: [Multiaddr; 2],
    pub(crate) far_v6: Multiaddr,
    pub(crate) far_handle: Handle,
}

/// Runs a test at the near host, or returns why that is not possible.
pub(crate) fn at_near<F: Future<Output = ()>>(
    test: impl FnOnce(Near) -> F + Send + 'static,
) -> Result<(), String> {
    let cables = Cables::build()?;
    let near_id = cables.near.id();
    let (report, reported) = mpsc::sync_channel(1);
    // Dropping it ends the far node.
    let (_over, is_over) = oneshot::channel::<()>();
    let far = visit(cables.far.id(), move || {
        block_on(async move {
            let mut node = Node::new();
            let far_v6 = format!("/ip6/{FAR_V6}/udp/0/quic-v1");
            let far_v6 = node.listen_at(&far_v6).await.1;
            let mut addrs = Vec::new();
            for ip in FAR {
                let listener = format!("/ip4/{ip}/udp/0/quic-v1");
                addrs.push(node.listen_at(&listener).await.1);
            }
            let handle = node.transport.handle();
            let _echo = node.spawn_echo();
            let _ = report.send((addrs, far_v6, handle));
            let _ = is_over.await;
        });
    });
    let Ok((addrs, far_v6, far_handle)) = reported.recv() else {
        return Err(outcome(far).err().unwrap_or_default());
    };
    let near = Near {
        cables,
        far: addrs.try_into().unwrap(),
        far_v6,
        far_handle,
    };
    outcome(visit(near_id, move || block_on(bounded(test(near)))))
}

impl Cables {
    fn build() -> Result<Self, String> {
        let [near, far] = Namespace::hold()?;
        // Not every machine has it.
        near.run(&["nft", "--version"], "")?;
        let id = far.id();
        let ip = ["ip", "-batch", "-"];
        near.run(
            &ip,
            &format!(
                "link add a0 type veth peer name a0 netns {id}\n\
                 link add b0 type veth peer name b0 netns {id}\n\
                 address add 10.1.0.1/24 dev a0\naddress add 10.2.0.1/24 dev b0\n\
                 address add fd00:1::1/64 dev a0 nodad\n\
                 link set a0 up\nlink set b0 up\n"
            ),
        )?;
        far.run(
            &ip,
            &format!(
                "address add {}/24 dev a0\naddress add {}/24 dev b0\n\
                 address add {FAR_V6}/64 dev a0 nodad\nlink set a0 up\nlink set b0 up\n",
                FAR[0], FAR[1]
            ),
        )?;
        Ok(Self { near, far })
    }
}

impl Near {
    /// Runs a command at the near host.
    ///
    /// # Panics
    ///
    /// If it fails.
    pub(crate) fn run(&self, command: &str) {
        let words: Vec<_> = command.split(' ').collect();
        self.cables.near.run(&words, "").unwrap();
    }

    /// Runs a command at the far host.
    ///
    /// # Panics
    ///
    /// If it fails.
    pub(crate) fn run_at_far(&self, command: &str) {
        let words: Vec<_> = command.split(' ').collect();
        self.cables.far.run(&words, "").unwrap();
    }

    /// Has nft do this at the near host.
    ///
    /// # Panics
    ///
    /// If it fails.
    pub(crate) fn nft(&self, ruleset: &str) {
        self.cables.near.run(&["nft", "-f", "-"], ruleset).unwrap();
    }

    /// Has nft do this at the far host.
    ///
    /// # Panics
    ///
    /// If it fails.
    pub(crate) fn nft_at_far(&self, ruleset: &str) {
        self.cables.far.run(&["nft", "-f", "-"], ruleset).unwrap();
    }

    /// Runs this at the far host, on another thread.
    pub(crate) fn spawn_at_far<F: Future<Output = ()>>(
        &self,
        work: impl FnOnce() -> F + Send + 'static,
    ) -> JoinHandle<Result<(), String>> {
        visit(self.cables.far.id(), move || block_on(bounded(work())))
    }
}
