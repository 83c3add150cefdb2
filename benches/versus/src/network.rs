//! Network namespaces, connected by veth cables or by a relay, with the MTU of Ethernet.
//!
//! The kernel removes a namespace when its last process ends, so nothing stays behind, even after a
//! crash. This needs root and the programs `ip`, `nsenter` and `unshare`.

use std::{fs, net::Ipv4Addr, path::Path, process::Command};

use anyhow::{Context, Error, Result};
use clap::Args;
use harness::namespace::{Namespace, move_to};

use crate::stack::STOCK_BUFFER;

/// Where a process of a measurement runs.
#[derive(Args, Clone, Debug)]
pub struct Place {
    /// The process whose network namespace to enter.
    #[arg(long)]
    namespace: Option<u32>,
    /// Address to bind to.
    #[arg(long, default_value_t = Ipv4Addr::LOCALHOST)]
    pub ip: Ipv4Addr,
}

impl Place {
    /// Enters the namespace. Call this before any thread starts.
    pub fn enter(&self) -> Result<()> {
        self.namespace.map_or(Ok(()), enter)
    }

    /// A command that runs a program there. The process is that of the program.
    pub fn command(&self, program: &Path) -> Command {
        let Some(process) = self.namespace else {
            return Command::new(program);
        };
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/proc/{process}/ns/net"))
            .arg(program);
        command
    }

    /// The command-line arguments that place another process there.
    pub fn arguments(&self) -> Vec<String> {
        let namespace = self.namespace.map(|id| format!("--namespace={id}"));
        [format!("--ip={}", self.ip)]
            .into_iter()
            .chain(namespace)
            .collect()
    }
}

impl Default for Place {
    fn default() -> Self {
        Self {
            namespace: None,
            ip: Ipv4Addr::LOCALHOST,
        }
    }
}

/// Where the processes of a measurement run. Dropping it removes the namespaces.
pub struct Places {
    pub server: Place,
    pub client: Place,
    _namespaces: Vec<Namespace>,
}

impl Places {
    /// Places all processes on loopback.
    pub fn loopback() -> Self {
        Self {
            server: Place::default(),
            client: Place::default(),
            _namespaces: Vec::new(),
        }
    }

    /// Lays a cable from the server to the client.
    pub fn ethernet() -> Result<Self> {
        let namespaces = hold(Buffers::Default)?;
        lay_cable(&namespaces)?;
        Ok(Self::at(namespaces))
    }

    /// Gives server and client a TUN device each. A relay connects them.
    pub fn relayed(buffers: Buffers) -> Result<Self> {
        let namespaces = hold(buffers)?;
        for (namespace, address) in namespaces.iter().zip(ADDRESSES) {
            add_tun(namespace, address, buffers)?;
        }
        Ok(Self::at(namespaces))
    }

    fn at(namespaces: [Namespace; 2]) -> Self {
        let place = |end: usize| Place {
            namespace: Some(namespaces[end].id()),
            ip: ADDRESSES[end],
        };
        Self {
            server: place(0),
            client: place(1),
            _namespaces: namespaces.into(),
        }
    }

    /// The processes that keep the namespaces of server and client alive, if they have any.
    pub fn namespaces(&self) -> impl Iterator<Item = u32> {
        [&self.server, &self.client]
            .into_iter()
            .filter_map(|place| place.namespace)
    }

    /// The packets that the TUN devices have dropped so far, because a relay did not take them in
    /// time.
    pub fn dropped(&self) -> Result<u64> {
        self.namespaces()
            .map(|process| {
                let devices = fs::read_to_string(format!("/proc/{process}/net/dev"))?;
                dropped(&devices).context("no TUN device in /proc/net/dev")
            })
            .sum()
    }
}

/// The packets that were dropped because a TUN device was full, in the text of `/proc/net/dev`.
fn dropped(devices: &str) -> Option<u64> {
    let line = devices
        .lines()
        .find_map(|line| line.trim().strip_prefix(TUN))?;
    // After eight columns of what was received come the bytes, packets, errors and drops of what
    // was sent.
    line.strip_prefix(':')?
        .split_whitespace()
        .nth(8 + 3)?
        .parse()
        .ok()
}

/// How much may wait in the kernel, apart from the sockets' buffers that each process asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Buffers {
    /// As much as Linux allows by default.
    Default,
    /// So much that only the link limits a transfer: 4 MiB until a relay takes the packets, 32 MiB
    /// in a TCP socket.
    Large,
}

impl Buffers {
    /// The packets that may wait in a TUN device until the relay takes them: the bytes of a receive
    /// buffer.
    fn packets(self) -> usize {
        let bytes = match self {
            Self::Default => STOCK_BUFFER,
            Self::Large => 4 * 1024 * 1024,
        };
        bytes / MTU
    }

    /// The settings of a namespace, below `/proc/sys/net/ipv4`.
    fn settings(self) -> &'static [(&'static str, &'static str)] {
        // Otherwise the kernel's TCP would begin with what it has learned about the path in an
        // earlier measurement.
        const FORGET: (&str, &str) = ("tcp_no_metrics_save", "1");
        match self {
            Self::Default => &[FORGET],
            Self::Large => &[
                FORGET,
                ("tcp_rmem", "4096 131072 33554432"),
                ("tcp_wmem", "4096 16384 33554432"),
            ],
        }
    }
}

/// Makes the namespaces of the server and the client.
fn hold(buffers: Buffers) -> Result<[Namespace; 2]> {
    let namespaces = Namespace::hold_as_root().map_err(Error::msg)?;
    for namespace in &namespaces {
        for (name, value) in buffers.settings() {
            let write = format!("cat > /proc/sys/net/ipv4/{name}");
            run(namespace, &["sh", "-c", &write], value)?;
        }
    }
    Ok(namespaces)
}

/// Lays a cable between two namespaces and assigns the addresses of its ends.
fn lay_cable(ends: &[Namespace; 2]) -> Result<()> {
    let there = ends[1].id().to_string();
    ip(
        &ends[0],
        &[
            "link", "add", CABLE, "type", "veth", "peer", "name", CABLE, "netns", &there,
        ],
    )?;
    for (namespace, address) in ends.iter().zip(ADDRESSES) {
        bring_up(namespace, CABLE, address)?;
    }
    Ok(())
}

fn add_tun(namespace: &Namespace, address: Ipv4Addr, buffers: Buffers) -> Result<()> {
    ip(namespace, &["tuntap", "add", TUN, "mode", "tun"])?;
    // Without an IPv6 address the kernel sends nothing of its own, which could be lost instead of
    // a packet of the measurement.
    ip(namespace, &["link", "set", TUN, "addrgenmode", "none"])?;
    let queue = buffers.packets().to_string();
    ip(namespace, &["link", "set", TUN, "txqueuelen", &queue])?;
    bring_up(namespace, TUN, address)
}

/// Assigns an address to a device, and brings it up.
fn bring_up(namespace: &Namespace, device: &str, address: Ipv4Addr) -> Result<()> {
    ip(
        namespace,
        &["address", "add", &format!("{address}/30"), "dev", device],
    )?;
    ip(namespace, &["link", "set", device, "up"])
}

/// Runs the program `ip` in a namespace.
fn ip(namespace: &Namespace, arguments: &[&str]) -> Result<()> {
    run(namespace, &[&["ip"], arguments].concat(), "")
}

fn run(namespace: &Namespace, words: &[&str], input: &str) -> Result<()> {
    namespace.run(words, input).map_err(Error::msg)?;
    Ok(())
}

/// Moves this thread, and those that it starts later, to the namespace of a process.
pub fn enter(process: u32) -> Result<()> {
    move_to(process).map_err(Error::msg)
}

/// The addresses of the server and the client.
const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];

/// The name of both ends of a cable.
const CABLE: &str = "cable";

/// The name of the TUN device in each namespace of a relayed network.
pub const TUN: &str = "tun";

/// The MTU of Ethernet, which both kinds of devices have by default.
pub const MTU: usize = 1500;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drops_of_the_tun_device_are_read() {
        let devices = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo
    lo:     900       9    1    2    3     4          5         6      700       7    8   10   11
   tun: 4004992   27922    0    1    0     0          0         0 67890123  452603    0  180    0
";
        assert_eq!(dropped(devices), Some(180));
        assert_eq!(dropped("    lo: 900 9 1 2 3 4 5 6 700 7 8 10 11"), None);
    }
}
