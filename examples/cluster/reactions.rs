//! What a node does with each event of its Swarm.

use libp2p::{
    PeerId, connection_limits, gossipsub, identify, kad, mdns,
    request_response::{self, Message},
    swarm::{ListenError, SwarmEvent, dial_opts::DialOpts},
};
use libp2p_rejoin as rejoin;

use crate::{
    behaviour::{BehaviourEvent, KAD_PROTOCOL},
    event::{End, Event},
    failure::{Failure, chain},
    messages,
    node::Node,
};

impl Node {
    /// Does what an event calls for, and tells what is worth telling.
    pub(crate) fn react(&mut self, event: SwarmEvent<BehaviourEvent>) -> Option<Event> {
        match event {
            SwarmEvent::Behaviour(event) => self.react_to_protocol(event),
            SwarmEvent::NewListenAddr { address, .. } => {
                Some(Event::Listening(self.dialable(address)))
            }
            SwarmEvent::ListenerError { error, .. }
            | SwarmEvent::ListenerClosed {
                reason: Err(error), ..
            } => {
                let reason = format!("listener in trouble: {}", chain(&error));
                Some(Event::Trouble(reason))
            }
            SwarmEvent::Dialing {
                peer_id: Some(peer_id),
                ..
            } => {
                self.peers.dialling(peer_id);
                None
            }
            SwarmEvent::OutgoingConnectionError { peer_id, error, .. } => {
                let failure = Failure::dial(&error);
                if let Some(peer_id) = peer_id
                    && !self.swarm.is_connected(&peer_id)
                {
                    self.peers.gone(&peer_id, "unreachable".to_owned());
                    // Otherwise each lookup dials it again. It is added again when it connects.
                    self.swarm.behaviour_mut().kad.remove_peer(&peer_id);
                }
                Some(Event::Trouble(failure.to_string()))
            }
            SwarmEvent::IncomingConnectionError { error, .. } => Some(turned_away(&error)),
            SwarmEvent::ConnectionEstablished {
                peer_id,
                num_established,
                ..
            } if num_established.get() == 1 => {
                self.peers.connected(peer_id);
                Some(Event::Connected(peer_id))
            }
            SwarmEvent::ConnectionClosed {
                peer_id,
                num_established: 0,
                cause,
                ..
            } => {
                let end = End::new(cause.as_ref());
                self.peers.gone(&peer_id, end.line());
                Some(Event::Closed(peer_id, end))
            }
            _ => None,
        }
    }

    fn react_to_protocol(&mut self, event: BehaviourEvent) -> Option<Event> {
        match event {
            BehaviourEvent::Gossipsub(event) => self.react_to_gossipsub(event),
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                self.route(peer_id, &info);
                let name = &info.agent_version;
                self.peers.learn(peer_id, |peer| peer.set_name(name))
            }
            BehaviourEvent::Kad(kad::Event::OutboundQueryProgressed { id, result, .. }) => {
                self.react_to_kad(id, result)
            }
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => {
                for (peer_id, addr) in found {
                    let opts = DialOpts::peer_id(peer_id).addresses(vec![addr]).build();
                    // Fails if the peer is connected, or is being dialled.
                    let _ = self.swarm.dial(opts);
                }
                None
            }
            BehaviourEvent::Messages(event) => self.react_to_message(event),
            BehaviourEvent::Ping(event) => {
                let ping = event.result.ok()?;
                self.peers.learn(event.peer, |peer| peer.ping = Some(ping))
            }
            BehaviourEvent::Rejoin(event) => told_by_rejoin(event),
            _ => None,
        }
    }

    fn react_to_gossipsub(&mut self, event: gossipsub::Event) -> Option<Event> {
        match event {
            gossipsub::Event::Message { message, .. } => {
                let text = String::from_utf8_lossy(&message.data).into_owned();
                // Strict validation, the default, lets no message pass without an author.
                Some(Event::Broadcast(message.source?, text))
            }
            gossipsub::Event::Subscribed { peer_id, .. } => {
                self.peers.learn(peer_id, |peer| peer.subscribed = true)
            }
            _ => None,
        }
    }

    fn react_to_kad(&mut self, id: kad::QueryId, result: kad::QueryResult) -> Option<Event> {
        match result {
            kad::QueryResult::PutRecord(Ok(_)) => Some(Event::Stored),
            kad::QueryResult::PutRecord(Err(error)) => {
                let failure = Failure::new("record not stored", &error);
                Some(Event::Trouble(failure.to_string()))
            }
            kad::QueryResult::GetRecord(Ok(kad::GetRecordOk::FoundRecord(found))) => {
                // The first that is found is enough.
                if let Some(mut query) = self.swarm.behaviour_mut().kad.query_mut(&id) {
                    query.finish();
                }
                let value = String::from_utf8_lossy(&found.record.value).into_owned();
                Some(Event::Found(found.peer, value))
            }
            kad::QueryResult::GetRecord(Err(error)) => Some(Event::NotFound(chain(&error))),
            _ => None,
        }
    }

    /// Kademlia learns the addresses of a peer only by this, and passes them on to others.
    fn route(&mut self, peer_id: PeerId, info: &identify::Info) {
        if !info.protocols.contains(&KAD_PROTOCOL) {
            return;
        }
        for addr in &info.listen_addrs {
            let kad = &mut self.swarm.behaviour_mut().kad;
            kad.add_address(&peer_id, addr.clone());
        }
    }

    fn react_to_message(
        &mut self,
        event: request_response::Event<String, messages::Response>,
    ) -> Option<Event> {
        match event {
            request_response::Event::Message { peer, message, .. } => Some(match message {
                Message::Request {
                    request, channel, ..
                } => {
                    let response = self.respond(&request);
                    let event = match &response {
                        Ok(_) => Event::Asked(peer, request),
                        Err(reason) => Event::Refused(peer, reason.clone()),
                    };
                    let messages = &mut self.swarm.behaviour_mut().messages;
                    // Fails if the peer no longer waits.
                    let _ = messages.send_response(channel, response);
                    event
                }
                Message::Response { response, .. } => match response {
                    Ok(text) => Event::Answered(peer, text),
                    Err(reason) => Event::Unanswered(peer, format!("refused: {reason}")),
                },
            }),
            request_response::Event::InboundFailure { peer, error, .. } => {
                Some(Event::Refused(peer, chain(&error)))
            }
            request_response::Event::OutboundFailure { peer, error, .. } => {
                Some(Event::Unanswered(peer, chain(&error)))
            }
            request_response::Event::ResponseSent { .. } => None,
        }
    }

    fn respond(&self, request: &str) -> messages::Response {
        if request.len() > messages::MAX_BYTES {
            return Err(format!("more than {} bytes", messages::MAX_BYTES));
        }
        Ok(format!("{} has read {} bytes", self.name, request.len()))
    }
}

fn turned_away(error: &ListenError) -> Event {
    if let ListenError::Denied { cause } = error
        && let Some(exceeded) = cause.downcast_ref::<connection_limits::Exceeded>()
    {
        return Event::Full(exceeded.to_string());
    }
    Event::Trouble(format!("incoming connection: {}", chain(error)))
}

fn told_by_rejoin(event: rejoin::Event) -> Option<Event> {
    match event {
        rejoin::Event::Loaded { peers } => Some(Event::Remembered(peers)),
        rejoin::Event::LoadFailed(error) => Some(Event::Trouble(chain(&error))),
        rejoin::Event::Saved { peers } => Some(Event::Saved(peers)),
        rejoin::Event::SaveFailed(error) => Some(Event::Trouble(chain(&error))),
        _ => None,
    }
}
