//! The server: serves each certificate at a separate port.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use quinn::{Connection, Endpoint, Incoming, crypto::rustls::QuicServerConfig};
use serde_json::json;
use tokio::{io::AsyncReadExt, time};

use crate::{Case, describe, hostile_tls, outcome::Outcome, ping, print};

/// Serves all cases until our standard input is closed.
pub async fn all(
    cases: impl Iterator<Item = (usize, Case)>,
    addr: SocketAddr,
    timeout: Duration,
) -> Result<(), String> {
    let mut count = 0;
    for (index, case) in cases {
        let tls = hostile_tls::server(&case);
        let crypto = QuicServerConfig::try_from(tls).map_err(|error| error.to_string())?;
        let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        let endpoint = Endpoint::server(config, addr).map_err(|error| error.to_string())?;
        let bound = endpoint.local_addr().map_err(|error| error.to_string())?;
        // The address contains the peer that the other side should expect.
        let peer_id = case.expected_peer.unwrap_or(case.host);
        let mut line = describe(index, &case);
        line["listen"] = json!(multiaddr(bound, peer_id).to_string());
        print(&line);
        count += 1;
        tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                tokio::spawn(serve(index, incoming, timeout));
            }
        });
    }
    print(&json!({ "serving": count }));
    let mut input = tokio::io::stdin();
    let mut block = [0; 64];
    while input.read(&mut block).await.is_ok_and(|length| length > 0) {}
    Ok(())
}

async fn serve(index: usize, incoming: Incoming, timeout: Duration) {
    let (outcome, talk) = time::timeout(timeout, talk(incoming))
        .await
        .unwrap_or((Outcome::Silent, None));
    let mut line = json!({ "case": index });
    outcome.tell(&mut line);
    print(&line);
    // The other side ends the connection after our answer.
    if let Some((connection, _stream)) = talk {
        let _ = time::timeout(timeout, connection.closed()).await;
    }
}

/// Waits until the other side has got an answer to a ping, or has ended the connection.
async fn talk(incoming: Incoming) -> (Outcome, Option<(Connection, impl Sized)>) {
    let connection = match incoming.await {
        Ok(connection) => connection,
        Err(error) => return (error.into(), None),
    };
    let mut streams = FuturesUnordered::new();
    loop {
        tokio::select! {
            stream = connection.accept_bi() => match stream {
                Ok(stream) => streams.push(ping::answer(stream)),
                Err(error) => return (error.into(), None),
            },
            Some(answer) = streams.next() => if let Ok(stream) = answer {
                return (Outcome::Accepted, Some((connection, stream)));
            },
        }
    }
}

fn multiaddr(addr: SocketAddr, peer_id: PeerId) -> Multiaddr {
    Multiaddr::from(addr.ip())
        .with(Protocol::Udp(addr.port()))
        .with(Protocol::QuicV1)
        .with(Protocol::P2p(peer_id))
}
