//! The environment of the contracts: a network namespace with an address other than loopback, and a
//! Redis server.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use harness::namespace::Namespace;

use crate::child::{Invocation, Process};

/// An address that other processes can reach, as a container has.
pub const IP: &str = "10.203.113.1";

/// The address of the Redis server.
pub const REDIS_ADDR: &str = "127.0.0.1:6379";

/// A namespace with a Redis server. Programs in it cannot reach the outside.
pub struct Site {
    _server: Process,
    namespace: Namespace,
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
        let [namespace] = Namespace::hold()?;
        // Like the only interface of a container. With an IPv6 address, some programs would publish
        // that instead.
        let addr = format!("{IP}/32");
        namespace.run(&["ip", "address", "add", &addr, "dev", "lo"], "")?;
        let lifetime = LIFETIME.as_secs().to_string();
        let mut server = Invocation::new(namespace.enter())
            .with(["timeout", &lifetime, "redis-server", "--bind", "127.0.0.1"])
            .with(["--port", "6379", "--save", "", "--appendonly", "no"])
            .start(dir)?;
        if server.says("Ready to accept connections", Instant::now() + START) {
            return Ok(Self {
                _server: server,
                namespace,
            });
        }
        server.kill();
        Err(format!("no Redis server: {}", server.errors()))
    }

    /// The same program in the namespace, with a limit that works even if this process is killed.
    pub fn enter(&self, program: &Invocation, limit: Duration) -> Invocation {
        let mut entered = Invocation::new(self.namespace.enter())
            .with(["timeout"])
            .with([limit.as_secs().to_string()])
            .with(program.words.iter().cloned());
        entered.env.clone_from(&program.env);
        entered
    }
}

/// How long the server may take to start.
const START: Duration = Duration::from_secs(10);

/// Longest run time of the server.
const LIFETIME: Duration = Duration::from_secs(600);
