//! Timers of a driver whose task has used up tokio's cooperative budget.

use std::{
    future::poll_fn,
    pin::pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::FutureExt;
use tokio::task::coop;

use super::world::{Dialling, World, runtime};
use crate::error::HandshakeError;

/// Longer than any timer of a handshake.
const LONG: Duration = Duration::from_secs(60);

#[test]
fn timer_that_is_due_is_served_although_the_budget_is_exhausted() {
    let runtime = runtime();
    let World {
        mut driver,
        connection,
        socket: _socket,
        ..
    } = World::new(&runtime, Dialling::JustBegun);
    runtime.block_on(async {
        assert!(
            poll_fn(|cx| Poll::Ready(driver.poll_unpin(cx)))
                .await
                .is_pending()
        );
        tokio::time::advance(LONG).await;
        // Twice, because the driver may put a round off.
        for _ in 0..2 {
            let polled = poll_fn(|cx| {
                ready!(exhaust(cx));
                Poll::Ready(driver.poll_unpin(cx))
            });
            assert!(polled.await.is_pending());
        }
        let end =
            poll_fn(|cx| connection.with(|connection| connection.poll_established(cx.waker())));
        assert_eq!(end.now_or_never(), Some(Err(HandshakeError::TimedOut)));
    });
}

#[test]
fn timer_is_not_forgotten_when_the_budget_is_exhausted() {
    let runtime = runtime();
    let World {
        driver,
        mailbox,
        connection,
        socket: _socket,
        ..
    } = World::new(&runtime, Dialling::JustBegun);
    runtime.block_on(async {
        let driver = tokio::spawn(async {
            let mut driver = pin!(driver);
            let mut is_first = true;
            poll_fn(|cx| {
                if std::mem::take(&mut is_first) {
                    ready!(exhaust(cx));
                }
                driver.as_mut().poll(cx)
            })
            .await;
        });
        // tokio advances the paused time when nothing else is runnable, to the next timer; only the
        // driver has one.
        let end =
            poll_fn(|cx| connection.with(|connection| connection.poll_established(cx.waker())));
        assert_eq!(end.await, Err(HandshakeError::TimedOut));
        mailbox.allow_stop();
        driver.await.unwrap();
    });
}

/// Uses up the rest of the task's budget.
fn exhaust(cx: &mut Context<'_>) -> Poll<()> {
    while coop::has_budget_remaining() {
        ready!(coop::poll_proceed(cx)).made_progress();
    }
    Poll::Ready(())
}
