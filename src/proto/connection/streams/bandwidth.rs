//! Which streams may move how much, under the limits on bandwidth.

use std::{task::Waker, time::Instant};

use libp2p_identity::PeerId;

use super::{StreamId, StreamState, StreamStates, Streams};
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
    /// How many of these bytes, at least one, a stream may move now. If none, `waker` is woken when
    /// it may.
    pub(super) fn permit(&mut self, way: Way, id: StreamId, bytes: usize, waker: &Waker) -> usize {
        let StreamStates {
            bandwidth,
            allowances,
            states,
            ..
        } = &mut *self.streams;
        let limits = way.limits(bandwidth);
        let epoch = limits.epoch();
        // What has arrived can still be read when the connection is over, which has no more turns.
        if epoch.is_off() || self.loss.is_some() {
            return bytes;
        }
        let Some(stream) = states.get_mut(&id) else {
            return bytes;
        };
        let allowance = way.allowance(allowances.get_or_insert_default());
        let share = way.share(&mut stream.shares);
        let permitted = allowance.permit(epoch, share, bytes);
        if permitted == 0 {
            if allowance.hold(limits, id, share) {
                self.signals.want_turn();
            }
            self.signals.wait(way.waker(stream), waker);
        }
        permitted
    }

    /// Notes that a stream has moved bytes.
    pub(super) fn charge(&mut self, way: Way, id: StreamId, bytes: usize) {
        let StreamStates {
            bandwidth,
            allowances,
            states,
            ..
        } = &mut *self.streams;
        let epoch = way.limits(bandwidth).epoch();
        if epoch.is_off() || bytes == 0 || self.loss.is_some() {
            return;
        }
        if let Some(stream) = states.get_mut(&id) {
            let allowance = way.allowance(allowances.get_or_insert_default());
            if allowance.charge(epoch, way.share(&mut stream.shares), bytes) {
                self.signals.want_turn();
            }
        }
    }

    /// Lets the connection move what its limits permit by now.
    pub(crate) fn grant_bandwidth(&mut self, peer_id: Option<&PeerId>, now: Instant) {
        let StreamStates {
            bandwidth,
            allowances: Some(allowances),
            states,
            ..
        } = &mut *self.streams
        else {
            return;
        };
        for way in [Way::Receive, Way::Send] {
            let limits = way.limits(bandwidth);
            for id in way.allowance(allowances).grant(limits, peer_id, now) {
                let Some(stream) = states.get_mut(&id) else {
                    continue;
                };
                way.share(&mut stream.shares).release();
                self.signals.make_due(way.waker(stream));
            }
        }
    }
}

impl StreamStates {
    /// Forgets that a stream waits for the limits, because it is gone.
    pub(super) fn forget_shares(&mut self, id: StreamId, shares: &StreamShares) {
        if let Some(allowances) = &mut self.allowances {
            allowances.receive.forget(id, &shares.receive);
            allowances.send.forget(id, &shares.send);
        }
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

    fn waker(self, stream: &mut StreamState) -> &mut Option<Waker> {
        match self {
            Self::Receive => &mut stream.reader,
            Self::Send => &mut stream.writer,
        }
    }

    fn share(self, shares: &mut StreamShares) -> &mut StreamShare {
        match self {
            Self::Receive => &mut shares.receive,
            Self::Send => &mut shares.send,
        }
    }
}
