//! Connections that have ended while streams of the peer wait for the application.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
    task::Waker,
    time::{Duration, Instant},
};

use super::connection::{Connection, SharedConnection, lock_connection};
use crate::sync::Mutex;

/// Ended connections whose streams can still be taken, oldest first.
#[derive(Default)]
pub(super) struct UntakenStreams(VecDeque<(Instant, Weak<Mutex<Connection>>)>);

impl UntakenStreams {
    /// Adds a connection that has ended while streams wait.
    pub(super) fn push(&mut self, now: Instant, connection: &SharedConnection) {
        self.0
            .push_back((now + PATIENCE, Arc::downgrade(connection)));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// When the next streams are to be dropped.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.0.front().map(|&(until, _)| until)
    }

    /// Drops streams that were not taken in time. Adds the wakers of tasks that wait for the end of
    /// the connection.
    pub(super) fn expire(&mut self, now: Instant, wakers: &mut Vec<Waker>) {
        while self.next_timeout().is_some_and(|until| until <= now) {
            self.drop_first(wakers);
        }
        if self.0.is_empty() {
            // The queue is empty, so the memory of a burst is freed.
            self.0 = VecDeque::new();
        }
    }

    /// Drops all of them.
    pub(super) fn clear(&mut self, wakers: &mut Vec<Waker>) {
        while !self.0.is_empty() {
            self.drop_first(wakers);
        }
    }

    fn drop_first(&mut self, wakers: &mut Vec<Waker>) {
        let first = self.0.pop_front();
        let Some(connection) = first.and_then(|(_, connection)| connection.upgrade()) else {
            return;
        };
        let mut connection = lock_connection(&connection);
        connection.drop_untaken();
        connection.take_due(wakers);
    }
}

/// How long an application has to take the streams. A Swarm takes a stream as soon as it is polled.
/// Streams that nobody takes must not delay the report of the connection's end for long.
const PATIENCE: Duration = Duration::from_secs(1);
