//! The command line.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use clap::{Args, Parser};
use harness::command_line::seconds;
use libp2p::{Multiaddr, multiaddr::Protocol};

/// A peer with every wrong certificate.
#[derive(Parser)]
#[command(name = "hostile")]
pub enum Command {
    /// Serves each certificate at a separate port.
    Listen(Options),
    /// Presents each certificate to a listener.
    Dial(Options),
}

#[derive(Args)]
pub struct Options {
    #[arg(value_name = "MULTIADDR", value_parser = socket_addr)]
    pub addr: SocketAddr,
    /// The first case to run.
    #[arg(long, value_name = "CASE", default_value_t = 0)]
    pub from: usize,
    /// Seconds to wait for the other side in each case.
    #[arg(long, value_name = "SECONDS", default_value = "8", value_parser = seconds)]
    pub timeout: Duration,
}

/// The address without the peer ID, which is not needed.
fn socket_addr(text: &str) -> Result<SocketAddr, String> {
    let addr: Multiaddr = text
        .parse()
        .map_err(|error| format!("{text} is no multiaddress: {error}"))?;
    let mut parts = addr.iter();
    let ip: IpAddr = match parts.next() {
        Some(Protocol::Ip4(ip)) => ip.into(),
        Some(Protocol::Ip6(ip)) => ip.into(),
        _ => return Err(format!("{text} has no IP address")),
    };
    match (parts.next(), parts.next()) {
        (Some(Protocol::Udp(port)), Some(Protocol::QuicV1)) => Ok((ip, port).into()),
        _ => Err(format!("{text} is not one of QUIC")),
    }
}
