//! Threads for which some system calls fail, as in the sandboxes of service managers.

use std::collections::BTreeMap;

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};

/// System calls that fail.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Forbidden {
    /// Opening files.
    Files,
    /// Receiving from sockets.
    Receiving,
    /// Choosing the socket of a group that gets a datagram.
    Steering,
    /// Netlink sockets, as without `AF_NETLINK` in systemd's `RestrictAddressFamilies=`.
    Netlink,
}

/// Puts the calling thread, and threads that it starts, into a sandbox permanently.
///
/// # Panics
///
/// If the kernel does not support it.
pub(crate) fn enter(forbidden: &[Forbidden]) {
    for forbidden in forbidden {
        let (call, rules, errno) = match forbidden {
            Forbidden::Files => (libc::SYS_openat, Vec::new(), libc::EACCES),
            Forbidden::Receiving => (libc::SYS_recvmmsg, Vec::new(), libc::ENOBUFS),
            Forbidden::Steering => {
                let option = libc::SO_ATTACH_REUSEPORT_CBPF as u64;
                (libc::SYS_setsockopt, only_if(2, option), libc::EPERM)
            }
            Forbidden::Netlink => {
                let family = libc::AF_NETLINK as u64;
                (libc::SYS_socket, only_if(0, family), libc::EAFNOSUPPORT)
            }
        };
        let filter = SeccompFilter::new(
            BTreeMap::from([(call, rules)]),
            SeccompAction::Allow,
            SeccompAction::Errno(errno as u32),
            std::env::consts::ARCH.try_into().unwrap(),
        );
        let program: BpfProgram = filter.unwrap().try_into().unwrap();
        apply_filter(&program).unwrap();
    }
}

/// Applies to calls whose argument with this index has this value.
fn only_if(argument: u8, value: u64) -> Vec<SeccompRule> {
    let length = SeccompCmpArgLen::Dword;
    let condition = SeccompCondition::new(argument, length, SeccompCmpOp::Eq, value);
    vec![SeccompRule::new(vec![condition.unwrap()]).unwrap()]
}
