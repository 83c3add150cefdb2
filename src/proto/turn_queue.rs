//! Decides which connection has the next turn.

use std::collections::VecDeque;

use quinn_proto::ConnectionHandle;

/// The most light turns in a row while a heavy one waits.
const MAX_OVERTAKING: usize = 8;

/// How much work a turn had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Load {
    /// A message or two. A task may be waiting for the answer.
    Light,
    /// A transfer, a handshake, or a message to many tasks.
    #[default]
    Heavy,
}

/// Connections that need a turn, each at most once.
///
/// A connection is expected to have as much work as in its last turn. Connections with light turns
/// go first, because their turns take almost no time; otherwise a ping would wait for a part of a
/// transfer at both ends, in both directions. Only a few go first at a time, so that many of them
/// do not hold up the others for long.
#[derive(Debug, Default)]
pub(super) struct TurnQueue {
    light: VecDeque<ConnectionHandle>,
    heavy: VecDeque<ConnectionHandle>,
    /// The number of light turns in a row.
    overtaking: usize,
}

impl TurnQueue {
    pub(super) fn push(&mut self, handle: ConnectionHandle, expected: Load) {
        match expected {
            Load::Light => self.light.push_back(handle),
            Load::Heavy => self.heavy.push_back(handle),
        }
    }

    pub(super) fn pop(&mut self) -> Option<ConnectionHandle> {
        if (self.overtaking < MAX_OVERTAKING || self.heavy.is_empty())
            && let Some(handle) = self.light.pop_front()
        {
            self.overtaking += 1;
            return Some(handle);
        }
        self.overtaking = 0;
        self.heavy.pop_front()
    }

    pub(super) fn len(&self) -> usize {
        self.light.len() + self.heavy.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.light.is_empty() && self.heavy.is_empty()
    }

    /// Whether a connection waits that is expected to have a light turn.
    pub(super) fn has_light(&self) -> bool {
        !self.light.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(queue: &mut TurnQueue) -> Vec<usize> {
        std::iter::from_fn(|| queue.pop().map(|handle| handle.0)).collect()
    }

    #[test]
    fn light_ones_go_first_and_each_kind_in_its_order() {
        let mut queue = TurnQueue::default();
        for (handle, load) in [
            (0, Load::Heavy),
            (1, Load::Light),
            (2, Load::Heavy),
            (3, Load::Light),
        ] {
            queue.push(ConnectionHandle(handle), load);
        }
        assert!(queue.has_light());
        assert_eq!(order(&mut queue), [1, 3, 0, 2]);
        assert!(queue.is_empty());
    }

    #[test]
    fn crowd_of_light_ones_does_not_starve_a_heavy_one() {
        let mut queue = TurnQueue::default();
        let heavy = 1000;
        for _ in 0..3 {
            queue.push(ConnectionHandle(heavy), Load::Heavy);
        }
        for handle in 0..30 {
            queue.push(ConnectionHandle(handle), Load::Light);
        }
        let order = order(&mut queue);
        assert_eq!(order.len(), 33);
        let turns: Vec<_> = (0..order.len())
            .filter(|&turn| order[turn] == heavy)
            .collect();
        assert_eq!(
            turns,
            [
                MAX_OVERTAKING,
                2 * MAX_OVERTAKING + 1,
                3 * MAX_OVERTAKING + 2
            ]
        );
    }
}
