//! Two network namespaces with a cable between them: Ethernet's MTU, and nothing else.
//!
//! A namespace lives as long as the processes in it, so nothing is left behind, whatever happens. It takes
//! the privileges of root, and the program `ip`.

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
    stack::{Profile, Setup},
};

/// Where a server or a client runs.
#[derive(Args, Clone, Debug)]
pub struct Place {
    /// The process whose network namespace to enter.
    #[arg(long)]
    namespace: Option<u32>,
    /// Address to bind to.
    #[arg(long, default_value_t = Ipv4Addr::LOCALHOST)]
    ip: Ipv4Addr,
}

impl Place {
    /// Enters the namespace; before there are threads.
    pub fn enter(&self, profile: Profile) -> Result<Setup> {
        if let Some(id) = self.namespace {
            let namespace = File::open(format!("/proc/{id}/ns/net"))?;
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
        }
        Ok(Setup {
            profile,
            ip: self.ip,
        })
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

/// Both namespaces, until it is dropped.
pub struct Cable {
    pub server: Place,
    pub client: Place,
    _processes: [Process; 2],
}

#[derive(Args)]
pub struct Options {
    /// The process in the namespace at the other end of the cable; none for the first one.
    other: Option<u32>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    /// The namespace is there, by the process that holds it.
    Namespace(u32),
    Up,
    Failed(String),
}

impl Cable {
    pub fn lay() -> Result<Self> {
        let mut server = Process::start(&["network".to_owned()])?;
        let server_id = namespace(&server)?;
        let client = Process::start(&["network".to_owned(), server_id.to_string()])?;
        let client_id = namespace(&client)?;
        up(&client)?;
        server.say("the cable is there")?;
        up(&server)?;
        let place = |id, ip| Place {
            namespace: Some(id),
            ip,
        };
        Ok(Self {
            server: place(server_id, SERVER),
            client: place(client_id, CLIENT),
            _processes: [server, client],
        })
    }
}

fn namespace(process: &Process) -> Result<u32> {
    match process.hear()? {
        Line::Namespace(id) => Ok(id),
        Line::Failed(why) => bail!(why),
        Line::Up => bail!("up before there is a namespace"),
    }
}

fn up(process: &Process) -> Result<()> {
    match process.hear()? {
        Line::Up => Ok(()),
        Line::Failed(why) => bail!(why),
        Line::Namespace(_) => bail!("a second namespace"),
    }
}

/// The process that keeps a namespace; ends when standard input does.
pub fn run(options: &Options) -> Result<()> {
    if let Err(error) = set_up(options) {
        return say(&Line::Failed(format!("{error:#}")));
    }
    wait_for_end();
    Ok(())
}

fn set_up(options: &Options) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("no network namespace")?;
    say(&Line::Namespace(id()))?;
    let ip_address = match options.other {
        Some(other) => {
            let other = other.to_string();
            ip(&[
                "link", "add", INTERFACE, "type", "veth", "peer", "name", INTERFACE, "netns",
                &other,
            ])?;
            CLIENT
        }
        None => {
            std::io::stdin().read_line(&mut String::new())?;
            SERVER
        }
    };
    ip(&[
        "address",
        "add",
        &format!("{ip_address}/30"),
        "dev",
        INTERFACE,
    ])?;
    ip(&["link", "set", INTERFACE, "up"])?;
    say(&Line::Up)
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .context("no program ip")?;
    ensure!(
        output.status.success(),
        "ip {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

const INTERFACE: &str = "versus0";

const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
