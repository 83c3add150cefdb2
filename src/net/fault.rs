//! Classifies socket errors: does an error concern one datagram, its destination, the interface, or
//! the socket itself?

use std::io;

/// The cause of a send or receive error, as far as the reaction depends on it.
///
/// `WouldBlock` is none of these. An ICMP error about an earlier datagram has the same error codes
/// as an error about this datagram, but the socket reports it only once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The socket has failed: every use of it fails.
    Broken,
    /// The interface's queue or the kernel's memory is full: the same datagram may succeed a little
    /// later.
    Busy,
    /// An unknown error.
    Other,
    /// The operating system cannot do what was asked: cut a batch into segments, use a source
    /// address that no interface has any more, or use a "blackhole" route.
    Refused,
    /// The operating system forbids sending there. ICMP errors never have this code.
    Forbidden,
    /// The datagram exceeds the MTU of the interface, or the path MTU reported by ICMP.
    TooLarge,
    /// The address is unreachable now: there is no route, a router prohibits it, or its host
    /// reported that the port is closed.
    Unreachable,
}

impl Fault {
    pub(crate) fn of(error: &io::Error) -> Self {
        of_code(error).unwrap_or_else(|| Self::of_kind(error.kind()))
    }

    /// Classifies an error by the standard library's kind.
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
        // The interface of an IPv6 zone is gone; the socket itself is bound to no device.
        | Errno::ENODEV
        // ICMP: the host does not speak UDP, or a router rejects the datagram's header.
        | Errno::ENOPROTOOPT
        | Errno::EPROTO => Fault::Unreachable,
        _ => return None,
    })
}

/// Winsock codes for which the standard library has no kind.
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
