//! When to send what, so that the NATs on the way let a peer's first packet in.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use quinn_proto::Transmit;
use rand::{Rng, RngExt, rngs::StdRng};

/// Names a hole punch within its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PunchKey(u64);

/// The hole punches of a shard.
///
/// While a peer behind a NAT dials us, we send to its address from the socket that it dials. What we send opens
/// our NAT for its packets; nobody is meant to read it ([DCUtR]).
///
/// [DCUtR]: https://github.com/libp2p/specs/blob/master/relay/DCUtR.md
pub(super) struct HolePunches<S> {
    active: Vec<HolePunch<S>>,
    next_key: u64,
}

struct HolePunch<S> {
    key: PunchKey,
    socket: S,
    remote_addr: SocketAddr,
    next: Instant,
    until: Instant,
}

impl<S: Clone> HolePunches<S> {
    /// Begins to send to `remote_addr`, now and again until `until`.
    pub(super) fn begin(
        &mut self,
        now: Instant,
        until: Instant,
        remote_addr: SocketAddr,
        socket: S,
    ) -> PunchKey {
        let key = PunchKey(self.next_key);
        self.next_key += 1;
        self.active.push(HolePunch {
            key,
            socket,
            remote_addr,
            next: now,
            until,
        });
        key
    }

    pub(super) fn end(&mut self, key: PunchKey) {
        self.active.retain(|punch| punch.key != key);
    }

    pub(super) fn is_active(&self, key: PunchKey) -> bool {
        self.active.iter().any(|punch| punch.key == key)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.active.is_empty()
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.active
            .iter()
            .map(|punch| punch.next.min(punch.until))
            .min()
    }

    /// The next datagram that is due, its contents in `buf`; those that have gone on for long enough are forgotten.
    pub(super) fn poll_transmit(
        &mut self,
        now: Instant,
        rng: &mut StdRng,
        buf: &mut Vec<u8>,
    ) -> Option<(S, Transmit)> {
        self.active.retain(|punch| punch.until > now);
        let punch = self.active.iter_mut().find(|punch| punch.next <= now)?;
        punch.next = now + rng.random_range(SHORTEST_PAUSE..=LONGEST_PAUSE);
        let size = rng.random_range(SMALLEST..=LARGEST);
        buf.clear();
        buf.resize(size, 0);
        rng.fill_bytes(buf);
        let transmit = Transmit {
            destination: punch.remote_addr,
            ecn: None,
            size,
            segment_size: None,
            src_ip: None,
        };
        Some((punch.socket.clone(), transmit))
    }
}

impl<S> Default for HolePunches<S> {
    fn default() -> Self {
        Self {
            active: Vec::new(),
            next_key: 0,
        }
    }
}

/// Pauses between two datagrams, as the specification has them.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// Sizes in bytes. Too small for a QUIC endpoint to answer with a stateless reset (RFC 9000 §10.3).
const SMALLEST: usize = 8;
const LARGEST: usize = 20;
