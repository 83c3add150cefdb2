//! The timers of all connections of a shard.

use std::{collections::BTreeSet, time::Instant};

use quinn_proto::ConnectionHandle;

/// One deadline at most for each connection, in one ordered set.
///
/// Deadlines are kept lazily: when one moves back, the earlier one stays until it has come. That costs a
/// turn for nothing now and then, and saves a change of the set for every packet.
#[derive(Default)]
pub(super) struct Deadlines {
    set: BTreeSet<(Instant, usize)>,
}

/// What is in the set for one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Armed(Option<Instant>);

impl Deadlines {
    pub(super) fn first(&self) -> Option<Instant> {
        self.set.first().map(|&(deadline, _)| deadline)
    }

    /// Takes out a connection whose deadline has come; it is not armed any more.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<ConnectionHandle> {
        if self.first()? > now {
            return None;
        }
        self.set
            .pop_first()
            .map(|(_, index)| ConnectionHandle(index))
    }

    pub(super) fn arm(
        &mut self,
        handle: ConnectionHandle,
        armed: &mut Armed,
        deadline: Option<Instant>,
    ) {
        let stays = match (armed.0, deadline) {
            (Some(armed), Some(deadline)) => armed <= deadline,
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if stays {
            return;
        }
        self.disarm(handle, armed);
        if let Some(deadline) = deadline {
            self.set.insert((deadline, handle.0));
            armed.0 = Some(deadline);
        }
    }

    pub(super) fn disarm(&mut self, handle: ConnectionHandle, armed: &mut Armed) {
        if let Some(deadline) = armed.0.take() {
            self.set.remove(&(deadline, handle.0));
        }
    }
}
