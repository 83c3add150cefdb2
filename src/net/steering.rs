//! Sockets that share an address. The kernel chooses among them by the same rule as our router.

#[cfg(target_os = "linux")]
mod linux;

use std::{io, net::SocketAddr};

use super::{
    task::Runtime,
    udp_socket::{BufferSizes, UdpSocket},
};

/// Binds one socket for each shard to `addr` if the kernel can steer datagrams to them; otherwise
/// one socket for all shards.
///
/// `count` is the number of shards. Socket *i* receives the datagrams whose destination connection
/// ID begins with a byte that is *i* modulo `count`, as in the IDs that shard *i* issues. The
/// kernel may choose the wrong socket, because it inspects only the first of several datagrams that
/// it has merged. The shard that receives such a datagram passes it on.
pub(crate) fn bind_steered(
    runtime: &Runtime,
    addr: SocketAddr,
    buffers: BufferSizes,
    count: usize,
) -> io::Result<Vec<UdpSocket>> {
    // The first socket is bound without `SO_REUSEPORT`, so that it fails if another program has the
    // port.
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
