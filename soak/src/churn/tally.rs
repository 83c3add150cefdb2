//! The ends of connections and streams, as their dialer saw them.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// The end of a connection, or of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    Closed,
    MuxerDropped,
    MuxerDroppedByListener,
    DialAbandoned,
    DialRefused,
    HandshakeAbandonedByListener,
    WrongPeer,
    NobodyThere,
    TimedOut,
    StreamEchoed,
    StreamReset,
    StreamLeft,
    StreamResetByListener,
    StreamLeftByListener,
    StreamCutOff,
}

impl Outcome {
    pub const ALL: [Self; 15] = [
        Self::Closed,
        Self::MuxerDropped,
        Self::MuxerDroppedByListener,
        Self::DialAbandoned,
        Self::DialRefused,
        Self::HandshakeAbandonedByListener,
        Self::WrongPeer,
        Self::NobodyThere,
        Self::TimedOut,
        Self::StreamEchoed,
        Self::StreamReset,
        Self::StreamLeft,
        Self::StreamResetByListener,
        Self::StreamLeftByListener,
        Self::StreamCutOff,
    ];

    pub fn label(self) -> &'static str {
        match self {
            Self::Closed => "connections closed",
            Self::MuxerDropped => "muxers dropped with open streams",
            Self::MuxerDroppedByListener => "muxers dropped by the listener",
            Self::DialAbandoned => "dials abandoned",
            Self::DialRefused => "dials refused",
            Self::HandshakeAbandonedByListener => "handshakes abandoned by the listener",
            Self::WrongPeer => "dials of a wrong peer",
            Self::NobodyThere => "dials where nobody listens",
            Self::TimedOut => "connections timed out",
            Self::StreamEchoed => "streams echoed",
            Self::StreamReset => "streams reset",
            Self::StreamLeft => "streams dropped",
            Self::StreamResetByListener => "streams reset by the listener",
            Self::StreamLeftByListener => "streams dropped by the listener",
            Self::StreamCutOff => "streams cut off with their connection",
        }
    }

    /// Timeouts occur only on a busy machine.
    pub fn must_occur(self) -> bool {
        self != Self::TimedOut
    }
}

#[derive(Default)]
pub struct Tally {
    connections: AtomicU64,
    streams: AtomicU64,
    outcomes: Mutex<BTreeMap<Outcome, u64>>,
    failures: Mutex<Vec<String>>,
}

impl Tally {
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    pub fn streams(&self) -> u64 {
        self.streams.load(Ordering::Relaxed)
    }

    pub fn outcomes(&self) -> BTreeMap<Outcome, u64> {
        lock(&self.outcomes).clone()
    }

    /// Unexpected results.
    pub fn failures(&self) -> Vec<String> {
        lock(&self.failures).clone()
    }

    pub fn count_connection(&self, ended: Result<Outcome, String>) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.count(ended);
    }

    pub fn count_stream(&self, ended: Result<Outcome, String>) {
        self.streams.fetch_add(1, Ordering::Relaxed);
        self.count(ended);
    }

    fn count(&self, ended: Result<Outcome, String>) {
        match ended {
            Ok(outcome) => *lock(&self.outcomes).entry(outcome).or_default() += 1,
            Err(failure) => lock(&self.failures).push(failure),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
