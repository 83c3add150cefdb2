//! A dial, a hole punch or an incoming connection, until it has a peer or an error.

use std::{
    fmt,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll},
};

use futures::{
    channel::oneshot,
    future::{BoxFuture, FutureExt},
};
use libp2p_identity::PeerId;

use crate::{
    address,
    connection::Connection,
    driver::{
        Departure, DialFrom, DrivenConnection, Handshake, Heard, IncomingConnection, SocketGroup,
        UseGuard,
    },
    error::{ConnectionError, DialError, Error, HandshakeError},
    expected_peers::{Expectation, ExpectedPeers},
    net::{host_addresses, task::Runtime},
};

/// A future that resolves to the authenticated peer and the connection to it.
///
/// Nothing happens before the first poll: a dial opens no socket and sends no packet, and an
/// incoming connection costs no TLS work. Dropping the future abandons the handshake and frees all
/// its state. Dropping an incoming connection that was never polled refuses it (CONNECTION_REFUSED,
/// RFC 9000 §20.1).
///
/// If a dial reaches a different peer than its address names, the handshake fails on both sides.
/// The dial nevertheless resolves to the peer that it reached and a connection that has already
/// ended, because a Swarm needs the peer to report `WrongPeerId`.
///
/// A hole punch, which is a dial with the role of the listener, sends no packets that would begin a
/// connection. It opens the NATs on the path for its peer, and resolves when the peer has dialled
/// us. It takes the peer's connection over from the listener, which then does not report it.
#[must_use = "futures do nothing unless polled"]
pub struct Connecting {
    state: State,
}

enum State {
    /// The link of a link-local address without a zone is looked up.
    Link {
        link: BoxFuture<'static, Option<u32>>,
        unzoned: Unzoned,
    },
    Dial(Box<Dial>),
    DialRequested {
        reply: oneshot::Receiver<Result<Handshake, Error>>,
        begun: Box<Begun>,
    },
    Incoming(Box<Incoming>),
    AcceptRequested {
        reply: oneshot::Receiver<Result<Handshake, HandshakeError>>,
        use_guard: Arc<UseGuard>,
    },
    Dialling {
        handshake: Handshake,
        begun: Box<Begun>,
    },
    Accepting(Handshake),
    Punch(Box<Punch>),
    Punching {
        expectation: Expectation,
        /// Resolves when the time for the hole punch is over.
        over: oneshot::Receiver<()>,
        use_guard: Arc<UseGuard>,
    },
    Settled(Box<Result<(PeerId, Connection), Error>>),
    Done,
}

/// What has not begun. Its address may lack a zone.
enum Unzoned {
    Dial(Box<Dial>),
    Punch(Box<Punch>),
}

impl Unzoned {
    /// Begins without a zone if no link is known: a listener may have one.
    fn at_link(self, link: Option<u32>) -> State {
        match self {
            Self::Dial(mut dial) => {
                dial.remote_addr = address::in_zone(dial.remote_addr, || link);
                State::Dial(dial)
            }
            Self::Punch(mut punch) => {
                punch.remote_addr = address::in_zone(punch.remote_addr, || link);
                State::Punch(punch)
            }
        }
    }
}

/// A dial that has not begun.
pub(crate) struct Dial {
    pub(crate) use_guard: Arc<UseGuard>,
    pub(crate) remote_addr: SocketAddr,
    pub(crate) expected: Option<PeerId>,
    pub(crate) from: DialFrom,
}

/// A dial that has begun.
struct Begun {
    /// So that the driver does not stop before it has a connection to drive.
    use_guard: Arc<UseGuard>,
    /// The target, so that the dial can begin again from another port.
    remote_addr: SocketAddr,
    expected: Option<PeerId>,
    departure: Departure,
}

impl Begun {
    /// Records what the outcome tells about the listener's port. Returns the dial to begin again
    /// from another port, if it should.
    fn end(self, result: Result<(), &HandshakeError>, heard: Heard) -> Option<Box<Dial>> {
        let timed_out = result == Err(&HandshakeError::TimedOut);
        if timed_out || heard == Heard::Something {
            self.use_guard.drivers().learn(&self.departure, heard);
        }
        let deadline = self.departure.goes_on(heard).filter(|_| timed_out)?;
        Some(Box::new(Dial {
            use_guard: self.use_guard,
            remote_addr: self.remote_addr,
            expected: self.expected,
            from: DialFrom::Other { deadline },
        }))
    }

    /// Why the request was dropped without an answer.
    fn was_dropped(&self) -> DialError {
        if self.use_guard.drivers().is_shut_down() {
            DialError::ShutDown
        } else {
            DialError::DriverStopped
        }
    }
}

/// A hole punch that has not begun.
pub(crate) struct Punch {
    pub(crate) use_guard: Arc<UseGuard>,
    pub(crate) expected_peers: Arc<ExpectedPeers>,
    pub(crate) remote_addr: SocketAddr,
    pub(crate) peer_id: PeerId,
    /// The listeners that can reach the address.
    pub(crate) listeners: Vec<Weak<SocketGroup>>,
}

/// An incoming connection that was neither accepted nor refused.
pub(crate) struct Incoming {
    pub(crate) use_guard: Arc<UseGuard>,
    pub(crate) connection: IncomingConnection,
}

impl Connecting {
    pub(crate) fn dial(dial: Dial) -> Self {
        Self::at(dial.remote_addr, Unzoned::Dial(Box::new(dial)))
    }

    pub(crate) fn punch(punch: Punch) -> Self {
        Self::at(punch.remote_addr, Unzoned::Punch(Box::new(punch)))
    }

    /// Looks for the link first if the address lacks a zone.
    fn at(remote_addr: SocketAddr, unzoned: Unzoned) -> Self {
        let state = if address::lacks_zone(remote_addr) {
            State::Link {
                link: host_addresses::only_link().boxed(),
                unzoned,
            }
        } else {
            unzoned.at_link(None)
        };
        Self { state }
    }

    /// A future that is ready with this result.
    pub(crate) fn settled(result: Result<(PeerId, Connection), Error>) -> Self {
        Self {
            state: State::Settled(Box::new(result)),
        }
    }

    pub(crate) fn incoming(incoming: Incoming) -> Self {
        Self {
            state: State::Incoming(Box::new(incoming)),
        }
    }
}

impl Future for Connecting {
    type Output = Result<(PeerId, Connection), Error>;

    /// # Panics
    ///
    /// If it is polled again after it has resolved.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let state = std::mem::replace(&mut self.state, State::Done);
            match state.step(cx)? {
                Step::Next(state) => self.state = state,
                Step::Wait(state) => {
                    self.state = state;
                    return Poll::Pending;
                }
                Step::Resolve(connected) => return Poll::Ready(Ok(connected)),
            }
        }
    }
}

/// What a [`Connecting`] does next.
enum Step {
    /// It goes on in this state.
    Next(State),
    /// It waits in this state.
    Wait(State),
    Resolve((PeerId, Connection)),
}

impl State {
    fn step(self, cx: &mut Context<'_>) -> Result<Step, Error> {
        Ok(match self {
            Self::Link { mut link, unzoned } => {
                // There would be no thread to read on.
                Runtime::current().map_err(|_| DialError::NoRuntime)?;
                match link.poll_unpin(cx) {
                    Poll::Ready(link) => Step::Next(unzoned.at_link(link)),
                    Poll::Pending => Step::Wait(Self::Link { link, unzoned }),
                }
            }
            Self::Dial(dial) => Step::Next(dial.begin()?),
            Self::DialRequested { mut reply, begun } => match reply.poll_unpin(cx) {
                Poll::Ready(Ok(handshake)) => Step::Next(Self::Dialling {
                    handshake: handshake?,
                    begun,
                }),
                Poll::Ready(Err(oneshot::Canceled)) => return Err(begun.was_dropped().into()),
                Poll::Pending => Step::Wait(Self::DialRequested { reply, begun }),
            },
            Self::Dialling {
                mut handshake,
                begun,
            } => match handshake.poll(cx) {
                Poll::Ready(result) => {
                    match (*begun).end(result.as_ref().map(|_| ()), handshake.heard()) {
                        Some(dial) => Step::Next(Self::Dial(dial)),
                        None => connected(result)?,
                    }
                }
                Poll::Pending => Step::Wait(Self::Dialling { handshake, begun }),
            },
            Self::Incoming(incoming) => Step::Next(incoming.accept()?),
            Self::AcceptRequested {
                mut reply,
                use_guard,
            } => match reply.poll_unpin(cx) {
                Poll::Ready(Ok(handshake)) => Step::Next(Self::Accepting(handshake?)),
                Poll::Ready(Err(oneshot::Canceled)) => return Err(was_dropped(&use_guard).into()),
                Poll::Pending => Step::Wait(Self::AcceptRequested { reply, use_guard }),
            },
            Self::Accepting(mut handshake) => match handshake.poll(cx) {
                Poll::Ready(result) => connected(result)?,
                Poll::Pending => Step::Wait(Self::Accepting(handshake)),
            },
            Self::Punch(punch) => Step::Next(punch.begin()?),
            Self::Punching {
                mut expectation,
                mut over,
                use_guard,
            } => {
                if let Poll::Ready(connected) = expectation.poll(cx) {
                    return Ok(Step::Resolve(connected?));
                }
                match over.poll_unpin(cx) {
                    Poll::Ready(Ok(())) => return Err(HandshakeError::TimedOut.into()),
                    Poll::Ready(Err(oneshot::Canceled)) => {
                        return Err(was_dropped(&use_guard).into());
                    }
                    Poll::Pending => Step::Wait(Self::Punching {
                        expectation,
                        over,
                        use_guard,
                    }),
                }
            }
            Self::Settled(result) => Step::Resolve((*result)?),
            Self::Done => panic!("`Connecting` polled after it has resolved"),
        })
    }
}

impl Dial {
    /// Requests the handshake from a driver.
    fn begin(self) -> Result<State, Error> {
        let Self {
            use_guard,
            remote_addr,
            expected,
            from,
        } = self;
        let runtime = Runtime::current().map_err(|_| DialError::NoRuntime)?;
        let drivers = use_guard.drivers();
        let (reply, departure) = drivers.request_dial(&runtime, remote_addr, expected, from)?;
        let begun = Box::new(Begun {
            use_guard,
            remote_addr,
            expected,
            departure,
        });
        Ok(State::DialRequested { reply, begun })
    }
}

impl Incoming {
    /// Requests the handshake from the driver.
    fn accept(self) -> Result<State, Error> {
        let Self {
            use_guard,
            connection,
        } = self;
        Ok(State::AcceptRequested {
            reply: connection.accept()?,
            use_guard,
        })
    }
}

impl Punch {
    /// Requests the hole punch from a driver, and expects the peer.
    fn begin(self) -> Result<State, Error> {
        let Self {
            use_guard,
            expected_peers,
            remote_addr,
            peer_id,
            listeners,
        } = self;
        let expect = || expected_peers.expect(remote_addr, peer_id);
        let (over, (expectation, displaced)) =
            (use_guard.drivers()).punch(remote_addr, &listeners, expect)?;
        // This wakes its dial.
        drop(displaced);
        Ok(State::Punching {
            expectation,
            over,
            use_guard,
        })
    }
}

/// Why a request to accept a connection, or to punch a hole, was dropped without an answer.
fn was_dropped(use_guard: &UseGuard) -> HandshakeError {
    if use_guard.drivers().is_shut_down() {
        HandshakeError::ShutDown
    } else {
        ConnectionError::DriverStopped.into()
    }
}

fn connected(
    result: Result<(PeerId, DrivenConnection), HandshakeError>,
) -> Result<Step, HandshakeError> {
    let (peer_id, connection) = result?;
    Ok(Step::Resolve((peer_id, Connection::new(connection))))
}

impl fmt::Debug for Connecting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connecting")
            .field(
                "state",
                &match self.state {
                    State::Dial(_) | State::Incoming(_) | State::Punch(_) => "not begun",
                    State::Link { .. } => "looking for its link",
                    State::Punching { .. } => "punching a hole",
                    State::DialRequested { .. } | State::AcceptRequested { .. } => "requested",
                    State::Dialling { .. } | State::Accepting(_) => "handshaking",
                    State::Settled(_) | State::Done => "resolved",
                },
            )
            .finish()
    }
}
