//! The listener: waits at the relay for peers, and punches holes for them.

use libp2p::{Multiaddr, identity::Keypair, multiaddr::Protocol, relay, swarm::SwarmEvent};

use crate::{
    args::Args,
    event::Event,
    peer::{BehaviourEvent, Peer},
    program::{AnyTransport, End, Failure, chain},
};

pub(crate) async fn run(
    key: Keypair,
    transport: AnyTransport,
    relay: Multiaddr,
    args: &Args,
) -> Result<End, Failure> {
    let mut peer = Peer::join(key, transport, relay, args).await?;
    let circuit = peer.relay.clone().with(Protocol::P2pCircuit);
    peer.swarm.listen_on(circuit)?;
    loop {
        let event = match peer.next().await {
            SwarmEvent::Behaviour(BehaviourEvent::Relay(
                relay::client::Event::ReservationReqAccepted { renewal: false, .. },
            )) => Event::Reserved {
                peer_id: *peer.swarm.local_peer_id(),
            },
            SwarmEvent::Behaviour(BehaviourEvent::Dcutr(event)) => match event.result {
                // Reported when the connection was established.
                Ok(_) => continue,
                Err(error) => Event::Failed {
                    peer_id: event.remote_peer_id,
                    error: chain(&error),
                    by_dialer: None,
                },
            },
            SwarmEvent::ConnectionEstablished {
                peer_id, endpoint, ..
            } if !endpoint.is_relayed() => Event::Direct {
                peer_id,
                addr: endpoint.get_remote_address().clone(),
                by_dialer: None,
            },
            SwarmEvent::OutgoingConnectionError { error, .. } => Event::Missed {
                error: chain(&error),
            },
            SwarmEvent::ListenerClosed {
                reason: Err(error), ..
            } => return Err(error.into()),
            _ => continue,
        };
        event.print(args.json);
    }
}
