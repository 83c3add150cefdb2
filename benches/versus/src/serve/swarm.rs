//! The node of the server process.

use std::sync::{Arc, atomic::Ordering};

use futures::StreamExt;
use libp2p_request_response::{Event, Message};
use libp2p_stream::IncomingStreams;
use libp2p_swarm::SwarmEvent;

use crate::{
    measure::Connections,
    service,
    stack::swarm::{BehaviourEvent, Node, STREAM},
};

/// Serves streams and replies to questions.
pub async fn serve(mut node: Node, connections: Arc<Connections>) {
    let mut control = node.swarm.behaviour().streams.new_control();
    match control.accept(STREAM) {
        Ok(incoming) => drop(tokio::spawn(serve_streams(incoming))),
        Err(error) => eprintln!("accepting: {error:#}"),
    }
    loop {
        match node.swarm.select_next_some().await {
            SwarmEvent::ConnectionEstablished { .. } => {
                connections.accepted.fetch_add(1, Ordering::Relaxed);
            }
            SwarmEvent::ConnectionClosed { .. } => {
                connections.ended.fetch_add(1, Ordering::Relaxed);
            }
            // The client has already closed it; *accepted* shows how many are missing.
            SwarmEvent::IncomingConnectionError { .. } => {
                connections.ended.fetch_add(1, Ordering::Relaxed);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Requests(Event::Message {
                message: Message::Request { channel, .. },
                ..
            })) => {
                let reply = node.exchange.reply();
                // The client notices the error, or has closed the connection.
                let _ = node
                    .swarm
                    .behaviour_mut()
                    .requests
                    .send_response(channel, reply);
            }
            _ => {}
        }
    }
}

async fn serve_streams(mut incoming: IncomingStreams) {
    while let Some((_, stream)) = incoming.next().await {
        tokio::spawn(async move {
            // The client notices the error, or has closed the connection.
            let _ = service::serve(stream).await;
        });
    }
}
