//! Hosts that do not answer packets from a listener's port.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use crate::{
    address::Host,
    known_hosts::{KnownHosts, Passing},
    sync::{Mutex, lock},
};

/// Hosts that dials from a listener's port have not reached, although dials from another port may.
///
/// A router may have kept a mapping of the port that no longer works, for instance because the
/// router has got another address. Our packets from the port keep that mapping alive. In most
/// cases, though, such hosts are dead.
#[derive(Default)]
pub(super) struct SilentHosts {
    hosts: Mutex<KnownHosts<Silent>>,
    /// The number of dials that left from another port.
    dials: AtomicU64,
}

/// What is known of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Silent {
    stage: Stage,
    until: Instant,
    /// When the listener's port is to be tried again although another port gets answers.
    retry_at: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// One dial from a listener's port got no answer.
    Once,
    /// Another dial got no answer either.
    Twice,
    /// A dial from another port has got an answer from this address since.
    AnswersElsewhere(SocketAddr),
}

/// The port from which a dial to a host should leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Advice {
    /// The listener's.
    Listener,
    /// The listener's port first, because a peer that punches a hole at the same time has no
    /// other; then another port.
    ListenerFirst,
    Other,
}

/// The port from which a dial has left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Departure {
    pub(super) remote_addr: SocketAddr,
    pub(super) port: Port,
    /// When the handshake timeout is over.
    pub(super) deadline: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Port {
    Listener {
        number: u16,
        /// Whether the dial is given up early, to leave from another port.
        is_first: bool,
    },
    /// The port of the shared socket, instead of a listener's.
    Other,
    /// There was no choice: the dial asked for a new port, or no listener can reach the host.
    Only,
}

/// Whether any datagram has come from the peer's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Nothing,
    Something,
}

impl SilentHosts {
    /// The port from which a dial to `remote_addr` should leave.
    pub(super) fn advice(&self, now: Instant, remote_addr: SocketAddr) -> Advice {
        let silent = lock(&self.hosts).get(Host::of(remote_addr.ip())).copied();
        match silent.filter(|silent| !silent.is_over(now)) {
            None => Advice::Listener,
            Some(silent) => match silent.stage {
                Stage::Once => Advice::Listener,
                Stage::Twice => Advice::ListenerFirst,
                // For a neighbour behind the same address, which may have chosen to answer only
                // there, the listener's port comes first: the neighbour may punch a hole for it.
                Stage::AnswersElsewhere(addr)
                    if is_same(addr, remote_addr) && now < silent.retry_at =>
                {
                    Advice::Other
                }
                Stage::AnswersElsewhere(_) => Advice::ListenerFirst,
            },
        }
    }

    /// Records the outcome of a dial. `comes_through` returns whether there is a connection with
    /// the host over the listener's port.
    pub(super) fn learn(
        &self,
        now: Instant,
        departure: &Departure,
        heard: Heard,
        comes_through: impl FnOnce(u16) -> bool,
    ) {
        let host = Host::of(departure.remote_addr.ip());
        // Locked once, so that what another dial learns meanwhile is not overwritten.
        let mut hosts = lock(&self.hosts);
        let known = hosts.get(host).copied();
        let known = known.filter(|silent| !silent.is_over(now));
        // A neighbour that is silent, or answers the listener's port, says nothing about an address
        // that has answered elsewhere. For the neighbour, the listener's port comes first anyway.
        let is_answered_elsewhere = (departure.port, heard) == (Port::Other, Heard::Something);
        if !is_answered_elsewhere
            && let Some(Silent { stage, .. }) = known
            && let Stage::AnswersElsewhere(addr) = stage
            && !is_same(addr, departure.remote_addr)
        {
            return;
        }
        let mut retry_at = now + REMEMBERED;
        let stage = match (departure.port, heard) {
            (Port::Only, _) => return,
            (Port::Listener { .. }, Heard::Something) => {
                hosts.forget(host);
                return;
            }
            (Port::Listener { number, .. }, Heard::Nothing) => match known {
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
                // The port need not have been the cause: the host may have been down for a while,
                // for instance.
                retry_at = known.map_or(retry_at, |silent| silent.retry_at);
                Stage::AnswersElsewhere(departure.remote_addr)
            }
            // The host is most likely dead.
            (Port::Other, Heard::Nothing) => Stage::Twice,
        };
        let until = now + REMEMBERED;
        let silent = Silent {
            stage,
            until,
            retry_at,
        };
        hosts.note(now, host, silent);
    }

    pub(super) fn count_dial(&self) {
        self.dials.fetch_add(1, Ordering::Relaxed);
    }

    /// The number of dials that left from another port.
    pub(super) fn dials(&self) -> u64 {
        self.dials.load(Ordering::Relaxed)
    }

    pub(super) fn reset_stats(&self) {
        self.dials.store(0, Ordering::Relaxed);
    }
}

impl Port {
    /// Whether the dial goes on from another port if it gets no answer.
    pub(super) fn is_first(self) -> bool {
        matches!(self, Self::Listener { is_first: true, .. })
    }
}

impl Departure {
    /// The end of the handshake timeout, if the dial should go on from another port.
    pub(crate) fn goes_on(&self, heard: Heard) -> Option<Instant> {
        (self.port.is_first() && heard == Heard::Nothing).then_some(self.deadline)
    }
}

impl Passing for Silent {
    fn is_over(&self, now: Instant) -> bool {
        self.until.is_over(now)
    }
}

/// Whether the addresses are the same but for zone and flow label. The zone of a dial is that of
/// the socket from which it leaves, and is not known before one is chosen.
fn is_same(one: SocketAddr, other: SocketAddr) -> bool {
    (one.ip(), one.port()) == (other.ip(), other.port())
}

/// How long the listener's port is tried first. When the first packet is sent again, after three
/// times the initial round trip (RFC 9002 §6.2.2), a peer that punches a hole has opened its
/// router; half a second more is for the answer.
pub(super) fn first_try(initial_rtt: Duration, handshake_timeout: Duration) -> Duration {
    let until_answered = 3 * initial_rtt + Duration::from_millis(500);
    if until_answered > FIRST_TRY {
        return until_answered;
    }
    FIRST_TRY.min(handshake_timeout / 2)
}

/// Enough with the default of the initial round trip.
const FIRST_TRY: Duration = Duration::from_millis(1500);

/// Twice the time for which routers should keep an unused mapping (RFC 4787 §4.3).
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

    fn addr() -> SocketAddr {
        ([192, 0, 2, 1], 4001).into()
    }

    fn learn(hosts: &SilentHosts, now: Instant, port: Port, heard: Heard) {
        learn_of(addr(), hosts, now, port, heard);
    }

    fn learn_of(addr: SocketAddr, hosts: &SilentHosts, now: Instant, port: Port, heard: Heard) {
        let departure = Departure {
            remote_addr: addr,
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
            (Port::Only, Heard::Nothing, Advice::Other),
            (Port::Other, Heard::Nothing, Advice::ListenerFirst),
            (FROM_LISTENER, Heard::Something, Advice::Listener),
            (FROM_LISTENER, Heard::Nothing, Advice::Listener),
        ] {
            learn(&hosts, now, port, heard);
            assert_eq!(hosts.advice(now, addr()), advice, "{port:?} {heard:?}");
        }
        assert_eq!(
            hosts.advice(now, ([192, 0, 2, 2], 4001).into()),
            Advice::Listener
        );
    }

    /// An address that answers only another port.
    fn answers_elsewhere(addr: SocketAddr, hosts: &SilentHosts, now: Instant) {
        for _ in 0..2 {
            learn_of(addr, hosts, now, FROM_LISTENER, Heard::Nothing);
        }
        learn_of(addr, hosts, now, Port::Other, Heard::Something);
    }

    #[test]
    fn who_answers_only_another_port_does_not_decide_for_a_neighbour() {
        let (hosts, now) = (SilentHosts::default(), clock::now());
        let (mallory, victim) = (([192, 0, 2, 1], 9).into(), addr());
        answers_elsewhere(mallory, &hosts, now);
        assert_eq!(hosts.advice(now, mallory), Advice::Other);
        assert_eq!(hosts.advice(now, victim), Advice::ListenerFirst);
        // Nor does the neighbour for the victim.
        learn_of(victim, &hosts, now, Port::Other, Heard::Something);
        assert_eq!(hosts.advice(now, victim), Advice::Other);
        assert_eq!(hosts.advice(now, mallory), Advice::ListenerFirst);
        learn_of(victim, &hosts, now, FROM_LISTENER, Heard::Something);
        assert_eq!(hosts.advice(now, mallory), Advice::Listener);
    }

    #[test]
    fn silent_neighbour_erases_nothing_and_prolongs_nothing() {
        let (hosts, began) = (SilentHosts::default(), clock::now());
        let neighbour = ([192, 0, 2, 1], 9).into();
        answers_elsewhere(addr(), &hosts, began);
        for port in [FROM_LISTENER, Port::Other] {
            learn_of(
                neighbour,
                &hosts,
                began + REMEMBERED / 2,
                port,
                Heard::Nothing,
            );
            let late = began + REMEMBERED;
            assert_eq!(
                hosts.advice(late - FIRST_TRY, addr()),
                Advice::Other,
                "{port:?}"
            );
            assert_eq!(hosts.advice(late, addr()), Advice::Listener, "{port:?}");
        }
    }

    #[test]
    fn neighbour_that_answers_the_listeners_port_erases_nothing_and_prolongs_nothing() {
        let (hosts, began) = (SilentHosts::default(), clock::now());
        let neighbour = ([192, 0, 2, 1], 9).into();
        answers_elsewhere(addr(), &hosts, began);
        let half = began + REMEMBERED / 2;
        learn_of(neighbour, &hosts, half, FROM_LISTENER, Heard::Something);
        let late = began + REMEMBERED;
        assert_eq!(hosts.advice(late - FIRST_TRY, addr()), Advice::Other);
        assert_eq!(hosts.advice(late, addr()), Advice::Listener);
    }

    #[test]
    fn link_local_address_is_known_with_and_without_its_zone() {
        let (hosts, now) = (SilentHosts::default(), clock::now());
        let [with, without] =
            ["[fe80::1%3]:4001", "[fe80::1]:4001"].map(|addr| addr.parse::<SocketAddr>().unwrap());
        answers_elsewhere(with, &hosts, now);
        assert_eq!(hosts.advice(now, without), Advice::Other);
    }

    #[test]
    fn port_is_kept_that_something_else_comes_through() {
        let (hosts, now) = (SilentHosts::default(), clock::now());
        let departure = Departure {
            remote_addr: addr(),
            port: FROM_LISTENER,
            deadline: now,
        };
        for _ in 0..5 {
            hosts.learn(now, &departure, Heard::Nothing, |number| number == NUMBER);
            assert_eq!(hosts.advice(now, addr()), Advice::Listener);
        }
    }

    #[test]
    fn what_two_dials_learn_at_once_is_not_mixed() {
        let (hosts, now) = (SilentHosts::default(), clock::now());
        learn(&hosts, now, FROM_LISTENER, Heard::Nothing);
        let departure = Departure {
            remote_addr: addr(),
            port: FROM_LISTENER,
            deadline: now,
        };
        std::thread::scope(|scope| {
            let (tell, told) = std::sync::mpsc::sync_channel(1);
            let hosts = &hosts;
            hosts.learn(now, &departure, Heard::Nothing, |_| {
                scope.spawn(move || {
                    learn(hosts, now, FROM_LISTENER, Heard::Something);
                    let _ = tell.send(());
                });
                // The other one has to wait.
                let _ = told.recv_timeout(Duration::from_millis(50));
                false
            });
        });
        assert_eq!(hosts.advice(now, addr()), Advice::Listener);
    }

    #[test]
    fn listeners_port_is_tried_again_although_another_one_is_answered() {
        let (hosts, began) = (SilentHosts::default(), clock::now());
        learn(&hosts, began, FROM_LISTENER, Heard::Nothing);
        learn(&hosts, began, FROM_LISTENER, Heard::Nothing);
        let mut now = began;
        while now < began + REMEMBERED {
            learn(&hosts, now, Port::Other, Heard::Something);
            assert_eq!(hosts.advice(now, addr()), Advice::Other);
            now += REMEMBERED / 4;
        }
        assert_eq!(hosts.advice(now, addr()), Advice::ListenerFirst);
        learn(&hosts, now, FROM_LISTENER, Heard::Nothing);
        assert_eq!(hosts.advice(now, addr()), Advice::Other);
        learn(&hosts, now, FROM_LISTENER, Heard::Something);
        assert_eq!(hosts.advice(now, addr()), Advice::Listener);
    }

    #[test]
    fn first_try_outlasts_the_first_retransmission_unless_the_handshake_is_short() {
        let ms = Duration::from_millis;
        assert_eq!(first_try(ms(333), ms(5000)), ms(1500));
        assert_eq!(first_try(ms(100), ms(5000)), ms(1500));
        assert_eq!(first_try(ms(333), ms(2000)), ms(1000));
        assert_eq!(first_try(ms(1000), ms(5000)), ms(3500));
    }

    #[test]
    fn it_is_forgotten_after_a_while() {
        let (hosts, now) = (SilentHosts::default(), clock::now());
        learn(&hosts, now, FROM_LISTENER, Heard::Nothing);
        learn(&hosts, now, FROM_LISTENER, Heard::Nothing);
        let late = now + REMEMBERED;
        assert_eq!(
            hosts.advice(late - FIRST_TRY, addr()),
            Advice::ListenerFirst
        );
        assert_eq!(hosts.advice(late, addr()), Advice::Listener);
        learn(&hosts, late, FROM_LISTENER, Heard::Nothing);
        assert_eq!(hosts.advice(late, addr()), Advice::Listener);
    }
}
