//! A network namespace for each process, and virtual cables between them.
//!
//! A namespace lives as long as the process in it, so nothing is left behind. It requires root, and
//! the program `ip`.

use std::{fs, net::Ipv4Addr, process::Command};

use anyhow::{Context, Result, anyhow};
use harness::command;
use nix::sched::{CloneFlags, unshare};

/// Moves this process to a new network namespace. Call it before threads are started.
pub fn leave() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("no network namespace of its own")?;
    ip(&["link", "set", "lo", "up"])
}

/// A cable to the server.
#[derive(Clone, Copy)]
pub struct Cable {
    interface: &'static str,
    /// The address at the server's end.
    pub server: Ipv4Addr,
    /// The address at the other end.
    pub other: Ipv4Addr,
}

/// The cable of the honest clients.
pub const CLIENT: Cable = Cable {
    interface: "client",
    server: Ipv4Addr::new(192, 0, 2, 1),
    other: Ipv4Addr::new(192, 0, 2, 2),
};

/// Dialling hosts at the client's end, each with its own address.
pub const HOSTS: u8 = 20;

/// The address of the server that a host dials; the route to it selects the host's source address.
pub fn dialled_by(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, 128 + host)
}

fn host(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, 32 + host)
}

/// The attacker's cable, to which all other destinations are routed.
pub const ATTACKER: Cable = Cable {
    interface: "attacker",
    server: Ipv4Addr::new(198, 51, 100, 1),
    other: Ipv4Addr::new(198, 51, 100, 2),
};

/// The broadcast address of the attacker's cable.
pub const BROADCAST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 255);

impl Cable {
    /// Creates the cable from this process to the server's namespace.
    pub fn lay(self, server: u32) -> Result<()> {
        let [name, server] = [self.interface.to_owned(), server.to_string()];
        ip(&[
            "link", "add", &name, "type", "veth", "peer", "name", &name, "netns", &server,
        ])?;
        self.up(self.other)?;
        ip(&["route", "add", "default", "via", &self.server.to_string()])
    }

    /// Connects the server's end.
    pub fn connect(self) -> Result<()> {
        self.up(self.server)
    }

    fn up(self, address: Ipv4Addr) -> Result<()> {
        let name = self.interface;
        ip(&["address", "add", &format!("{address}/24"), "dev", name])?;
        ip(&["link", "set", name, "up"])
    }

    /// Adds the hosts at the end of this cable; [`be_dialled`](Self::be_dialled) is for the
    /// server's end.
    pub fn add_hosts(self) -> Result<()> {
        let name = self.interface;
        for number in 0..HOSTS {
            let [from, to] = [host(number), dialled_by(number)].map(|ip| format!("{ip}/32"));
            ip(&["address", "add", &from, "dev", name])?;
            let from = host(number).to_string();
            ip(&["route", "add", &to, "dev", name, "src", &from])?;
        }
        Ok(())
    }

    pub fn be_dialled(self) -> Result<()> {
        for number in 0..HOSTS {
            let address = format!("{}/32", dialled_by(number));
            ip(&["address", "add", &address, "dev", self.interface])?;
        }
        Ok(())
    }

    /// Packets received so far.
    pub fn packets_received(self) -> Result<u64> {
        let interfaces = fs::read_to_string("/proc/self/net/dev")?;
        interfaces
            .lines()
            .filter_map(|line| line.trim().strip_prefix(self.interface)?.strip_prefix(':'))
            // Bytes, then packets.
            .find_map(|counts| counts.split_whitespace().nth(1)?.parse().ok())
            .context("the cable is gone")
    }
}

/// Makes the server send packets for all other destinations to the attacker.
pub fn answer_everybody() -> Result<()> {
    let name = ATTACKER.interface;
    // Without segmentation offload, so that the other end counts datagrams as on a real cable, and
    // not batches.
    ip(&["link", "set", name, "gso_max_segs", "1"])?;
    ip(&[
        "route",
        "add",
        "default",
        "via",
        &ATTACKER.other.to_string(),
    ])
}

/// Makes the host at the attacker's end receive packets for every address of this network.
pub fn own_all_of(network: &str) -> Result<()> {
    ip(&["route", "add", "local", network, "dev", "lo"])
}

fn ip(arguments: &[&str]) -> Result<()> {
    command::run(Command::new("ip").args(arguments), "")
        .map_err(|why| anyhow!("ip {}: {why}", arguments.join(" ")))?;
    Ok(())
}
