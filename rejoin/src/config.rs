//! The settings.

use std::{
    num::{NonZeroU8, NonZeroUsize},
    path::PathBuf,
    time::Duration,
};

use libp2p_core::Multiaddr;

/// The settings of a [`Behaviour`](crate::Behaviour).
///
/// The defaults remember 200 peers in memory, know no bootstrap address and use no file.
#[derive(Debug, Clone)]
pub struct Config {
    pub(crate) capacity: NonZeroUsize,
    pub(crate) target: usize,
    pub(crate) batch: NonZeroUsize,
    pub(crate) backoff: Backoff,
    pub(crate) max_failures: NonZeroU8,
    pub(crate) bootstrap: Vec<Multiaddr>,
    pub(crate) file: Option<PathBuf>,
    pub(crate) save_interval: Duration,
}

/// How long it takes from one round of dials to the next.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    pub(crate) initial: Duration,
    pub(crate) longest: Duration,
}

/// Each entry takes some hundred bytes, and a few live ones are enough to find the others.
const CAPACITY: NonZeroUsize = NonZeroUsize::new(200).expect("not zero");

/// With as many peers, a node is still connected when some of them leave. kubo starts to bootstrap
/// below the same number.
const TARGET: usize = 4;

/// As many as the default target: one round is enough where all of them answer.
const BATCH: NonZeroUsize = NonZeroUsize::new(4).expect("not zero");

/// A handshake takes less than 2 s almost everywhere. With 5 minutes, a node that is offline for
/// long is connected soon after, and costs the bootstrap peers nearly nothing.
const BACKOFF: Backoff = Backoff {
    initial: Duration::from_secs(2),
    longest: Duration::from_secs(5 * 60),
};

/// No faster rounds, so that no setting makes them a flood.
const SHORTEST_BACKOFF: Duration = Duration::from_millis(10);

/// A peer rests for the longest backoff after each failure, so three take ten minutes or more: it
/// is not a restart.
const MAX_FAILURES: NonZeroU8 = NonZeroU8::new(3).expect("not zero");

/// A crash loses at most what was learned in a minute, and a disk writes 60 KB a minute at most.
const SAVE_INTERVAL: Duration = Duration::from_secs(60);

/// Each save waits for the disk.
const SHORTEST_SAVE_INTERVAL: Duration = Duration::from_secs(1);

/// Durations above are the same as never.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

impl Default for Config {
    fn default() -> Self {
        Self {
            capacity: CAPACITY,
            target: TARGET,
            batch: BATCH,
            backoff: BACKOFF,
            max_failures: MAX_FAILURES,
            bootstrap: Vec::new(),
            file: None,
            save_interval: SAVE_INTERVAL,
        }
    }
}

impl Config {
    /// How many peers are remembered.
    ///
    /// The peer that was reached least recently makes room for a new one, but a peer that is
    /// connected stays. At most 10 of them have addresses in the same public network (an IPv4 /24,
    /// an IPv6 /48, or a DNS name), so that one host with many peer IDs does not fill the memory.
    ///
    /// Default: 200, of which some are alive after a long absence.
    pub fn with_capacity(mut self, peers: NonZeroUsize) -> Self {
        self.capacity = peers;
        self
    }

    /// How many peers are enough: below it, remembered peers and bootstrap addresses are dialled.
    ///
    /// Peers count that we have dialled by our own choice, now or earlier. Peers that only dialled
    /// us do not, so that they cannot keep this node from others. With 0, peers are remembered
    /// but never dialled.
    ///
    /// Default: 4, with which a node is still connected when some of them leave.
    pub fn with_target(mut self, peers: usize) -> Self {
        self.target = peers;
        self
    }

    /// How many remembered peers are dialled at the same time, and how many bootstrap peers beside
    /// them. The number of connections may exceed the target by that many.
    ///
    /// Default: 4. More join faster where most of the remembered peers are gone.
    pub fn with_batch(mut self, peers: NonZeroUsize) -> Self {
        self.batch = peers;
        self
    }

    /// How long it takes from the first round of dials to the second, and the longest time between
    /// two rounds. It doubles from round to round, and varies by a quarter.
    ///
    /// The second round is the first that also dials bootstrap addresses. A peer whose dial has
    /// failed is left alone for `longest`. `initial` is at least 10 ms, and `longest` is between
    /// `initial` and a day; values beyond are replaced by these limits.
    ///
    /// Default: 2 s, in which nearly all handshakes are finished, and 5 minutes.
    pub fn with_backoff(mut self, initial: Duration, longest: Duration) -> Self {
        let initial = initial.clamp(SHORTEST_BACKOFF, LONGEST);
        self.backoff = Backoff {
            initial,
            longest: longest.clamp(initial, LONGEST),
        };
        self
    }

    /// After how many failures in a row a peer is forgotten.
    ///
    /// A failure counts if a dial to another peer succeeds within a minute: otherwise our own
    /// network may be the cause.
    ///
    /// Default: 3, which takes more than a restart of the peer.
    pub fn with_max_failures(mut self, failures: NonZeroU8) -> Self {
        self.max_failures = failures;
        self
    }

    /// Addresses to dial where the remembered peers are not enough, each with or without `/p2p/…`.
    ///
    /// They are dialled a few at a time, in random order, from the second round on; in the first if
    /// no peer is remembered. They are never given up.
    ///
    /// Default: none. Then a node whose remembered peers are all gone has to be told of others.
    pub fn with_bootstrap(mut self, addresses: impl IntoIterator<Item = Multiaddr>) -> Self {
        self.bootstrap = addresses.into_iter().collect();
        self
    }

    /// The file to read at the start, and to write while running and on
    /// [`Behaviour::save`](crate::Behaviour::save).
    ///
    /// Its directory has to exist. Of several processes that use the same file, the last one to
    /// write wins, and the file is always as one of them has written it. The drop of the behaviour
    /// waits up to two seconds for a write that is under way.
    ///
    /// Default: none. [`Behaviour::snapshot`](crate::Behaviour::snapshot) and
    /// [`restore`](crate::Behaviour::restore) let the application keep the peers elsewhere.
    pub fn with_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(path.into());
        self
    }

    /// How often the file is written, if anything has changed.
    ///
    /// At least 1 s and at most a day; values beyond are replaced by these limits.
    ///
    /// Default: 1 minute, which bounds what a crash loses.
    pub fn with_save_interval(mut self, interval: Duration) -> Self {
        self.save_interval = interval.clamp(SHORTEST_SAVE_INTERVAL, LONGEST);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_kept_within_their_limits() {
        let config = Config::default()
            .with_backoff(Duration::ZERO, Duration::ZERO)
            .with_save_interval(Duration::ZERO);
        assert_eq!(config.backoff.initial, SHORTEST_BACKOFF);
        assert_eq!(config.backoff.longest, SHORTEST_BACKOFF);
        assert_eq!(config.save_interval, SHORTEST_SAVE_INTERVAL);

        let config = Config::default()
            .with_backoff(Duration::MAX, Duration::MAX)
            .with_save_interval(Duration::MAX);
        assert_eq!(config.backoff.initial, LONGEST);
        assert_eq!(config.backoff.longest, LONGEST);
        assert_eq!(config.save_interval, LONGEST);
    }
}
