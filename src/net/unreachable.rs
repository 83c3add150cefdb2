//! ICMP's word that a datagram was received by nobody.

#[cfg(target_os = "linux")]
mod linux;

use std::{io, net::SocketAddr};

/// A datagram that was received by nobody.
pub(crate) struct Unreachable {
    pub(crate) remote_addr: SocketAddr,
    pub(crate) obstacle: Obstacle,
    /// The beginning of the datagram, as the ICMP message quotes it.
    pub(crate) quoted: Vec<u8>,
}

/// Why nobody has received a datagram.
#[cfg_attr(
    not(target_os = "linux"),
    allow(dead_code, reason = "no other system is asked")
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// This host itself could not deliver it: nobody on the link has the address, as ARP or Neighbor
    /// Discovery has found out.
    NoNeighbour,
    /// Nobody listens at the port.
    PortClosed,
}

/// What the next ICMP message says: which datagram nobody was there to receive, or something else, which is not
/// believed. `WouldBlock` if there is none, or where the operating system does not tell.
pub(super) fn next_report(socket: &tokio::net::UdpSocket) -> io::Result<Option<Unreachable>> {
    #[cfg(target_os = "linux")]
    {
        linux::next_report(socket)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = socket;
        Err(io::ErrorKind::WouldBlock.into())
    }
}
