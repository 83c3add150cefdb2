//! Linux: the socket's error queue.
//!
//! quinn-udp reports such errors too, but names only the host that sent the ICMP message; here the port
//! matters, because one host may refuse one dial and answer another.

use std::{
    io::{self, IoSliceMut},
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
};

use nix::{
    cmsg_space,
    errno::Errno,
    libc,
    sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg},
};

/// As much of a datagram as it takes to tell which connection it was for: a QUIC header.
const QUOTED_BYTES: usize = 64;

/// Takes the next report from the queue. Of a "port unreachable": the address, and the beginning of the datagram.
///
/// Others say nothing: "packet too big" is left to QUIC's own path MTU discovery (RFC 9000 §14.3), and an
/// unreachable network may be reachable again before the handshake times out.
pub(super) fn next_report(socket: &impl AsFd) -> io::Result<Option<(SocketAddr, Vec<u8>)>> {
    let mut quoted = vec![0; QUOTED_BYTES];
    // What quinn-udp has the socket tell of each datagram (packet information, traffic class) comes
    // with its errors as well; were there no room for it, nix would give nothing.
    let mut control = cmsg_space!(
        (libc::sock_extended_err, libc::sockaddr_in6),
        libc::in6_pktinfo,
        libc::c_int
    );
    let (refused, remote_addr, len) = {
        let mut parts = [IoSliceMut::new(&mut quoted)];
        let message = recvmsg::<SockaddrStorage>(
            socket.as_fd().as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT,
        )?;
        let refused = message.cmsgs()?.any(|control| is_refusal(&control));
        // The address that the datagram in question was sent to.
        let remote_addr = message.address.as_ref().and_then(socket_addr);
        (refused, remote_addr, message.bytes)
    };
    quoted.truncate(len);
    Ok(remote_addr
        .filter(|_| refused)
        .map(|remote_addr| (remote_addr, quoted)))
}

fn is_refusal(control: &ControlMessageOwned) -> bool {
    let (ControlMessageOwned::Ipv4RecvErr(error, _) | ControlMessageOwned::Ipv6RecvErr(error, _)) =
        control
    else {
        return false;
    };
    Errno::from_raw(error.ee_errno.cast_signed()) == Errno::ECONNREFUSED
}

fn socket_addr(addr: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = addr.as_sockaddr_in() {
        return Some(SocketAddr::from((v4.ip(), v4.port())));
    }
    let v6 = addr.as_sockaddr_in6()?;
    Some(SocketAddr::from((v6.ip(), v6.port())))
}
