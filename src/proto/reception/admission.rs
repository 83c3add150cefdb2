//! Limits on incoming connections whose handshake is not complete.

use super::sources::{Source, Sources};

/// Limits of one shard on unfinished handshakes of incoming connections, including connections that
/// wait for the application's answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdmissionLimits {
    pub(crate) handshakes: usize,
    pub(crate) per_source: usize,
    /// The most bytes of waiting datagrams of one source.
    pub(crate) bytes_per_source: usize,
    /// The number of unfinished handshakes, of all sources, from which on a Retry is required;
    /// `None` never requires one.
    pub(crate) retry_from: Option<usize>,
}

/// Counts unfinished handshakes, and admits new ones.
///
/// Anyone can forge the source address of a packet. So a packet counts against its address only
/// once the address is proven. Until then, many packets from an address are only a reason to
/// require a proof. The proof costs the owner of the address one round trip, and nobody else can
/// give it.
pub(super) struct Admissions {
    limits: AdmissionLimits,
    unfinished: usize,
    sources: Sources,
}

/// The reason why a first packet is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proto) enum Rejection {
    /// The sender may have forged its address and has to prove it first.
    Unproven,
    /// The datagrams that wait at the shard leave no room for its own.
    Overload,
    /// Its source has as many unfinished handshakes as it may have.
    SourceFull,
}

/// One unfinished handshake. It must be passed to [`Admissions::release`] at its end.
#[derive(Debug)]
#[must_use = "a handshake that is not given back counts for ever"]
pub(in crate::proto) struct Admission(Source);

impl Admissions {
    pub(super) fn new(limits: AdmissionLimits) -> Self {
        Self {
            limits,
            unfinished: 0,
            sources: Sources::default(),
        }
    }

    /// The number of networks with unfinished handshakes.
    pub(super) fn sources(&self) -> usize {
        self.sources.len()
    }

    /// Whether the limit is reached, so that no connection is admitted.
    pub(super) fn is_full(&self) -> bool {
        self.unfinished >= self.limits.handshakes
    }

    /// Admits a handshake that has received `bytes` bytes, unless there is a reason not to.
    /// `has_room` is whether there is memory for them.
    pub(super) fn admit(
        &mut self,
        source: Source,
        bytes: usize,
        has_room: bool,
    ) -> Result<Admission, Rejection> {
        if self.needs_proof(source, has_room) {
            return Err(Rejection::Unproven);
        }
        let is_full = self.sources.is_full(source.ip, self.share());
        if source.is_proven && is_full || !self.may_hold(source, bytes) {
            return Err(Rejection::SourceFull);
        }
        if !has_room {
            return Err(Rejection::Overload);
        }
        self.unfinished += 1;
        self.sources.add(source);
        self.sources.hold(source, bytes);
        Ok(Admission(source))
    }

    /// How many handshakes a source with a proven address may have now. The number shrinks with the
    /// square of the share of free places: with half of the places free, it is a quarter of the
    /// limit.
    ///
    /// So a party with many addresses cannot take all places, as long as it has fewer addresses
    /// than there are places.
    fn share(&self) -> usize {
        let AdmissionLimits {
            handshakes,
            per_source,
            ..
        } = self.limits;
        if per_source >= handshakes {
            // One source may have all places.
            return per_source;
        }
        let left = handshakes.saturating_sub(self.unfinished);
        let part = |of: u128| (of * left as u128).div_ceil(handshakes as u128);
        // The result does not exceed `per_source`.
        usize::try_from(part(part(per_source as u128))).unwrap_or(per_source)
    }

    /// Whether a source may hold this many more bytes.
    pub(super) fn may_hold(&self, source: Source, bytes: usize) -> bool {
        let limit = self.limits.bytes_per_source;
        !source.is_proven || self.sources.has_room(source.ip, bytes, limit)
    }

    /// Notes that an admitted handshake holds this many more bytes.
    pub(super) fn hold(&mut self, source: Source, bytes: usize) {
        self.sources.hold(source, bytes);
    }

    /// Notes that an admitted handshake no longer waits, and holds this many fewer bytes.
    pub(super) fn let_go(&mut self, source: Source, bytes: usize) {
        self.sources.let_go(source, bytes);
    }

    /// Gives an admission back, however the handshake ended.
    pub(super) fn release(&mut self, Admission(source): Admission) {
        self.unfinished -= 1;
        self.sources.remove(source);
    }

    /// Whether the sender has to prove its address before we spend resources on it.
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

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    const DEFAULTS: AdmissionLimits = AdmissionLimits {
        handshakes: 1024,
        per_source: 128,
        bytes_per_source: usize::MAX,
        retry_from: Some(256),
    };

    fn proven(number: u16) -> Source {
        let [a, b] = number.to_be_bytes();
        Source {
            ip: IpAddr::V4(Ipv4Addr::new(198, 18, a, b)),
            is_proven: true,
        }
    }

    /// The number of places that each source gets if they take turns until none gets another one.
    fn filled(admissions: &mut Admissions, sources: u16) -> Vec<usize> {
        let mut places = vec![0; sources.into()];
        loop {
            let mut news = 0;
            for (number, places) in (0..sources).zip(&mut places) {
                if let Ok(admission) = admissions.admit(proven(number), 0, true) {
                    // The handshake never ends.
                    let Admission(_) = admission;
                    *places += 1;
                    news += 1;
                }
            }
            if news == 0 {
                return places;
            }
        }
    }

    #[test]
    fn however_many_sources_fill_their_share_there_is_a_place_for_another_one() {
        for sources in [1, 7, 8, 9, 50, 300, 1000] {
            let mut admissions = Admissions::new(DEFAULTS);
            let places = filled(&mut admissions, sources);
            let (least, most) = (places.iter().min(), places.iter().max());
            assert!(*least.unwrap() >= 1 && *most.unwrap() <= least.unwrap() + 1);
            // With up to 300 sources that have all they can get, a hundred others are admitted.
            let others = if sources > 300 { 1 } else { 100 };
            for number in sources..sources + others {
                let newcomer = admissions.admit(proven(number), 0, true);
                assert!(newcomer.is_ok(), "{number} beside {sources}");
            }
        }
    }

    #[test]
    fn one_source_alone_gets_most_of_its_limit() {
        let mut admissions = Admissions::new(DEFAULTS);
        let places = filled(&mut admissions, 1)[0];
        assert!((100..=128).contains(&places), "{places}");
    }

    #[test]
    fn a_source_that_may_have_all_places_gets_them() {
        for per_source in [16, usize::MAX] {
            let mut admissions = Admissions::new(AdmissionLimits {
                handshakes: 16,
                per_source,
                ..DEFAULTS
            });
            let mut admitted = 0;
            while !admissions.is_full() {
                let admission = admissions.admit(proven(1), 0, true);
                assert!(admission.is_ok());
                admitted += 1;
            }
            assert_eq!(admitted, 16);
        }
    }
}
