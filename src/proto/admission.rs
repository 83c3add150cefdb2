//! Whom to let in: limits on incoming connections whose handshake is not complete.

use super::sources::{Source, Sources};

/// Limits of one shard on unfinished handshakes of incoming connections, those that wait for the application's answer
/// among them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdmissionLimits {
    pub(crate) handshakes: usize,
    pub(crate) per_source: usize,
    /// Of datagrams that wait.
    pub(crate) bytes_per_source: usize,
    /// How many of them, from anywhere, make it ask for a Retry; `None` never asks.
    pub(crate) retry_from: Option<usize>,
}

/// Counts unfinished handshakes, and decides about more.
///
/// A packet says where it comes from, and anyone can write anything there. So an address is held against its owner only
/// once it is proven; until then it is a reason to ask for the proof, which costs the owner a round trip, and nobody
/// else can give it.
pub(super) struct Admissions {
    limits: AdmissionLimits,
    unfinished: usize,
    sources: Sources,
}

/// Why a first packet is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rejection {
    /// The sender may have forged its address, and has to prove it first.
    Unproven,
    /// There is no room for what it would hold.
    Full,
    /// Its source has as many unfinished handshakes as it may.
    SourceFull,
}

/// One unfinished handshake, to be given back when it is over.
#[derive(Debug)]
#[must_use = "a handshake that is not given back counts for ever"]
pub(super) struct Admission(Source);

impl Admissions {
    pub(super) fn new(limits: AdmissionLimits) -> Self {
        Self {
            limits,
            unfinished: 0,
            sources: Sources::default(),
        }
    }

    /// Networks with unfinished handshakes.
    pub(super) fn sources(&self) -> usize {
        self.sources.len()
    }

    /// Whether there are as many as there may be, so that nobody is let in.
    pub(super) fn is_full(&self) -> bool {
        self.unfinished >= self.limits.handshakes
    }

    /// Lets one in, unless there is a reason not to; so many bytes of it have arrived. `has_room` is whether there is
    /// memory for them at all.
    pub(super) fn admit(
        &mut self,
        source: Source,
        bytes: usize,
        has_room: bool,
    ) -> Result<Admission, Rejection> {
        if self.needs_proof(source, has_room) {
            return Err(Rejection::Unproven);
        }
        let is_full = self.sources.is_full(source.ip, self.limits.per_source);
        if source.is_proven && is_full || !self.may_hold(source, bytes) {
            return Err(Rejection::SourceFull);
        }
        if !has_room {
            return Err(Rejection::Full);
        }
        self.unfinished += 1;
        self.sources.add(source);
        self.sources.hold(source, bytes);
        Ok(Admission(source))
    }

    /// Whether a source may hold so many bytes more.
    pub(super) fn may_hold(&self, source: Source, bytes: usize) -> bool {
        let limit = self.limits.bytes_per_source;
        !source.is_proven || self.sources.has_room(source.ip, bytes, limit)
    }

    /// One that was admitted holds so many bytes more.
    pub(super) fn hold(&mut self, source: Source, bytes: usize) {
        self.sources.hold(source, bytes);
    }

    /// One that was admitted waits no more, and holds so many bytes less.
    pub(super) fn let_go(&mut self, source: Source, bytes: usize) {
        self.sources.let_go(source, bytes);
    }

    /// A handshake is over, however it went.
    pub(super) fn release(&mut self, Admission(source): Admission) {
        self.unfinished -= 1;
        self.sources.remove(source);
    }

    /// Whether whoever it is has to prove the address before it costs anything.
    fn needs_proof(&self, source: Source, has_room: bool) -> bool {
        let Some(retry_from) = self.limits.retry_from else {
            return false;
        };
        let is_busy = self.unfinished >= retry_from
            || !has_room
            || self.sources.is_busy(source.ip, self.limits.per_source);
        is_busy && !source.is_proven
    }
}
