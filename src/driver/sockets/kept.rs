//! Keeps the shared sockets for dials open for a while after their last use.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::{Duration, Instant},
};

use super::Sockets;
use crate::{driver::socket_group::SocketGroup, net::clock, sync::lock};

/// How long the shared socket for dials stays open after its last use.
///
/// So a node that connects to one peer after another dials from the same port, and opens no socket
/// for each dial. It is as long as the default of `keep_alive_interval`: if a peer has missed the
/// end of its connection, its next keep-alive reaches us, and not another program at the same port.
const UNUSED_TIMEOUT: Duration = Duration::from_secs(5);

impl Sockets {
    /// Closes shared sockets that have been unused for [`UNUSED_TIMEOUT`]. Returns when the next
    /// one is to be closed.
    ///
    /// Drivers call it at the end of each round, because sockets lose their users during rounds.
    pub(in crate::driver) fn close_unused(&self) -> Option<Instant> {
        if !self.has_kept.load(Ordering::Relaxed) {
            return None;
        }
        let mut kept = lock(&self.kept);
        let mut now = None;
        let closed: Vec<_> = kept
            .extract_if(.., |kept| {
                if kept.is_used() {
                    kept.closes_at = None;
                    return false;
                }
                let now = *now.get_or_insert_with(clock::now);
                *kept.closes_at.get_or_insert(now + UNUSED_TIMEOUT) <= now
            })
            .collect();
        self.note_kept(&kept);
        let next = kept.iter().filter_map(|kept| kept.closes_at).min();
        drop(kept);
        drop(closed);
        next
    }

    /// Closes all unused shared sockets.
    pub(in crate::driver) fn close_kept(&self) {
        if self.has_kept.load(Ordering::Relaxed) {
            let mut kept = lock(&self.kept);
            let closed = std::mem::take(&mut *kept);
            self.note_kept(&kept);
            drop(kept);
            drop(closed);
        }
    }

    /// Keeps this socket open for a while after its last use, because a dial leaves from it.
    pub(super) fn keep(&self, socket: &Arc<SocketGroup>) {
        let mut kept = lock(&self.kept);
        match kept.iter_mut().find(|kept| kept.is(socket)) {
            Some(kept) => kept.closes_at = None,
            None => kept.push(Kept {
                socket: Arc::clone(socket),
                closes_at: None,
            }),
        }
        self.note_kept(&kept);
        drop(kept);
        if self.have_stopped() {
            // No driver is left to close it later.
            self.close_kept();
        }
    }

    /// If this socket is kept, keeps its successor instead.
    pub(super) fn keep_instead(&self, socket: &Arc<SocketGroup>, successor: &Arc<SocketGroup>) {
        let mut kept = lock(&self.kept);
        let Some(kept) = kept.iter_mut().find(|kept| kept.is(socket)) else {
            return;
        };
        kept.closes_at = None;
        kept.socket = Arc::clone(successor);
    }

    /// Closes the kept sockets without a user.
    pub(super) fn close_idle(&self) {
        let mut kept = lock(&self.kept);
        let closed: Vec<_> = kept.extract_if(.., |kept| !kept.is_used()).collect();
        self.note_kept(&kept);
        drop(kept);
        drop(closed);
    }

    pub(super) fn is_kept(&self, socket: &Weak<SocketGroup>) -> bool {
        let kept = lock(&self.kept);
        kept.iter()
            .any(|kept| Arc::as_ptr(&kept.socket) == Weak::as_ptr(socket))
    }

    fn note_kept(&self, kept: &[Kept]) {
        self.has_kept.store(!kept.is_empty(), Ordering::Relaxed);
    }
}

/// A socket that stays open for a while after its last use.
pub(super) struct Kept {
    socket: Arc<SocketGroup>,
    /// When it is closed; `None` while it is used.
    closes_at: Option<Instant>,
}

impl Kept {
    fn is(&self, socket: &Arc<SocketGroup>) -> bool {
        Arc::ptr_eq(&self.socket, socket)
    }

    fn is_used(&self) -> bool {
        Arc::strong_count(&self.socket) > 1
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::{
        super::fixture::{open, sockets},
        *,
    };

    const MOMENT: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn kept_socket_is_closed_unused_linger_after_its_last_use() {
        let sockets = sockets();
        let socket = open(&sockets, false);
        sockets.keep(&socket);
        assert_eq!(sockets.close_unused(), None);
        drop(socket);
        let over = clock::now() + UNUSED_TIMEOUT;
        for (wait, next) in [
            (Duration::ZERO, Some(over)),
            (UNUSED_TIMEOUT - MOMENT, Some(over)),
            (MOMENT, None),
        ] {
            advance(wait).await;
            assert_eq!(sockets.close_unused(), next);
            assert_eq!(sockets.open(), usize::from(next.is_some()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn use_of_a_kept_socket_begins_its_time_anew() {
        let sockets = sockets();
        sockets.keep(&open(&sockets, false));
        assert!(sockets.close_unused().is_some());
        advance(UNUSED_TIMEOUT).await;
        let user = Arc::clone(&lock(&sockets.kept)[0].socket);
        assert_eq!(sockets.close_unused(), None);
        drop(user);
        let over = clock::now() + UNUSED_TIMEOUT;
        assert_eq!(sockets.close_unused(), Some(over));
    }

    #[tokio::test(start_paused = true)]
    async fn next_socket_to_close_is_the_one_unused_for_longest() {
        let sockets = sockets();
        let [first, second] = [(); 2].map(|()| open(&sockets, false));
        sockets.keep(&second);
        sockets.keep(&first);
        drop(first);
        let over = clock::now() + UNUSED_TIMEOUT;
        assert_eq!(sockets.close_unused(), Some(over));
        advance(MOMENT).await;
        drop(second);
        assert_eq!(sockets.close_unused(), Some(over));
        advance(UNUSED_TIMEOUT - MOMENT).await;
        assert_eq!(sockets.close_unused(), Some(over + MOMENT));
        assert_eq!(sockets.open(), 1);
        // A rebind closes what nobody uses.
        sockets.close_idle();
        assert_eq!(sockets.open(), 0);
    }
}
