//! The reason why a test program fails.

use std::{io, time::Duration};

use libp2p::{TransportError, swarm::DialError};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0} is not set")]
    Missing(&'static str),
    #[error("{name} has to be {expected}, not {value}")]
    Invalid {
        name: &'static str,
        expected: &'static str,
        value: String,
    },
    #[error("{0}")]
    Usage(String),
    #[error("redis")]
    Redis(#[from] redis::RedisError),
    #[error("redis has nothing at {key} within {} s", .limit.as_secs())]
    Unpublished { key: String, limit: Duration },
    #[error("redis has {value} at {key}, which is not {expected}")]
    Malformed {
        key: String,
        expected: &'static str,
        value: String,
    },
    #[error("could not listen")]
    Listen(#[from] TransportError<io::Error>),
    #[error("the listener closed")]
    ListenerClosed(#[source] io::Error),
    #[error("could not dial")]
    Dial(#[from] DialError),
    #[error("the connection ended before the measurement")]
    Disconnected,
    #[error("ping")]
    Ping(#[from] libp2p::ping::Failure),
    #[error("no answer to the request")]
    Request(#[from] libp2p::request_response::OutboundFailure),
    #[error("asked for {asked} bytes and received {received}")]
    Length { asked: u64, received: u64 },
    #[error("could not set up the security of relayed connections")]
    Noise(#[from] libp2p::noise::Error),
    #[error("the hole was not punched")]
    HolePunch(#[from] libp2p::dcutr::Error),
    #[error("could not print the result")]
    Print(#[source] io::Error),
    #[error("not done within {} s", .0.as_secs())]
    TimedOut(Duration),
}
