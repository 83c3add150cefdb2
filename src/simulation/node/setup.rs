//! The configuration of a node.

use super::socket::Outbox;
use crate::{
    authenticator::Protection,
    config::{Config, ConfigBuilder},
    proto::IdQuota,
    simulation::rewrite::Changes,
};

/// The configuration of a node.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) answer: Answer,
    /// Replaces the default configuration.
    pub(crate) config: Option<Config>,
    /// Changes settings from their defaults.
    pub(crate) configure: fn(ConfigBuilder) -> ConfigBuilder,
    pub(crate) id_quota: IdQuota,
    /// The secret key; random if `None`.
    pub(crate) identity: Option<[u8; 32]>,
    pub(crate) listening: bool,
    /// The largest UDP payload of the interface in bytes, if known.
    pub(crate) max_payload: Option<u16>,
    pub(crate) outbox: Outbox,
    pub(crate) protection: Protection,
    pub(crate) reader: Reader,
    /// The changes that this node makes to the payloads of packets that it sends and receives.
    pub(crate) changes: Changes,
    pub(crate) shards: u8,
    /// Supported versions of QUIC.
    pub(crate) versions: Vec<u32>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            answer: Answer::Accept,
            config: None,
            configure: |builder| builder,
            id_quota: IdQuota::default(),
            identity: None,
            listening: true,
            max_payload: None,
            outbox: Outbox::default(),
            protection: Protection::Usual,
            reader: Reader::Owner,
            changes: Changes::default(),
            shards: 1,
            versions: vec![1],
        }
    }
}

/// What happens to incoming connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Accept,
    /// They wait for [`Node::answer_incoming`](super::Node::answer_incoming).
    Hold,
    Refuse,
}

/// The shard whose task reads the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// The shard that owns the datagram, as with a kernel that steers.
    Owner,
    /// The next shard; the same one if there is only one.
    NeverTheOwner,
}
