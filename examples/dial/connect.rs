//! Connects to a peer at any of its addresses, and tries again later if none answers.

use backon::{BackoffBuilder, ExponentialBuilder};
use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm,
    multiaddr::Protocol,
    swarm::{
        DialError, NetworkBehaviour, SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
    },
};

/// Dials `peer` at all of `addresses`; the first that answers is used. If none does, tries again
/// after the delays of `backoff`. If another peer answers, tries again without that address.
///
/// Only the delays are backon's: the Swarm is polled while we wait, for its other connections.
///
/// # Errors
///
/// The last attempt's, or the first that another attempt would not mend, as when a behaviour denies
/// the connection.
pub async fn connect<B: NetworkBehaviour>(
    swarm: &mut Swarm<B>,
    peer: PeerId,
    addresses: &[Multiaddr],
    backoff: ExponentialBuilder,
    mut note: impl FnMut(&SwarmEvent<B::ToSwarm>),
) -> Result<(), DialError> {
    let mut addresses: Vec<_> = addresses.iter().map(without_peer).collect();
    let mut delays = backoff.build();
    // The peer may have dialled us meanwhile.
    while !swarm.is_connected(&peer) {
        // Whether or not a behaviour dials it as well.
        let opts = DialOpts::peer_id(peer)
            .condition(PeerCondition::Disconnected)
            .addresses(addresses.clone())
            .build();
        let attempt = opts.connection_id();
        swarm.dial(opts)?;
        let error = loop {
            let event = swarm.select_next_some().await;
            note(&event);
            match event {
                SwarmEvent::ConnectionEstablished { peer_id, .. } if peer_id == peer => {
                    return Ok(());
                }
                SwarmEvent::OutgoingConnectionError {
                    connection_id,
                    error,
                    ..
                } if connection_id == attempt => break error,
                _ => {}
            }
        };
        match &error {
            DialError::Transport(_) => {}
            // Also if it is this node itself. The Swarm has given up the other addresses.
            DialError::WrongPeerId { address, .. } | DialError::LocalPeerId { address } => {
                let (wrong, before) = (without_peer(address), addresses.len());
                addresses.retain(|address| *address != wrong);
                if addresses.is_empty() || addresses.len() == before {
                    return Err(error);
                }
                continue;
            }
            _ => return Err(error),
        }
        let Some(delay) = delays.next() else {
            return Err(error);
        };
        let mut delay = std::pin::pin!(tokio::time::sleep(delay));
        loop {
            tokio::select! {
                () = &mut delay => break,
                event = swarm.select_next_some() => note(&event),
            }
        }
    }
    Ok(())
}

/// The Swarm adds the peer.
fn without_peer(address: &Multiaddr) -> Multiaddr {
    let mut address = address.clone();
    if let Some(Protocol::P2p(_)) = address.iter().last() {
        address.pop();
    }
    address
}
