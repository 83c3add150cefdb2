//! The perf test of unified-testing, and of its predecessor test-plans: the speed of uploads and
//! downloads.

mod codec;
mod statistics;
mod test_plans;
mod unified;

use std::{env, process::ExitCode, time::Duration};

use futures::StreamExt;
use interop_suites::{environment::Environment, error::Error, node, program};
use libp2p::{
    PeerId, StreamProtocol, Swarm,
    identity::Keypair,
    request_response::{self, Message, ProtocolSupport},
    swarm::SwarmEvent,
};
use tokio::time::Instant;

use crate::codec::{Codec, Header, Request, Response};

/// The request-response behaviour with the perf codec.
type Behaviour = request_response::Behaviour<Codec>;

#[tokio::main]
async fn main() -> ExitCode {
    program::run(async |environment: Environment| {
        let header = Header::read(&environment)?;
        // test-plans passes arguments, unified-testing only variables.
        if env::args_os().len() == 1 {
            unified::test(&environment, header).await
        } else {
            test_plans::test(header).await
        }
    })
    .await
}

fn swarm(keypair: Keypair, codec: Codec) -> Swarm<Behaviour> {
    let config = request_response::Config::default().with_request_timeout(TIMEOUT);
    node::swarm(keypair, |_| {
        Behaviour::with_codec(codec, [(PERF, ProtocolSupport::Full)], config)
    })
}

/// Answers all requests for ever.
async fn serve(swarm: &mut Swarm<Behaviour>) -> Result<(), Error> {
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::Behaviour(request_response::Event::Message {
                message:
                    Message::Request {
                        request, channel, ..
                    },
                ..
            }) => {
                let response = Response {
                    bytes: request.download,
                };
                // This fails if the peer is gone.
                let _ = swarm.behaviour_mut().send_response(channel, response);
            }
            SwarmEvent::ListenerClosed {
                reason: Err(error), ..
            } => return Err(Error::ListenerClosed(error)),
            event => tracing::debug!(?event, "serving"),
        }
    }
}

/// Sends a request, and measures the time until the whole response has arrived.
async fn measure(
    swarm: &mut Swarm<Behaviour>,
    peer_id: PeerId,
    request: Request,
) -> Result<Duration, Error> {
    let start = Instant::now();
    let sent = swarm.behaviour_mut().send_request(&peer_id, request);
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::Behaviour(request_response::Event::Message {
                message:
                    Message::Response {
                        request_id,
                        response,
                    },
                ..
            }) if request_id == sent => {
                if response.bytes != request.download {
                    return Err(Error::Length {
                        asked: request.download,
                        received: response.bytes,
                    });
                }
                return Ok(start.elapsed());
            }
            SwarmEvent::Behaviour(request_response::Event::OutboundFailure {
                request_id,
                error,
                ..
            }) if request_id == sent => return Err(error.into()),
            event => tracing::debug!(?event, "measuring"),
        }
    }
}

const PERF: StreamProtocol = StreamProtocol::new("/perf/1.0.0");

/// unified-testing's time limit of a test.
const TIMEOUT: Duration = Duration::from_secs(300);
