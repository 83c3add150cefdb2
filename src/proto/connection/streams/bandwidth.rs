//! Which streams may move how much, under the limits on bandwidth.

use std::{task::Waker, time::Instant};

use libp2p_identity::PeerId;

use super::{StreamId, Streams};
use crate::proto::bandwidth::{Allowance, Bandwidth, Limits, StreamShare};

/// What a connection may move.
#[derive(Debug, Default)]
pub(super) struct Allowances {
    receive: Allowance,
    send: Allowance,
}

/// What a stream has used of them.
#[derive(Debug, Default)]
pub(super) struct StreamShares {
    receive: StreamShare,
    send: StreamShare,
}

/// The way that data takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Receive,
    Send,
}

impl Streams<'_> {
    /// How many of these bytes a stream may move now. If none, `waker` is woken when it may.
    pub(super) fn permit(&mut self, way: Way, id: StreamId, bytes: usize, waker: &Waker) -> usize {
        // What has arrived can still be read when the connection is over, which has no more turns.
        if way.limits(&self.streams.bandwidth).are_off() || self.loss.is_some() {
            return bytes;
        }
        let bandwidth = self.streams.bandwidth.clone();
        let limits = way.limits(&bandwidth);
        let Some(stream) = self.streams.states.get_mut(&id) else {
            return bytes;
        };
        let allowance = way.allowance(self.streams.allowances.get_or_insert_default());
        let share = way.share(&mut stream.shares);
        let permitted = allowance.permit(limits, share, bytes);
        if permitted == 0 {
            if allowance.hold(limits, id, share) {
                self.turns.want();
            }
            let slot = match way {
                Way::Receive => &mut stream.reader,
                Way::Send => &mut stream.writer,
            };
            self.turns.wait(slot, waker);
        }
        permitted
    }

    /// Notes that a stream has moved bytes.
    pub(super) fn charge(&mut self, way: Way, id: StreamId, bytes: usize) {
        if way.limits(&self.streams.bandwidth).are_off() {
            return;
        }
        let bandwidth = self.streams.bandwidth.clone();
        if let Some(stream) = self.streams.states.get_mut(&id) {
            let allowance = way.allowance(self.streams.allowances.get_or_insert_default());
            let share = way.share(&mut stream.shares);
            if allowance.charge(way.limits(&bandwidth), share, bytes) {
                self.turns.want();
            }
        }
    }

    /// Lets the connection move what its limits permit by now.
    pub(crate) fn grant_bandwidth(&mut self, peer_id: Option<&PeerId>, now: Instant) {
        let Some(mut allowances) = self.streams.allowances.take() else {
            return;
        };
        let bandwidth = self.streams.bandwidth.clone();
        for way in [Way::Receive, Way::Send] {
            let limits = way.limits(&bandwidth);
            for id in way.allowance(&mut allowances).grant(limits, peer_id, now) {
                let Some(stream) = self.streams.states.get_mut(&id) else {
                    continue;
                };
                way.share(&mut stream.shares).release();
                self.turns.wake(match way {
                    Way::Receive => &mut stream.reader,
                    Way::Send => &mut stream.writer,
                });
            }
        }
        self.streams.allowances = Some(allowances);
    }
}

impl Allowances {
    /// When the connection may move more, if streams wait for that.
    pub(super) fn next_grant(&self) -> Option<Instant> {
        let next = [self.receive.next_grant(), self.send.next_grant()];
        next.into_iter().flatten().min()
    }
}

impl Way {
    fn limits(self, bandwidth: &Bandwidth) -> &Limits {
        match self {
            Self::Receive => bandwidth.receive(),
            Self::Send => bandwidth.send(),
        }
    }

    fn allowance(self, allowances: &mut Allowances) -> &mut Allowance {
        match self {
            Self::Receive => &mut allowances.receive,
            Self::Send => &mut allowances.send,
        }
    }

    fn share(self, shares: &mut StreamShares) -> &mut StreamShare {
        match self {
            Self::Receive => &mut shares.receive,
            Self::Send => &mut shares.send,
        }
    }
}
