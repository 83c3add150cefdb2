//! Streams of any protocol, without a queue in which one could be lost.
//!
//! An inbound stream goes to a separate task at once, and an outbound one to its requester.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use libp2p::{
    InboundUpgrade, Multiaddr, OutboundUpgrade, PeerId, Stream, StreamProtocol,
    core::{Endpoint, UpgradeInfo, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
        NetworkBehaviour, NotifyHandler, StreamUpgradeError, SubstreamProtocol, THandler,
        THandlerInEvent, THandlerOutEvent, ToSwarm,
        handler::{
            ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
        },
    },
};
use tokio::sync::oneshot;

/// A slow machine may negotiate two thousand streams at once.
const NEGOTIATION_TIMEOUT: Duration = Duration::from_secs(30);

/// The handler of an inbound stream.
pub type Serve = Arc<dyn Fn(Link, StreamProtocol, Stream) + Send + Sync>;

/// A connection, and its peer.
#[derive(Clone, Copy)]
pub struct Link {
    pub connection_id: ConnectionId,
    pub peer_id: PeerId,
}

/// Opens streams, and serves streams of peers.
pub struct Behaviour {
    protocols: &'static [StreamProtocol],
    serve: Serve,
    requests: VecDeque<(Link, Request)>,
}

/// A request for a stream.
#[derive(Debug)]
pub struct Request {
    pub protocol: StreamProtocol,
    pub reply: oneshot::Sender<Result<Stream, String>>,
}

impl Behaviour {
    pub fn new(protocols: &'static [StreamProtocol], serve: Serve) -> Self {
        Self {
            protocols,
            serve,
            requests: VecDeque::new(),
        }
    }

    /// Opens a stream on a connection. If the connection is gone, the request is dropped, which
    /// tells its receiver.
    pub fn open(&mut self, link: Link, request: Request) {
        self.requests.push_back((link, request));
    }

    fn handler(&self, connection_id: ConnectionId, peer_id: PeerId) -> Handler {
        Handler {
            link: Link {
                connection_id,
                peer_id,
            },
            protocols: self.protocols,
            serve: Arc::clone(&self.serve),
            requests: VecDeque::new(),
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        connection_id: ConnectionId,
        peer_id: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(connection_id, peer_id))
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection_id: ConnectionId,
        peer_id: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(connection_id, peer_id))
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        self.requests
            .pop_front()
            .map_or(Poll::Pending, |(link, event)| {
                Poll::Ready(ToSwarm::NotifyHandler {
                    peer_id: link.peer_id,
                    handler: NotifyHandler::One(link.connection_id),
                    event,
                })
            })
    }
}

/// The streams of one connection.
pub struct Handler {
    link: Link,
    protocols: &'static [StreamProtocol],
    serve: Serve,
    requests: VecDeque<Request>,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Request;
    type ToBehaviour = Infallible;
    type InboundProtocol = AnyOf;
    type OutboundProtocol = AnyOf;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = oneshot::Sender<Result<Stream, String>>;

    fn listen_protocol(&self) -> SubstreamProtocol<AnyOf> {
        SubstreamProtocol::new(AnyOf(self.protocols.to_vec()), ()).with_timeout(NEGOTIATION_TIMEOUT)
    }

    /// A peer of the matrix decides itself when to close.
    fn connection_keep_alive(&self) -> bool {
        true
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<AnyOf, Self::OutboundOpenInfo, Infallible>> {
        self.requests
            .pop_front()
            .map_or(Poll::Pending, |Request { protocol, reply }| {
                Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                    protocol: SubstreamProtocol::new(AnyOf(vec![protocol]), reply)
                        .with_timeout(NEGOTIATION_TIMEOUT),
                })
            })
    }

    fn on_behaviour_event(&mut self, request: Request) {
        self.requests.push_back(request);
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, AnyOf, AnyOf, (), Self::OutboundOpenInfo>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (protocol, stream),
                ..
            }) => (self.serve)(self.link, protocol, stream),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: (_, stream),
                info: reply,
            }) => {
                // The requester may have given up.
                let _ = reply.send(Ok(stream));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info: reply, error }) => {
                let error = match error {
                    StreamUpgradeError::Timeout => "negotiation timed out".to_owned(),
                    StreamUpgradeError::NegotiationFailed => "protocol not supported".to_owned(),
                    StreamUpgradeError::Io(error) => format!("stream not negotiated: {error:?}"),
                    StreamUpgradeError::Apply(never) => match never {},
                };
                let _ = reply.send(Err(error));
            }
            _ => {}
        }
    }
}

/// An upgrade to one of several protocols, which only reports the selected one.
pub struct AnyOf(Vec<StreamProtocol>);

impl UpgradeInfo for AnyOf {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter()
    }
}

impl InboundUpgrade<Stream> for AnyOf {
    type Output = (StreamProtocol, Stream);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((protocol, stream)))
    }
}

impl OutboundUpgrade<Stream> for AnyOf {
    type Output = (StreamProtocol, Stream);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((protocol, stream)))
    }
}
