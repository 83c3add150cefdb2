//! Hosts from which nothing comes back to a listener's port.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use crate::{
    address::Host,
    known_hosts::{KnownHosts, Passing},
    sync::{Mutex, lock},
};

/// Hosts that dials from a listener's port do not reach, where those from another port may.
///
/// A router may have kept a mapping of the port that leads nowhere any more, for instance since it has got another
/// address. What we send from the port keeps the mapping alive. Mostly, though, such hosts are dead.
#[derive(Default)]
pub(super) struct SilentHosts {
    hosts: Mutex<KnownHosts<Silent>>,
    /// Dials that have left from another port.
    dials: AtomicU64,
}

/// What is known of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Silent {
    stage: Stage,
    until: Instant,
    /// When the listener's port is to be tried again, although another one is answered.
    retry_at: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// One dial has heard nothing.
    Once,
    /// Another one has not either.
    Twice,
    /// A dial from another port has heard something since.
    AnswersElsewhere,
}

/// Which port a dial to a host is to leave from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Advice {
    /// The listener's.
    Listener,
    /// The listener's at first. A peer that punches a hole at the same time knows no other.
    ListenerFirst,
    Other,
}

/// Where a dial has left from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Departure {
    pub(super) host: Host,
    pub(super) port: Port,
    /// When the time for its handshake is over.
    pub(super) deadline: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Port {
    Listener {
        number: u16,
        /// Whether it is given up early, to leave from another one.
        is_first: bool,
    },
    /// The one that is shared by dials, in place of a listener's.
    Other,
    /// The one that was asked for.
    Own,
}

/// What has come back to a dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Nothing,
    Something,
}

impl SilentHosts {
    pub(super) fn advice(&self, now: Instant, host: Host) -> Advice {
        let silent = lock(&self.hosts).get(host).copied();
        match silent.filter(|silent| !silent.is_over(now)) {
            None => Advice::Listener,
            Some(silent) => match silent.stage {
                Stage::Once => Advice::Listener,
                Stage::Twice => Advice::ListenerFirst,
                Stage::AnswersElsewhere if now >= silent.retry_at => Advice::ListenerFirst,
                Stage::AnswersElsewhere => Advice::Other,
            },
        }
    }

    /// Learns from a dial that is over. `comes_through` tells whether something else from the host comes to
    /// the listener's port.
    pub(super) fn learn(
        &self,
        now: Instant,
        departure: &Departure,
        heard: Heard,
        comes_through: impl FnOnce(u16) -> bool,
    ) {
        let host = departure.host;
        let known = || {
            let known = lock(&self.hosts).get(host).copied();
            known.filter(|silent| !silent.is_over(now))
        };
        let mut retry_at = now + REMEMBERED;
        let stage = match (departure.port, heard) {
            (Port::Own, _) => return,
            (Port::Listener { .. }, Heard::Something) => {
                lock(&self.hosts).forget(host);
                return;
            }
            (Port::Listener { number, .. }, Heard::Nothing) => match known() {
                None => Stage::Once,
                Some(silent) if silent.stage == Stage::Once => {
                    if comes_through(number) {
                        return;
                    }
                    Stage::Twice
                }
                Some(silent) => silent.stage,
            },
            (Port::Other, Heard::Something) => {
                // It may not have been the port: the host was gone for a while, for instance.
                retry_at = known().map_or(retry_at, |silent| silent.retry_at);
                Stage::AnswersElsewhere
            }
            // Most likely nobody is there.
            (Port::Other, Heard::Nothing) => Stage::Twice,
        };
        let until = now + REMEMBERED;
        let silent = Silent {
            stage,
            until,
            retry_at,
        };
        lock(&self.hosts).note(now, host, silent);
    }

    pub(super) fn count_dial(&self) {
        self.dials.fetch_add(1, Ordering::Relaxed);
    }

    /// How many dials have left from another port.
    pub(super) fn dials(&self) -> u64 {
        self.dials.load(Ordering::Relaxed)
    }

    pub(super) fn reset_stats(&self) {
        self.dials.store(0, Ordering::Relaxed);
    }
}

impl Port {
    /// Whether the dial is to go on from another one if it hears nothing.
    pub(super) fn is_first(self) -> bool {
        matches!(self, Self::Listener { is_first: true, .. })
    }
}

impl Departure {
    /// The end of the handshake's time, if the dial should go on from another port.
    pub(crate) fn goes_on(&self, heard: Heard) -> Option<Instant> {
        (self.port.is_first() && heard == Heard::Nothing).then_some(self.deadline)
    }
}

impl Passing for Silent {
    fn is_over(&self, now: Instant) -> bool {
        self.until.is_over(now)
    }
}

/// How long a listener's port is tried, at first. The first packet is sent again after a second, which is when a peer
/// that punches a hole has opened its router; half a second is for the answer.
pub(super) const FIRST_TRY: Duration = Duration::from_millis(1500);

/// Twice as long as routers should keep a mapping that nobody uses (RFC 4787 §4.3).
const REMEMBERED: Duration = Duration::from_secs(600);

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test panics where it fails")]
mod tests {
    use super::*;
    use crate::net::clock;

    const NUMBER: u16 = 4001;
    const FROM_LISTENER: Port = Port::Listener {
        number: NUMBER,
        is_first: false,
    };

    fn host() -> Host {
        Host::of([192, 0, 2, 1].into())
    }

    fn learn(hosts: &SilentHosts, now: Instant, port: Port, heard: Heard) {
        let departure = Departure {
            host: host(),
            port,
            deadline: now,
        };
        hosts.learn(now, &departure, heard, |_| false);
    }

    #[test]
    fn another_port_is_tried_after_two_silent_dials_and_kept_where_it_answers() {
        let (hosts, now) = (SilentHosts::default(), clock::now());
        for (port, heard, advice) in [
            (FROM_LISTENER, Heard::Nothing, Advice::Listener),
            (FROM_LISTENER, Heard::Nothing, Advice::ListenerFirst),
            (Port::Other, Heard::Nothing, Advice::ListenerFirst),
            (Port::Other, Heard::Something, Advice::Other),
            (Port::Own, Heard::Nothing, Advice::Other),
            (Port::Other, Heard::Nothing, Advice::ListenerFirst),
            (FROM_LISTENER, Heard::Something, Advice::Listener),
            (FROM_LISTENER, Heard::Nothing, Advice::Listener),
        ] {
            learn(&hosts, now, port, heard);
            assert_eq!(hosts.advice(now, host()), advice, "{port:?} {heard:?}");
        }
        assert_eq!(
            hosts.advice(now, Host::of([192, 0, 2, 2].into())),
            Advice::Listener
        );
    }

    #[test]
    fn port_is_kept_that_something_else_comes_through() {
        let (hosts, now) = (SilentHosts::default(), clock::now());
        let departure = Departure {
            host: host(),
            port: FROM_LISTENER,
            deadline: now,
        };
        for _ in 0..5 {
            hosts.learn(now, &departure, Heard::Nothing, |number| number == NUMBER);
            assert_eq!(hosts.advice(now, host()), Advice::Listener);
        }
    }

    #[test]
    fn listeners_port_is_tried_again_although_another_one_is_answered() {
        let (hosts, began) = (SilentHosts::default(), clock::now());
        learn(&hosts, began, FROM_LISTENER, Heard::Nothing);
        learn(&hosts, began, FROM_LISTENER, Heard::Nothing);
        let mut now = began;
        while now < began + REMEMBERED {
            learn(&hosts, now, Port::Other, Heard::Something);
            assert_eq!(hosts.advice(now, host()), Advice::Other);
            now += REMEMBERED / 4;
        }
        assert_eq!(hosts.advice(now, host()), Advice::ListenerFirst);
        learn(&hosts, now, FROM_LISTENER, Heard::Nothing);
        assert_eq!(hosts.advice(now, host()), Advice::Other);
        learn(&hosts, now, FROM_LISTENER, Heard::Something);
        assert_eq!(hosts.advice(now, host()), Advice::Listener);
    }

    #[test]
    fn it_is_forgotten_after_a_while() {
        let (hosts, now) = (SilentHosts::default(), clock::now());
        learn(&hosts, now, FROM_LISTENER, Heard::Nothing);
        learn(&hosts, now, FROM_LISTENER, Heard::Nothing);
        let late = now + REMEMBERED;
        assert_eq!(
            hosts.advice(late - FIRST_TRY, host()),
            Advice::ListenerFirst
        );
        assert_eq!(hosts.advice(late, host()), Advice::Listener);
        learn(&hosts, late, FROM_LISTENER, Heard::Nothing);
        assert_eq!(hosts.advice(late, host()), Advice::Listener);
    }
}
