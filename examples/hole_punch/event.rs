//! The events that the program prints, as text or as JSON.

use std::{fmt, time::Duration};

use libp2p::{Multiaddr, PeerId};
use serde_json::{Value, json};

/// An event of interest to the user, or to another program.
pub(crate) enum Event {
    /// The relay listens on this address.
    Listening { addr: Multiaddr },
    /// The relay sees us at this address.
    Observed { addr: Multiaddr },
    /// The router forwards a port to us (UPnP).
    Mapped { addr: Multiaddr },
    /// The router forwards nothing (UPnP).
    NotMapped { reason: &'static str },
    /// The relay has dialled an address of ours (AutoNAT v2).
    Tested {
        addr: Multiaddr,
        error: Option<String>,
    },
    /// Others can reach us through the relay.
    Reserved { peer_id: PeerId },
    /// We have reached the peer through the relay.
    Relayed { peer_id: PeerId, took: Duration },
    /// An attempt has failed.
    Missed { error: String },
    /// There is a direct connection. The dialer reports it after it has used both the direct and
    /// the relayed connection.
    Direct {
        peer_id: PeerId,
        addr: Multiaddr,
        by_dialer: Option<ByDialer>,
    },
    /// There is no direct connection.
    Failed {
        peer_id: PeerId,
        error: String,
        by_dialer: Option<Relayed>,
    },
}

/// The dialer's information about a direct connection.
pub(crate) struct ByDialer {
    /// Time since the relayed connection was established.
    pub(crate) took: Duration,
    pub(crate) attempts: usize,
    /// The number of direct connections with the peer.
    pub(crate) connections: usize,
    pub(crate) ping: Duration,
    pub(crate) relayed: Relayed,
}

/// The relayed connection at the end.
pub(crate) struct Relayed {
    /// `None` if it no longer works.
    pub(crate) ping: Option<Duration>,
}

impl Event {
    pub(crate) fn print(&self, as_json: bool) {
        if as_json {
            println!("{}", self.json());
        } else {
            println!("{self}");
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Listening { addr } => json!({ "event": "listening", "addr": addr }),
            Self::Observed { addr } => json!({ "event": "observed", "addr": addr }),
            Self::Mapped { addr } => json!({ "event": "mapped", "addr": addr }),
            Self::NotMapped { reason } => json!({ "event": "not mapped", "error": reason }),
            Self::Tested { addr, error } => {
                json!({ "event": "tested", "addr": addr, "error": error })
            }
            Self::Reserved { peer_id } => {
                json!({ "event": "reserved", "peer_id": peer_id.to_string() })
            }
            Self::Relayed { peer_id, took } => {
                json!({ "event": "relayed", "peer_id": peer_id.to_string(), "ms": millis(*took) })
            }
            Self::Missed { error } => json!({ "event": "missed", "error": error }),
            Self::Direct {
                peer_id,
                addr,
                by_dialer,
            } => {
                let mut event = json!({
                    "event": "direct",
                    "peer_id": peer_id.to_string(),
                    "addr": addr,
                });
                if let Some(seen) = by_dialer {
                    event["ms"] = json!(millis(seen.took));
                    event["attempts"] = json!(seen.attempts);
                    event["connections"] = json!(seen.connections);
                    event["ping_ms"] = json!(millis(seen.ping));
                    event["relayed_ping_ms"] = json!(seen.relayed.ping.map(millis));
                }
                event
            }
            Self::Failed {
                peer_id,
                error,
                by_dialer,
            } => {
                let mut event = json!({
                    "event": "failed",
                    "peer_id": peer_id.to_string(),
                    "error": error,
                });
                if let Some(relayed) = by_dialer {
                    event["relayed_ping_ms"] = json!(relayed.ping.map(millis));
                }
                event
            }
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listening { addr } => write!(f, "relaying at {addr}"),
            Self::Observed { addr } => write!(f, "seen by the relay as {addr}"),
            Self::Mapped { addr } => write!(f, "the router forwards {addr} (UPnP)"),
            Self::NotMapped { reason } => write!(f, "no port forwarded: {reason} (UPnP)"),
            Self::Tested { addr, error: None } => {
                write!(f, "anybody can reach {addr} (AutoNAT)")
            }
            Self::Tested {
                addr,
                error: Some(error),
            } => write!(f, "strangers cannot reach {addr}: {error} (AutoNAT)"),
            Self::Reserved { peer_id } => {
                write!(f, "waiting at the relay, until Ctrl-C, as {peer_id}")
            }
            Self::Relayed { peer_id, took } => {
                write!(f, "{peer_id} reached through the relay in {}", Ms(*took))
            }
            Self::Missed { error } => write!(f, "attempt failed: {error}"),
            Self::Direct {
                peer_id,
                addr,
                by_dialer,
            } => {
                write!(f, "{peer_id} is connected directly, at {addr}")?;
                let Some(seen) = by_dialer else { return Ok(()) };
                write!(
                    f,
                    ", {} later, by attempt {}\nping {} directly",
                    Ms(seen.took),
                    seen.attempts,
                    Ms(seen.ping),
                )?;
                seen.relayed.fmt(f)
            }
            Self::Failed {
                peer_id,
                error,
                by_dialer,
            } => {
                write!(f, "{peer_id} is not connected directly: {error}")?;
                let Some(relayed) = by_dialer else {
                    return Ok(());
                };
                relayed.fmt(f)
            }
        }
    }
}

impl fmt::Display for Relayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ping {
            Some(ping) => write!(f, ", ping {} through the relay", Ms(ping)),
            None => f.write_str(", the relayed connection is gone"),
        }
    }
}

struct Ms(Duration);

impl fmt::Display for Ms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} ms", millis(self.0))
    }
}

fn millis(duration: Duration) -> f64 {
    // In microseconds; more digits would be meaningless.
    duration.as_micros() as f64 / 1000.0
}
