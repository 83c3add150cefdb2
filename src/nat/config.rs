//! Which servers to ask, and how often.

use std::{net::SocketAddr, ops::RangeInclusive, time::Duration};

use crate::{address, error::ConfigError};

/// Which STUN servers a [`Behaviour`](super::Behaviour) asks, and how often. No other server is ever asked.
#[derive(Clone, Debug)]
pub struct Config {
    pub(super) servers: Vec<SocketAddr>,
    pub(super) interval: Duration,
}

impl Config {
    /// Asks these servers; none at all if there are none.
    ///
    /// Two are asked at a time, in this order, because it takes two to tell how the NAT behaves, at two different IP
    /// addresses. The others are for when those fail, or are late; a server that is at several addresses may be listed
    /// with each. A listener asks the servers that it can reach: over IPv6 if that is what it listens at, and a
    /// loopback listener only those on loopback.
    ///
    /// Names are not resolved here. The usual port is 3478.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfRange`] if there are more than 16, or if one of them is no address to send to.
    pub fn new(servers: impl IntoIterator<Item = SocketAddr>) -> Result<Self, ConfigError> {
        let servers: Vec<_> = servers.into_iter().take(MAX_SERVERS + 1).collect();
        if servers.len() > MAX_SERVERS || !servers.iter().copied().all(address::is_unicast) {
            return Err(ConfigError::OutOfRange {
                name: "servers",
                expected: "at most 16 unicast addresses with a port",
            });
        }
        Ok(Self {
            servers,
            interval: INTERVAL,
        })
    }

    /// How long to wait at most before the servers are asked again; at least it is 80 % of that.
    ///
    /// A NAT that hears nothing from the listener's socket forgets its address, so the question also keeps it alive.
    /// They are asked before, too, when an interface gets or loses an address. Default: 29 s, as SIP has it
    /// (RFC 5626 §4.4.2), because many NATs forget after 30 s, against RFC 4787 §4.3.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfRange`] if it is not between 1 s and 24 h.
    pub fn interval(mut self, value: Duration) -> Result<Self, ConfigError> {
        if !INTERVALS.contains(&value) {
            return Err(ConfigError::OutOfRange {
                name: "interval",
                expected: "between 1 s and 24 h",
            });
        }
        self.interval = value;
        Ok(self)
    }
}

/// The upper bound of RFC 5626 §4.4.2.
const INTERVAL: Duration = Duration::from_secs(29);

/// Servers are not to be asked more often than their answers take to come back; and after a day the question is new.
const INTERVALS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);

/// More than are ever needed; while all of them fail, each costs seven datagrams a round.
const MAX_SERVERS: usize = 16;
