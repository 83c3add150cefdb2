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

/// The next datagram that nobody was there to receive; `WouldBlock` if there is none, or where the operating
/// system does not tell.
pub(super) fn next_unreachable(socket: &tokio::net::UdpSocket) -> io::Result<Unreachable> {
    #[cfg(target_os = "linux")]
    {
        let (remote_addr, quoted) = linux::next_unreachable(socket)?;
        Ok(Unreachable {
            remote_addr,
            quoted,
        })
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = socket;
        Err(io::ErrorKind::WouldBlock.into())
    }
}
