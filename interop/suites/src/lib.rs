//! What the test programs of the interoperability suites have in common.

pub mod environment;
pub mod error;
pub mod latency;
pub mod node;
pub mod program;
pub mod rendezvous;
