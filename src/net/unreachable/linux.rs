//! Linux: the socket's error queue.
//!
//! quinn-udp reports such errors too, but names only the host that sent the ICMP message. The port
//! matters here, because one host may refuse one dial and answer another.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd},
};

use nix::{
    cmsg_space,
    errno::Errno,
    libc,
    sys::socket::{
        ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage, recvmsg,
    },
};

use super::{Obstacle, Unreachable};

/// Enough bytes of a datagram for the connection ID in its QUIC header.
const QUOTED_BYTES: usize = 64;

/// Takes the next error from the queue. Returns a "port unreachable", or a "host unreachable" that
/// this host has generated itself.
///
/// Other errors return `None`. QUIC's own path MTU discovery makes "packet too big" unnecessary
/// (RFC 9000 §14.3), and a host that a router cannot reach may become reachable before the
/// handshake times out.
pub(super) fn next_icmp_error(socket: &impl AsFd) -> io::Result<Option<Unreachable>> {
    let mut quoted = vec![0; QUOTED_BYTES];
    // quinn-udp enables packet information and traffic class for each datagram; errors carry them
    // as well. Without room for them, nix would return no control messages.
    let mut control = cmsg_space!(
        (libc::sock_extended_err, libc::sockaddr_in6),
        libc::in6_pktinfo,
        libc::c_int
    );
    let (obstacle, remote_addr, len) = {
        let mut parts = [IoSliceMut::new(&mut quoted)];
        let message = recvmsg::<SockaddrStorage>(
            socket.as_fd().as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT,
        )?;
        let obstacle = Report::of(message.cmsgs()?).obstacle();
        // The destination of the datagram.
        let remote_addr = message.address.as_ref().and_then(socket_addr);
        (obstacle, remote_addr, message.bytes)
    };
    quoted.truncate(len);
    let report = obstacle.zip(remote_addr);
    Ok(report.map(|(obstacle, remote_addr)| Unreachable {
        remote_addr,
        obstacle,
        quoted,
    }))
}

/// An ICMP error, as the kernel reports it.
#[derive(Default)]
struct Report {
    error: Option<Errno>,
    /// The sender of the ICMP message.
    offender: Option<IpAddr>,
    /// Its destination: our address from which the datagram was sent.
    local_ip: Option<IpAddr>,
}

impl Report {
    fn of(control: impl Iterator<Item = ControlMessageOwned>) -> Self {
        let mut report = Self::default();
        let errno = |error: libc::sock_extended_err| Errno::from_raw(error.ee_errno.cast_signed());
        for control in control {
            match control {
                ControlMessageOwned::Ipv4RecvErr(error, offender) => {
                    report.error = Some(errno(error));
                    report.offender = offender.map(|addr| SockaddrIn::from(addr).ip().into());
                }
                ControlMessageOwned::Ipv6RecvErr(error, offender) => {
                    report.error = Some(errno(error));
                    report.offender = offender.map(|addr| SockaddrIn6::from(addr).ip().into());
                }
                ControlMessageOwned::Ipv4PacketInfo(info) => {
                    let bits = u32::from_be(info.ipi_addr.s_addr);
                    report.local_ip = Some(Ipv4Addr::from_bits(bits).into());
                }
                ControlMessageOwned::Ipv6PacketInfo(info) => {
                    report.local_ip = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
                }
                _ => {}
            }
        }
        report
    }

    fn obstacle(&self) -> Option<Obstacle> {
        let is_own = self.offender.is_some() && self.offender == self.local_ip;
        match self.error? {
            Errno::ECONNREFUSED => Some(Obstacle::PortClosed),
            Errno::EHOSTUNREACH if is_own => Some(Obstacle::NoNeighbour),
            _ => None,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_host_is_taken_at_its_word_that_another_one_is_not_there() {
        let [us, router] = ["192.0.2.1", "192.0.2.254"].map(|ip| ip.parse().ok());
        for (error, offender, local_ip, obstacle) in [
            (Errno::EHOSTUNREACH, us, us, Some(Obstacle::NoNeighbour)),
            (Errno::EHOSTUNREACH, router, us, None),
            (Errno::EHOSTUNREACH, None, None, None),
            (Errno::ENETUNREACH, us, us, None),
            (Errno::ECONNREFUSED, router, us, Some(Obstacle::PortClosed)),
        ] {
            let error = Some(error);
            let report = Report {
                error,
                offender,
                local_ip,
            };
            assert_eq!(report.obstacle(), obstacle, "{error:?} from {offender:?}");
        }
    }
}
