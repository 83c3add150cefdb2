//! The environment of the contracts: a network namespace with an address other than loopback, and a
//! Redis server.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use crate::child::{Invocation, Process};

/// An address that other processes can reach, as a container has.
pub const IP: &str = "10.203.113.1";

/// The address of the Redis server.
pub const REDIS_ADDR: &str = "127.0.0.1:6379";

/// A namespace that lives as long as its Redis server. Programs in it cannot reach the outside.
pub struct Site {
    server: Process,
    privileges: &'static Privileges,
}

/// The commands to create a namespace and to enter it.
struct Privileges {
    make: &'static [&'static str],
    enter: &'static [&'static str],
}

/// Returns the version of the Redis server.
pub fn redis(dir: &Path) -> Result<String, String> {
    let version = Invocation::new(["redis-server", "--version"]).run(dir, START)?;
    // "Redis server v=7.0.15 sha=00000000:0 …"
    Ok(version
        .split_whitespace()
        .find_map(|word| word.strip_prefix("v="))
        .unwrap_or("unknown version")
        .to_owned())
}

impl Site {
    pub fn start(dir: &Path) -> Result<Self, String> {
        let mut reasons = Vec::new();
        for privileges in [&AS_ROOT, &AS_ANYBODY] {
            match Self::try_start(dir, privileges) {
                Ok(site) => return Ok(site),
                Err(reason) => reasons.push(reason),
            }
        }
        Err(reasons.join("; "))
    }

    fn try_start(dir: &Path, privileges: &'static Privileges) -> Result<Self, String> {
        // Like the only interface of a container. With an IPv6 address, some programs would publish
        // that instead.
        let script = format!(
            "ip link set lo up && ip address add {IP}/32 dev lo && \
             exec timeout {} redis-server --bind 127.0.0.1 --port 6379 --save '' --appendonly no",
            LIFETIME.as_secs()
        );
        let mut server = Invocation::new(["unshare"])
            .with(privileges.make.iter().copied())
            .with(["--", "sh", "-c", &script])
            .start(dir)?;
        if server.says("Ready to accept connections", Instant::now() + START) {
            return Ok(Self { server, privileges });
        }
        server.kill();
        Err(format!("no namespace with a server: {}", server.errors()))
    }

    /// The same program in the namespace, with a limit that works even if this process is killed.
    pub fn enter(&self, program: &Invocation, limit: Duration) -> Invocation {
        let mut entered = Invocation::new(["nsenter", "--target"])
            .with([self.server.id().to_string()])
            .with(self.privileges.enter.iter().copied())
            .with(["--", "timeout"])
            .with([limit.as_secs().to_string()])
            .with(program.words.iter().cloned());
        entered.env.clone_from(&program.env);
        entered
    }
}

static AS_ROOT: Privileges = Privileges {
    make: &["--net"],
    enter: &["--net"],
};

static AS_ANYBODY: Privileges = Privileges {
    make: &["--user", "--map-root-user", "--net"],
    enter: &["--user", "--preserve-credentials", "--net"],
};

/// How long the server may take to start.
const START: Duration = Duration::from_secs(10);

/// Longest run time of the server.
const LIFETIME: Duration = Duration::from_secs(600);
