//! Says that the kernel grants smaller socket buffers than it was asked for.
//!
//! Its limits are those of the machine: each socket, listener and transport would only repeat what
//! the first one said.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use crate::net::{BufferSizes, Shortfall};

/// Warns once in each process of receive buffers, and once of send buffers. If a later socket is
/// granted even less, an event at the level `debug` says so.
pub(super) fn report(asked: BufferSizes, reported: BufferSizes, addr: SocketAddr) {
    static RECEIVE: Least = Least::new();
    static SEND: Least = Least::new();

    let shortfalls = asked.shortfalls(reported);
    for (shortfall, least) in shortfalls.into_iter().zip([&RECEIVE, &SEND]) {
        if let Some(shortfall) = shortfall {
            report_one(shortfall, least, addr);
        }
    }
}

fn report_one(shortfall: Shortfall, least: &Least, addr: SocketAddr) {
    let Shortfall {
        asked,
        granted,
        sysctl,
    } = shortfall;
    // A program may begin to log after it has opened its first socket.
    if !tracing::enabled!(tracing::Level::WARN) {
        return;
    }
    match least.note(granted) {
        News::First => tracing::warn!(
            sysctl,
            asked,
            granted,
            %addr,
            "the kernel grants less socket buffer than asked for, so bursts may be lost; this is \
             said once"
        ),
        News::EvenLess => tracing::debug!(
            sysctl,
            asked,
            granted,
            %addr,
            "the kernel grants even less socket buffer"
        ),
        News::Nothing => {}
    }
}

/// The smallest size of which this process was told, in bytes.
struct Least(AtomicUsize);

#[derive(Debug, PartialEq, Eq)]
enum News {
    First,
    EvenLess,
    Nothing,
}

impl Least {
    const fn new() -> Self {
        Self(AtomicUsize::new(usize::MAX))
    }

    fn note(&self, granted: usize) -> News {
        match self.0.fetch_min(granted, Ordering::Relaxed) {
            usize::MAX => News::First,
            least if granted < least => News::EvenLess,
            _ => News::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_smaller_buffer_is_news_after_the_first_one() {
        let least = Least::new();
        let notes = [200, 300, 200, 100, 100, 200].map(|granted| least.note(granted));
        assert_eq!(
            notes,
            [
                News::First,
                News::Nothing,
                News::Nothing,
                News::EvenLess,
                News::Nothing,
                News::Nothing
            ]
        );
    }
}
