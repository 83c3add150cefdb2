//! ICMP's word that nobody listens at an address.

#[cfg(target_os = "linux")]
mod linux;

use std::{io, net::SocketAddr};

/// A datagram that was sent to an address where nobody listens.
pub(crate) struct Unreachable {
    pub(crate) remote_addr: SocketAddr,
    /// The beginning of the datagram, as the ICMP message quotes it.
    pub(crate) quoted: Vec<u8>,
}

/// What the next ICMP message says: which datagram nobody was there to receive, or something else, which is not
/// believed. `WouldBlock` if there is none, or where the operating system does not tell.
pub(super) fn next_report(socket: &tokio::net::UdpSocket) -> io::Result<Option<Unreachable>> {
    #[cfg(target_os = "linux")]
    {
        let refused = linux::next_report(socket)?;
        Ok(refused.map(|(remote_addr, quoted)| Unreachable {
            remote_addr,
            quoted,
        }))
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = socket;
        Err(io::ErrorKind::WouldBlock.into())
    }
}
