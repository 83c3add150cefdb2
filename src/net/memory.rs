//! How much memory the process may use.

#[cfg(target_os = "linux")]
use std::path::Path;

/// Bytes of memory that this process may use: the memory of the machine, or the limit of its
/// control group if that is smaller. `None` on systems other than Linux, which are not asked.
///
/// `memory.high` is not read: a group may exceed it, and is slowed down then.
#[cfg(target_os = "linux")]
pub(crate) fn available() -> Option<u64> {
    // Without its path, a control group is found only inside a namespace of its own.
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_else(|_| "0::/".to_owned());
    let group = limit_of_groups(Path::new("/sys/fs/cgroup"), &groups);
    machine().into_iter().chain(group).min()
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn available() -> Option<u64> {
    None
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

/// The smallest limit of these control groups and of all around them. `groups` has the format of
/// `/proc/self/cgroup` (cgroups(7)), and `mounted` is where version 2 is mounted.
///
/// A container may see only its own part of the groups, under a path that it does not see. The root
/// is then its own group.
#[cfg(target_os = "linux")]
fn limit_of_groups(mounted: &Path, groups: &str) -> Option<u64> {
    let limits = groups.lines().filter_map(|line| {
        let (_number, group) = line.split_once(':')?;
        let (controllers, path) = group.split_once(':')?;
        let (root, file) = if controllers.is_empty() {
            (mounted.to_owned(), "memory.max")
        } else if controllers.split(',').any(|name| name == "memory") {
            (mounted.join("memory"), "memory.limit_in_bytes")
        } else {
            return None;
        };
        let groups = Path::new(path.trim_start_matches('/')).ancestors();
        groups
            .filter_map(|group| {
                let limit = std::fs::read_to_string(root.join(group).join(file)).ok()?;
                // No limit is "max" in version 2, and a very large number in version 1.
                limit.trim().parse().ok()
            })
            .min()
    });
    limits.min()
}

#[cfg(all(test, target_os = "linux"))]
#[allow(clippy::unwrap_used, reason = "a test panics where it fails")]
mod tests {
    use std::fs;

    use super::*;

    const UNLIMITED_V1: &str = "9223372036854771712\n";

    /// The limit of these groups where these files exist.
    fn limit(files: &[(&str, &str)], groups: &str) -> Option<u64> {
        let mounted = tempfile::tempdir().unwrap();
        for (file, contents) in files {
            let file = mounted.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, contents).unwrap();
        }
        limit_of_groups(mounted.path(), groups)
    }

    #[test]
    fn smallest_limit_of_a_group_and_of_those_around_it_counts() {
        let node = "system.slice/node.service/memory.max";
        let (slice, root) = ("system.slice/memory.max", "memory.max");
        let groups = "0::/system.slice/node.service\n";
        for (files, least) in [
            (vec![], None),
            (vec![(node, "max\n")], None),
            // A systemd unit with `MemoryMax`.
            (vec![(node, "512\n"), (slice, "max\n")], Some(512)),
            (vec![(node, "512\n"), (slice, "400\n")], Some(400)),
            (vec![(node, "max\n"), (slice, "400\n")], Some(400)),
            // Only a container has a limit at the root.
            (vec![(root, "300\n")], Some(300)),
            (vec![("other.slice/memory.max", "1\n")], None),
        ] {
            assert_eq!(limit(&files, groups), least, "{files:?}");
        }
        assert_eq!(limit(&[(root, "300\n")], "0::/\n"), Some(300));
    }

    #[test]
    fn limits_of_version_1_count() {
        let file = "memory/docker/1/memory.limit_in_bytes";
        let around = "memory/docker/memory.limit_in_bytes";
        let root = "memory/memory.limit_in_bytes";
        let groups = "9:cpu,cpuacct:/other\n4:memory:/docker/1\n1:name=systemd:/x:y\n0::/z\n";
        for (files, least) in [
            (vec![(file, "512\n"), (root, UNLIMITED_V1)], Some(512)),
            (vec![(file, UNLIMITED_V1), (around, "400\n")], Some(400)),
            // A container that does not see the path.
            (vec![(root, "300\n")], Some(300)),
            (vec![("memory/other/memory.limit_in_bytes", "1\n")], None),
        ] {
            assert_eq!(limit(&files, groups), least, "{files:?}");
        }
    }
}
