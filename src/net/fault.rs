//! What an error of a socket says: about one datagram, its way, the interface, or the socket itself.

use std::io;

/// What has gone wrong with sending or receiving, by what to do about it.
///
/// `WouldBlock` is none of them. An error that ICMP has reported about an earlier datagram looks the same as one about
/// this one, but a socket reports it only once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The socket is dead: whatever it is used for fails.
    Broken,
    /// The interface's queue is full, or the kernel's memory: the same datagram may pass a little later.
    Busy,
    /// Nothing that is known.
    Other,
    /// What was asked for cannot be had: a batch to be cut into segments, a source address that went, a way that a
    /// "blackhole" route has closed.
    Refused,
    /// The operating system forbids to send there. ICMP never looks like that.
    Forbidden,
    /// The datagram does not fit into the interface's MTU, or into the path's as ICMP says.
    TooLarge,
    /// There is no way to that address now, a router forbids it, or its host has said that nobody
    /// listens.
    Unreachable,
}

impl Fault {
    pub(crate) fn of(error: &io::Error) -> Self {
        of_code(error).unwrap_or_else(|| Self::of_kind(error.kind()))
    }

    /// As far as the standard library tells.
    fn of_kind(kind: io::ErrorKind) -> Self {
        use io::ErrorKind as Kind;
        match kind {
            Kind::BrokenPipe | Kind::NotConnected => Self::Broken,
            Kind::OutOfMemory => Self::Busy,
            Kind::InvalidInput => Self::Refused,
            Kind::AddrNotAvailable
            | Kind::ConnectionRefused
            | Kind::ConnectionReset
            | Kind::HostUnreachable
            | Kind::NetworkDown
            | Kind::NetworkUnreachable
            | Kind::PermissionDenied => Self::Unreachable,
            _ => Self::Other,
        }
    }
}

#[cfg(unix)]
fn of_code(error: &io::Error) -> Option<Fault> {
    use nix::errno::Errno;

    Some(match Errno::from_raw(error.raw_os_error()?) {
        Errno::EBADF | Errno::ENOTCONN | Errno::ENOTSOCK | Errno::EPIPE | Errno::ESHUTDOWN => {
            Fault::Broken
        }
        Errno::ENOBUFS | Errno::ENOMEM => Fault::Busy,
        Errno::EINVAL | Errno::EIO => Fault::Refused,
        Errno::EMSGSIZE => Fault::TooLarge,
        Errno::EPERM => Fault::Forbidden,
        Errno::EACCES
        | Errno::EADDRNOTAVAIL
        | Errno::ECONNREFUSED
        | Errno::EHOSTDOWN
        | Errno::EHOSTUNREACH
        | Errno::ENETDOWN
        | Errno::ENETUNREACH
        // Of an IPv6 zone whose interface is gone; the socket itself is bound to no device.
        | Errno::ENODEV
        // ICMP: the host does not speak UDP, or a router rejects the datagram's header.
        | Errno::ENOPROTOOPT
        | Errno::EPROTO => Fault::Unreachable,
        _ => return None,
    })
}

/// Winsock's codes for what the standard library has no name for.
#[cfg(windows)]
fn of_code(error: &io::Error) -> Option<Fault> {
    const WSAEACCES: i32 = 10013;
    const WSAENOTSOCK: i32 = 10038;
    const WSAEMSGSIZE: i32 = 10040;
    const WSAENOBUFS: i32 = 10055;
    match error.raw_os_error()? {
        WSAEACCES => Some(Fault::Forbidden),
        WSAENOTSOCK => Some(Fault::Broken),
        WSAEMSGSIZE => Some(Fault::TooLarge),
        WSAENOBUFS => Some(Fault::Busy),
        _ => None,
    }
}

#[cfg(not(any(unix, windows)))]
fn of_code(_: &io::Error) -> Option<Fault> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn errors_of_the_system_are_told_apart() {
        use nix::errno::Errno;

        for (fault, errors) in [
            (
                Fault::Broken,
                &[Errno::EBADF, Errno::ENOTSOCK, Errno::EPIPE][..],
            ),
            (Fault::Busy, &[Errno::ENOBUFS, Errno::ENOMEM]),
            (Fault::Refused, &[Errno::EINVAL, Errno::EIO]),
            (Fault::TooLarge, &[Errno::EMSGSIZE]),
            (Fault::Forbidden, &[Errno::EPERM]),
            (
                Fault::Unreachable,
                &[
                    Errno::EADDRNOTAVAIL,
                    Errno::ECONNREFUSED,
                    Errno::EHOSTUNREACH,
                    Errno::ENETDOWN,
                    Errno::ENETUNREACH,
                ],
            ),
            (Fault::Other, &[Errno::EFAULT]),
        ] {
            for &errno in errors {
                assert_eq!(Fault::of(&io::Error::from(errno)), fault, "{errno}");
            }
        }
    }

    #[test]
    fn errors_without_a_code_are_told_apart_by_their_kind() {
        let of = |kind: io::ErrorKind| Fault::of(&kind.into());
        assert_eq!(of(io::ErrorKind::BrokenPipe), Fault::Broken);
        assert_eq!(of(io::ErrorKind::NetworkDown), Fault::Unreachable);
        assert_eq!(of(io::ErrorKind::UnexpectedEof), Fault::Other);
    }
}
