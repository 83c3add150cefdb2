//! Which STUN servers to ask, and how often.

use std::{net::SocketAddr, ops::RangeInclusive, time::Duration};

use crate::{address, error::ConfigError};

/// The STUN servers that a [`Behaviour`](super::Behaviour) asks, and the interval. No other server
/// is ever asked.
#[derive(Clone, Debug)]
pub struct Config {
    pub(super) servers: Vec<SocketAddr>,
    pub(super) interval: Duration,
}

impl Config {
    /// Creates a configuration with these servers; with none, nothing is asked.
    ///
    /// Two servers are asked at a time, in this order: the NAT's behaviour can be determined only
    /// with two servers at different IP addresses. The others replace servers that fail or are
    /// late. A server with several addresses may be listed with each of them. A listener asks only
    /// servers that it can reach: an IPv6 listener those with IPv6 addresses, and a loopback
    /// listener only those on loopback.
    ///
    /// Names are not resolved here. The usual port is 3478.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfRange`] for more than 16 servers, or if an address is not unicast or has
    /// port 0.
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

    /// Longest time until the servers are asked again; the shortest is 80 % of it.
    ///
    /// A NAT forgets the mapping of the listener's address if no packet passes, so the requests
    /// also keep the mapping alive. They are sent earlier when an interface gains or loses an
    /// address. Default: 29 s, as in SIP (RFC 5626 §4.4.2), because many NATs forget after 30 s,
    /// contrary to RFC 4787 §4.3.
    ///
    /// It is at least half a second for each listener of an address family, because questions to
    /// one server are half a second apart (RFC 8489 §6.2). So the default cannot hold with more
    /// than 58 listeners of a family, or with fewer if servers are late.
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

/// Servers must not be asked more often than their answers take to arrive. With more than a day
/// between them, requests keep nothing up to date.
const INTERVALS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);

/// More servers than are ever needed. While all of them fail, each costs seven datagrams a round.
const MAX_SERVERS: usize = 16;
