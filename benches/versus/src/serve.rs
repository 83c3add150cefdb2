//! The server process.

mod swarm;

use std::{
    io::{self, BufRead},
    sync::{Arc, atomic::Ordering},
};

use anyhow::{Result, bail};
use harness::process::{answer, limit_time};
use libp2p_identity::Keypair;

use crate::{
    catalogue::{Kind, Scenario},
    control::ServerLine,
    limits::{LONGEST, raise_file_limit},
    measure::{Connections, Mark},
    network::Place,
    placement::{Side, runtime},
    service,
    stack::{
        Connection, Endpoint, Setup, StackName,
        bare::Bare,
        floor::Floor,
        libp2p::{Flavour, Libp2p, Official, Ours, OursBbr},
        quinn::{Aes, Chacha, Quinn},
        seen::{Debug, Info, Seen},
        swarm::Node,
        tcp::{Bbr, Cubic, Tcp},
    },
};

/// Serves until standard input ends.
pub fn serve(stack: StackName, scenario: &Scenario, place: &Place) -> Result<()> {
    scenario.placement.apply(Side::Server)?;
    place.enter()?;
    let setup = Setup {
        profile: scenario.profile,
        ip: place.ip,
    };
    limit_time(LONGEST);
    raise_file_limit()?;
    match stack {
        StackName::Ours => serve_libp2p::<Ours>(scenario.kind, setup),
        StackName::OursSeen => serve_libp2p::<Seen<Info>>(scenario.kind, setup),
        StackName::OursTraced => serve_libp2p::<Seen<Debug>>(scenario.kind, setup),
        StackName::OursBbr => serve_libp2p::<OursBbr>(scenario.kind, setup),
        StackName::Official => serve_libp2p::<Official>(scenario.kind, setup),
        StackName::QuinnAes => serve_streams::<Quinn<Aes>>(scenario.kind, setup),
        StackName::QuinnChacha => serve_streams::<Quinn<Chacha>>(scenario.kind, setup),
        StackName::Floor => serve_streams::<Floor>(scenario.kind, setup),
        StackName::Bare => serve_streams::<Bare>(scenario.kind, setup),
        StackName::TcpCubic => serve_streams::<Tcp<Cubic>>(scenario.kind, setup),
        StackName::TcpBbr => serve_streams::<Tcp<Bbr>>(scenario.kind, setup),
        StackName::Go => bail!("go-libp2p has programs of its own"),
    }
}

fn serve_libp2p<F: Flavour>(kind: Kind, setup: Setup) -> Result<()> {
    let Kind::Swarm(work) = kind else {
        return serve_streams::<Libp2p<F>>(kind, setup);
    };
    let runtime = runtime()?;
    let connections = Arc::new(Connections::default());
    let identity = Keypair::generate_ed25519();
    let node = runtime.block_on(Node::bind::<F>(&identity, setup, work))?;
    let address = node.address.clone();
    runtime.spawn(swarm::serve(node, Arc::clone(&connections)));
    answer(&ServerLine::Listening(address.to_string()))?;
    marks(&connections)
}

fn serve_streams<E: Endpoint>(kind: Kind, setup: Setup) -> Result<()> {
    let runtime = runtime()?;
    let connections = Arc::new(Connections::default());
    // This is not a worker thread of the runtime, so no connection runs here.
    let identity = Keypair::generate_ed25519();
    let endpoint = runtime.block_on(E::bind(&identity, setup))?;
    let address = endpoint.address();
    runtime.spawn(accept(endpoint, kind, Arc::clone(&connections)));
    answer(&ServerLine::Listening(address.to_string()))?;
    marks(&connections)
}

/// Prints a mark for each line of standard input.
fn marks(connections: &Connections) -> Result<()> {
    for line in io::stdin().lock().lines() {
        line?;
        answer(&ServerLine::Mark(Mark::now(connections)?))?;
    }
    Ok(())
}

async fn accept<E: Endpoint>(endpoint: E, kind: Kind, connections: Arc<Connections>) {
    loop {
        let incoming = match endpoint.accept().await {
            Ok(incoming) => incoming,
            Err(error) => {
                eprintln!("accepting: {error:#}");
                return;
            }
        };
        let connections = Arc::clone(&connections);
        let serve = async move {
            match incoming.await {
                Ok(connection) => {
                    connections.accepted.fetch_add(1, Ordering::Relaxed);
                    serve_connection::<E>(connection).await;
                }
                // The client has already closed it; *accepted* shows how many are missing.
                Err(_) if matches!(kind, Kind::Close { .. }) => {}
                Err(error) => eprintln!("incoming: {error:#}"),
            }
            connections.ended.fetch_add(1, Ordering::Relaxed);
        };
        if E::ONE_AT_A_TIME {
            return serve.await;
        }
        tokio::spawn(serve);
    }
}

/// Serves the streams of a connection until it ends.
async fn serve_connection<E: Endpoint>(connection: E::Connection) {
    while let Ok(stream) = connection.accept().await {
        let serve = async move {
            // The client notices the error, or has closed the connection.
            let _ = service::serve(stream).await;
        };
        if E::ONE_AT_A_TIME {
            serve.await;
        } else {
            tokio::spawn(serve);
        }
    }
}
