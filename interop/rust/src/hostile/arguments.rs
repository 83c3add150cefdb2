//! The command line.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use libp2p::{Multiaddr, multiaddr::Protocol};

pub struct Arguments {
    pub command: Command,
    pub addr: SocketAddr,
    /// The first case to run.
    pub from: usize,
    /// How long to wait for the other side in each case.
    pub timeout: Duration,
}

pub enum Command {
    /// Serve each certificate at a separate port.
    Listen,
    /// Present each certificate to a listener.
    Dial,
}

const USAGE: &str = "hostile listen MULTIADDR [--from CASE] [--timeout SECONDS]
hostile dial MULTIADDR [--from CASE] [--timeout SECONDS]";

/// Parses the arguments after the program's name.
pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = arguments.into_iter();
    let command = match arguments.next().as_deref() {
        Some("listen") => Command::Listen,
        Some("dial") => Command::Dial,
        _ => return Err(USAGE.to_owned()),
    };
    let addr = socket_addr(&arguments.next().ok_or(USAGE)?)?;
    let mut parsed = Arguments {
        command,
        addr,
        from: 0,
        timeout: Duration::from_secs(8),
    };
    while let Some(name) = arguments.next() {
        let value = arguments
            .next()
            .ok_or_else(|| format!("{name} has no value"))?;
        let number = value
            .parse()
            .map_err(|_| format!("{name} is no number: {value}"))?;
        match name.as_str() {
            "--from" => parsed.from = number,
            "--timeout" => parsed.timeout = Duration::from_secs(number as u64),
            _ => return Err(format!("no option {name}")),
        }
    }
    Ok(parsed)
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
