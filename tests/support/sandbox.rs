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
            Forbidden::Netlink => {
                let family = SeccompCondition::new(
                    0,
                    SeccompCmpArgLen::Dword,
                    SeccompCmpOp::Eq,
                    libc::AF_NETLINK as u64,
                );
                let rule = SeccompRule::new(vec![family.unwrap()]).unwrap();
                (libc::SYS_socket, vec![rule], libc::EAFNOSUPPORT)
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
