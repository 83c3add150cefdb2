//! The protocol on one connection.

use std::{
    collections::VecDeque,
    io,
    task::{Context, Poll},
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use libp2p::{
    StreamProtocol,
    core::upgrade::ReadyUpgrade,
    swarm::{
        ConnectionHandler, ConnectionHandlerEvent, StreamUpgradeError, SubstreamProtocol,
        handler::{
            ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
        },
    },
};

use super::wire::{self, Moved, Outcome, Request};

const PROTOCOL: StreamProtocol = StreamProtocol::new("/libp2p-quinn/transfer/1.0.0");

/// The most requests of one peer that are served at once; further streams are dropped.
const MAX_SERVED: usize = 16;

/// A request to make.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) request: Request,
    pub(crate) moved: Moved,
}

/// The end of a request.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) side: Side,
    pub(crate) result: io::Result<Outcome>,
}

/// The side of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Opener,
    Responder,
}

#[derive(Default)]
pub(crate) struct Handler {
    /// Requests that have no stream yet.
    jobs: VecDeque<Job>,
    /// Requests that failed without a stream.
    failed: VecDeque<Event>,
    running: FuturesUnordered<BoxFuture<'static, Event>>,
    served: usize,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Job;
    type ToBehaviour = Event;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Job;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), ())
    }

    fn on_behaviour_event(&mut self, job: Job) {
        self.jobs.push_back(job);
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol, (), Job>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: stream,
                ..
            }) => {
                if self.served == MAX_SERVED {
                    return;
                }
                self.served += 1;
                let response = wire::respond(stream).map(|result| Event {
                    side: Side::Responder,
                    result,
                });
                self.running.push(response.boxed());
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: stream,
                info: Job { request, moved },
            }) => {
                let request = wire::request(stream, request, moved).map(|result| Event {
                    side: Side::Opener,
                    result,
                });
                self.running.push(request.boxed());
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, .. }) => {
                let error = match error {
                    StreamUpgradeError::Io(error) => error,
                    StreamUpgradeError::NegotiationFailed => io::Error::new(
                        io::ErrorKind::Unsupported,
                        format!("the peer does not speak {PROTOCOL}"),
                    ),
                    StreamUpgradeError::Timeout => io::ErrorKind::TimedOut.into(),
                };
                self.failed.push_back(Event {
                    side: Side::Opener,
                    result: Err(error),
                });
            }
            _ => {}
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Job, Event>> {
        if let Some(job) = self.jobs.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), job),
            });
        }
        if let Some(event) = self.failed.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(event));
        }
        // If none are running, a new one comes with an event, after which we are polled again.
        if let Poll::Ready(Some(event)) = self.running.poll_next_unpin(cx) {
            if event.side == Side::Responder {
                self.served -= 1;
            }
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(event));
        }
        Poll::Pending
    }
}
