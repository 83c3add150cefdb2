//! How much memory the process may use.

/// Bytes of memory that this process may use: the memory of the machine, or the limit of its
/// control group if that is smaller. `None` if the operating system does not tell.
pub(crate) fn available() -> Option<u64> {
    let machine = machine();
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max")
        .ok()
        .and_then(|limit| limit.trim().parse().ok());
    machine.into_iter().chain(group).min()
}

#[cfg(target_os = "linux")]
fn machine() -> Option<u64> {
    let info = rustix::system::sysinfo();
    #[allow(
        clippy::useless_conversion,
        reason = "its type depends on the platform"
    )]
    let ram = u64::from(info.totalram);
    Some(ram.saturating_mul(info.mem_unit.into()))
}

#[cfg(not(target_os = "linux"))]
fn machine() -> Option<u64> {
    None
}
