//! ICMP's word that nobody listens at an address (Linux).
//!
//! quinn-udp reports such errors too, but names only the host that sent the ICMP message; here the port
//! matters, because one host may refuse one dial and answer another.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
};

use nix::{
    cmsg_space,
    errno::Errno,
    libc,
    sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg},
};

/// Takes the next "port unreachable" or "connection refused" from the socket's error queue.
///
/// Other reports are passed over: "packet too big" is left to QUIC's own path MTU discovery (RFC 9000
/// §14.3), and an unreachable network may be reachable again before the handshake times out.
pub(super) fn next_unreachable(socket: &impl AsFd) -> io::Result<SocketAddr> {
    let mut control = cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
    loop {
        let message = recvmsg::<SockaddrStorage>(
            socket.as_fd().as_raw_fd(),
            &mut [],
            Some(&mut control),
            MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT,
        )?;
        let refused = message.cmsgs().map_err(io::Error::from)?.any(|control| {
            let (ControlMessageOwned::Ipv4RecvErr(error, _)
            | ControlMessageOwned::Ipv6RecvErr(error, _)) = control
            else {
                return false;
            };
            Errno::from_raw(error.ee_errno.cast_signed()) == Errno::ECONNREFUSED
        });
        // The address that the datagram in question was sent to.
        if refused && let Some(addr) = message.address.as_ref().and_then(socket_addr) {
            return Ok(addr);
        }
    }
}

fn socket_addr(addr: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = addr.as_sockaddr_in() {
        return Some(SocketAddr::from((v4.ip(), v4.port())));
    }
    let v6 = addr.as_sockaddr_in6()?;
    Some(SocketAddr::from((v6.ip(), v6.port())))
}
