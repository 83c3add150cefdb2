//! The client: presents each certificate to one listener.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use quinn::{Endpoint, crypto::rustls::QuicClientConfig};
use tokio::time;

use crate::{Case, describe, hostile_tls, outcome::Outcome, ping, print};

/// Presents one case after another, except those about the peer that a dialer expects.
pub async fn all(
    cases: impl Iterator<Item = (usize, Case)>,
    addr: SocketAddr,
    timeout: Duration,
) -> Result<(), String> {
    let local: IpAddr = match addr {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let endpoint = Endpoint::client((local, 0).into()).map_err(|error| error.to_string())?;
    for (index, case) in cases.filter(|(_, case)| case.expected_peer.is_none()) {
        let present = present(&endpoint, &case, addr);
        let outcome = match time::timeout(timeout, present).await {
            Ok(outcome) => outcome?,
            Err(_) => Outcome::Silent,
        };
        let mut line = describe(index, &case);
        outcome.tell(&mut line);
        print(&line);
    }
    endpoint.wait_idle().await;
    Ok(())
}

/// A client's handshake completes before its certificate is checked, so only an answer to a ping
/// counts.
async fn present(endpoint: &Endpoint, case: &Case, addr: SocketAddr) -> Result<Outcome, String> {
    let tls = hostile_tls::client(case);
    let crypto = QuicClientConfig::try_from(tls).map_err(|error| error.to_string())?;
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    let connecting = endpoint
        .connect_with(config, addr, NAME)
        .map_err(|error| error.to_string())?;
    let connection = match connecting.await {
        Ok(connection) => connection,
        Err(error) => return Ok(error.into()),
    };
    if ping::ask(&connection).await.is_ok() {
        connection.close(0_u8.into(), b"");
        return Ok(Outcome::Accepted);
    }
    Ok(connection.closed().await.into())
}

/// Not sent: SNI is off.
const NAME: &str = "localhost";
