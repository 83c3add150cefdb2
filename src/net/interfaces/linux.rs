//! Linux: the MTU of the interface through which a socket sends.

use std::{
    io::IoSliceMut,
    net::UdpSocket,
    os::fd::{AsFd, AsRawFd},
};

use nix::{
    cmsg_space, libc,
    sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt as error_queue},
};
use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};

use super::WIDEST_NETWORK_BYTES;

/// The MTU of the interface through which this connected socket sends, in bytes.
///
/// The kernel reports the MTU of the path (`IP_MTU`), which anyone can lower for ten minutes with
/// one ICMP message. So the kernel is also given a datagram that is larger than any may be, and
/// refuses it. With `IP_PMTUDISC_PROBE`, as on the sockets that we send from, it compares the size
/// with the interface alone, whose MTU comes with the error. No packet is sent.
pub(super) fn mtu(socket: &UdpSocket, is_ipv4: bool) -> Option<u32> {
    let path_mtu = if is_ipv4 {
        sockopt::ip_mtu(socket).ok()?
    } else {
        sockopt::ipv6_mtu(socket).ok()?
    };
    if path_mtu > WIDEST_NETWORK_BYTES.into() {
        // No message has lowered it.
        return Some(path_mtu);
    }
    if is_ipv4 {
        sockopt::set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::PROBE).ok()?;
        setsockopt(socket, error_queue::Ipv4RecvErr, &true).ok()?;
    } else {
        sockopt::set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::PROBE).ok()?;
        setsockopt(socket, error_queue::Ipv6RecvErr, &true).ok()?;
    }
    socket.send(&REFUSED).err()?;
    refused_by(socket)
}

/// The MTU that the datagram exceeded which the kernel has refused.
fn refused_by(socket: &UdpSocket) -> Option<u32> {
    let mut control = cmsg_space!((libc::sock_extended_err, libc::sockaddr_in6));
    let mut contents = [0];
    let mut parts = [IoSliceMut::new(&mut contents)];
    let message = recvmsg::<()>(
        socket.as_fd().as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT,
    )
    .ok()?;
    message.cmsgs().ok()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4RecvErr(error, _) | ControlMessageOwned::Ipv6RecvErr(error, _) => {
            let is_own = error.ee_origin == libc::SO_EE_ORIGIN_LOCAL;
            let is_size = error.ee_errno.cast_signed() == libc::EMSGSIZE;
            (is_own && is_size).then_some(error.ee_info)
        }
        _ => None,
    })
}

/// Not on the heap, because each dial and each connection that is accepted needs it.
static REFUSED: [u8; LARGER_THAN_ANY] = [0; LARGER_THAN_ANY];

/// In UDP over IPv4 a datagram has at most 65,507 bytes, and over IPv6 65,527. With more than
/// 65,535 the kernel reports no MTU.
const LARGER_THAN_ANY: usize = 65_535;
