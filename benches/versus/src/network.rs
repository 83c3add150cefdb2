//! Network namespaces with cables between them: Ethernet's MTU, and nothing else.
//!
//! A namespace lives as long as the processes in it, so nothing is left behind, whatever happens. It takes
//! the privileges of root, and the programs `ip` and `nsenter`.

use std::{
    fs::File,
    net::Ipv4Addr,
    process::{Command, id},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use nix::sched::{CloneFlags, setns, unshare};
use serde::{Deserialize, Serialize};

use crate::{
    control::{say, wait_for_end},
    process::Process,
};

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
    /// Enters the namespace; before there are threads.
    pub fn enter(&self) -> Result<()> {
        if let Some(id) = self.namespace {
            let namespace = File::open(path(id))?;
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
        }
        Ok(())
    }

    /// The arguments that make another process run there.
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

/// The places of a measurement. Its namespaces are there until it is dropped.
pub struct Places {
    pub server: Place,
    pub client: Place,
    /// Between the two, if there is anything.
    pub relay: Place,
    _namespaces: Vec<Namespace>,
}

impl Places {
    /// All on loopback.
    pub fn loopback() -> Self {
        Self {
            server: Place::default(),
            client: Place::default(),
            relay: Place::default(),
            _namespaces: Vec::new(),
        }
    }

    /// A cable from the server to the client.
    pub fn ethernet() -> Result<Self> {
        let namespaces = [Namespace::new()?, Namespace::new()?];
        let [server, client] = &namespaces;
        lay_cable([server, client], SERVER_CABLE)?;
        Ok(Self {
            server: server.place(SERVER_CABLE[0]),
            client: client.place(SERVER_CABLE[1]),
            relay: Place::default(),
            _namespaces: namespaces.into(),
        })
    }

    /// A cable from the server to the relay, and one from the relay to the client.
    pub fn relayed() -> Result<Self> {
        let namespaces = [Namespace::new()?, Namespace::new()?, Namespace::new()?];
        let [server, relay, client] = &namespaces;
        lay_cable([server, relay], SERVER_CABLE)?;
        lay_cable([relay, client], CLIENT_CABLE)?;
        Ok(Self {
            server: server.place(SERVER_CABLE[0]),
            relay: relay.place(CLIENT_CABLE[0]),
            client: client.place(CLIENT_CABLE[1]),
            _namespaces: namespaces.into(),
        })
    }
}

/// A network namespace, by the process that holds it.
struct Namespace(Process);

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    /// By the process that holds it.
    Namespace(u32),
    Failed(String),
}

impl Namespace {
    fn new() -> Result<Self> {
        let process = Process::start(&["network".to_owned()])?;
        match process.hear()? {
            Line::Namespace(_) => Ok(Self(process)),
            Line::Failed(why) => bail!(why),
        }
    }

    fn place(&self, ip: Ipv4Addr) -> Place {
        Place {
            namespace: Some(self.0.id()),
            ip,
        }
    }

    /// The program `ip`, in the namespace.
    fn ip(&self, arguments: &[&str]) -> Result<()> {
        let output = Command::new("nsenter")
            .arg(format!("--net={}", path(self.0.id())))
            .arg("ip")
            .args(arguments)
            .output()
            .context("no program nsenter")?;
        ensure!(
            output.status.success(),
            "ip {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }
}

/// From one namespace to another one, with these addresses.
fn lay_cable(ends: [&Namespace; 2], addresses: [Ipv4Addr; 2]) -> Result<()> {
    // The end of a relay's cable has to differ from that of its other one.
    let names = addresses.map(|address| format!("cable{}", address.octets()[3]));
    let there = ends[1].0.id().to_string();
    ends[0].ip(&[
        "link", "add", &names[0], "type", "veth", "peer", "name", &names[1], "netns", &there,
    ])?;
    for ((namespace, address), name) in ends.into_iter().zip(addresses).zip(&names) {
        namespace.ip(&["address", "add", &format!("{address}/30"), "dev", name])?;
        namespace.ip(&["link", "set", name, "up"])?;
    }
    Ok(())
}

fn path(process: u32) -> String {
    format!("/proc/{process}/ns/net")
}

/// The process that keeps a namespace; ends when standard input does.
pub fn run() -> Result<()> {
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
        return say(&Line::Failed(format!("no network namespace: {error}")));
    }
    say(&Line::Namespace(id()))?;
    wait_for_end();
    Ok(())
}

/// Addresses of the cable that the server is at, and of the one that the client is at where there are two.
const SERVER_CABLE: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];
const CLIENT_CABLE: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 5), Ipv4Addr::new(192, 0, 2, 6)];
