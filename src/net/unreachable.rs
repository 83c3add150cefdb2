//! ICMP errors about datagrams that were not delivered.

#[cfg(target_os = "linux")]
mod linux;

use std::{io, net::SocketAddr};

/// A datagram that was not delivered.
pub(crate) struct Unreachable {
    pub(crate) remote_addr: SocketAddr,
    pub(crate) obstacle: Obstacle,
    /// The beginning of the datagram, as the ICMP message quotes it.
    pub(crate) quoted: Vec<u8>,
}

/// The reason why a datagram was not delivered.
#[cfg_attr(
    not(target_os = "linux"),
    allow(dead_code, reason = "no other system is asked")
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// This host could not deliver it: no host on the link has the address, according to ARP or
    /// Neighbor Discovery.
    NoNeighbour,
    /// No socket is bound to the port.
    PortClosed,
}

/// Takes the next ICMP error from the socket. Returns the datagram that was not delivered, or
/// `None` for an error that is ignored. Fails with `WouldBlock` if there is none, or if the
/// operating system does not report them.
pub(super) fn next_icmp_error(socket: &tokio::net::UdpSocket) -> io::Result<Option<Unreachable>> {
    #[cfg(target_os = "linux")]
    {
        linux::next_icmp_error(socket)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = socket;
        Err(io::ErrorKind::WouldBlock.into())
    }
}
