//! Sockets that share an address, among which the kernel chooses as we would.

#[cfg(target_os = "linux")]
mod linux;

use std::{io, net::SocketAddr};

use super::{
    task::Runtime,
    udp_socket::{BufferSizes, UdpSocket},
};

/// Binds one socket for each shard to `addr`, where the kernel can steer datagrams to them; else one for all.
///
/// `count` is the number of shards. Socket *i* gets the datagrams whose destination connection ID begins with a
/// byte that is *i* modulo `count`, as the shard with that number issues them. Where the kernel does not get it
/// right (it looks at the first of several datagrams that it has merged), the shard that receives a datagram hands
/// it on.
pub(crate) fn bind_steered(
    runtime: &Runtime,
    addr: SocketAddr,
    buffers: BufferSizes,
    count: usize,
) -> io::Result<Vec<UdpSocket>> {
    // Alone at first, so that it fails where somebody else has the port.
    let first = UdpSocket::bind(runtime, addr, buffers)?;
    #[cfg(target_os = "linux")]
    if count > 1 {
        match linux::join(runtime, &first, buffers, count) {
            Ok(others) => return Ok([first].into_iter().chain(others).collect()),
            Err(error) => tracing::debug!(%error, %addr, "one socket has to do for all shards"),
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = count;
    Ok(vec![first])
}
