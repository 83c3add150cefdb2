//! A peer that is not part of what ends.

use multiaddr::Multiaddr;
use tokio::runtime::Runtime;

use super::node::{Node, runtime};

/// A listener in a runtime that goes on.
pub(crate) struct Far {
    pub(crate) runtime: Runtime,
    pub(crate) node: Node,
    pub(crate) addr: Multiaddr,
}

impl Far {
    pub(crate) fn new() -> Self {
        let runtime = runtime();
        let mut node = Node::new();
        let addr = runtime.block_on(node.listen());
        Self {
            runtime,
            node,
            addr,
        }
    }
}
