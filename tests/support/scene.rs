//! A piece of the Internet on one machine: two hosts, each behind a router of its own, and a public segment.
//!
//! ```text
//!                      public  11.0.0.1 …  relay, servers
//!                        │
//!          ┌─────────────┴─────────────┐
//!      11.0.0.10                   11.0.0.20
//!    dialer's router             listener's router      nftables: masquerade
//!     192.168.10.1                192.168.20.1
//!          │                           │
//!     192.168.10.2                192.168.20.2
//!        dialer                     listener
//! ```
//!
//! Each of the five is a network namespace, which lives as long as a process that holds it; the holder ends when
//! we do. Nothing has a name, nothing is left behind, and nothing of it can reach the outside. It takes root, or a
//! system that lets anybody make user namespaces, and `ip` and `nft`.
//!
//! The public addresses are not those of documentation: neither libp2p nor UPnP believes that these are public.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
};

/// Where relays and servers are: addresses of one namespace.
pub(crate) const PUBLIC: [&str; 3] = ["11.0.0.1", "11.0.0.2", "11.0.0.3"];

/// A namespace of the scene.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Public,
    DialerRouter,
    Dialer,
    ListenerRouter,
    Listener,
}

/// How a router translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Nat {
    pub(crate) ports: Ports,
    pub(crate) strangers: Strangers,
}

/// Which port a flow gets outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ports {
    /// The same as inside while nobody else has it, whatever the target: endpoint-independent (RFC 4787 §4.1).
    Kept,
    /// A random one for each target.
    Random,
}

/// What a router does with a packet from outside that nobody inside has asked for. All let in answers only, from
/// the address and port that was asked (RFC 4787 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strangers {
    /// Nothing, as most routers of providers.
    Dropped,
    /// Its firewall says "port unreachable", as OpenWrt's.
    Rejected,
    /// It takes it for itself, as a router without a firewall; nobody listens, so its own stack says "port
    /// unreachable". Its connection tracking has seen a flow then.
    Taken,
}

impl Nat {
    /// The usual one.
    pub(crate) const KEPT: Self = Self {
        ports: Ports::Kept,
        strangers: Strangers::Dropped,
    };

    pub(crate) fn with_strangers(self, strangers: Strangers) -> Self {
        Self { strangers, ..self }
    }

    pub(crate) fn with_ports(self, ports: Ports) -> Self {
        Self { ports, ..self }
    }

    /// For nft. The chains of miniupnpd are there for a daemon that forwards ports; they are empty without one.
    fn ruleset(self) -> String {
        let flags = match self.ports {
            Ports::Kept => "",
            Ports::Random => "random,fully-random",
        };
        let verdict = match self.strangers {
            Strangers::Dropped => "drop",
            Strangers::Rejected => "reject",
            Strangers::Taken => "accept",
        };
        format!(
            "table inet nat {{
                chain postrouting {{
                    type nat hook postrouting priority srcnat
                    jump postrouting_miniupnpd
                    oifname wan0 masquerade {flags}
                }}
                chain prerouting {{
                    type nat hook prerouting priority dstnat
                    jump prerouting_miniupnpd
                }}
                chain postrouting_miniupnpd {{}}
                chain prerouting_miniupnpd {{}}
            }}
            table inet filter {{
                chain input {{
                    type filter hook input priority filter
                    iifname wan0 ct state established,related accept
                    iifname wan0 counter {verdict}
                }}
                chain forward {{
                    type filter hook forward priority filter
                    jump miniupnpd
                    iifname wan0 ct state established,related accept
                    iifname wan0 counter drop
                }}
                chain miniupnpd {{}}
            }}"
        )
    }
}

/// A scene. Dropping it ends it; programs in it should end by themselves, or be ended before.
pub(crate) struct Scene {
    holders: Vec<Holder>,
}

impl Scene {
    /// Builds a scene, or says why it cannot be built here.
    pub(crate) fn build(dialer: Nat, listener: Nat) -> Result<Self, String> {
        let mut scene = Self {
            holders: hold_all()?,
        };
        scene.build_public()?;
        scene.build_site(Site::DIALER, dialer)?;
        scene.build_site(Site::LISTENER, listener)?;
        Ok(scene)
    }

    /// What to put in front of a command for it to run at a place.
    pub(crate) fn enter(&self, place: Place) -> Vec<String> {
        self.holder(place).enter()
    }

    fn build_public(&mut self) -> Result<(), String> {
        let mut batch = "link add wan0 type bridge\nlink set wan0 up\n".to_owned();
        for addr in PUBLIC {
            batch.push_str(&format!("address add {addr}/24 dev wan0\n"));
        }
        for site in [Site::DIALER, Site::LISTENER] {
            let Site { name, router, .. } = site;
            let router = self.holder(router).id();
            batch.push_str(&format!(
                "link add {name} type veth peer name wan0 netns {router}\nlink set {name} master wan0 up\n"
            ));
        }
        self.ip(Place::Public, &batch)
    }

    fn build_site(&mut self, site: Site, nat: Nat) -> Result<(), String> {
        let Site {
            router,
            host,
            public,
            lan,
            ..
        } = site;
        let holder = self.holder(host).id();
        self.ip(
            router,
            &format!(
                "address add {public}/24 dev wan0\nlink set wan0 up\n\
                 link add lan0 type veth peer name eth0 netns {holder}\n\
                 address add {lan}.1/24 dev lan0\nlink set lan0 up\n\
                 route add default via {}\n",
                PUBLIC[0]
            ),
        )?;
        self.ip(
            host,
            &format!(
                "address add {lan}.2/24 dev eth0\nlink set eth0 up\nroute add default via {lan}.1\n"
            ),
        )?;
        let holder = self.holder(router);
        holder.run(&["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"], "")?;
        holder.run(&["nft", "-f", "-"], &nat.ruleset()).map(drop)
    }

    fn ip(&self, place: Place, batch: &str) -> Result<(), String> {
        let batched = ["ip", "-batch", "-"];
        self.holder(place).run(&batched, batch).map(drop)
    }

    fn holder(&self, place: Place) -> &Holder {
        &self.holders[place as usize]
    }
}

/// A router and the host behind it.
#[derive(Clone, Copy)]
struct Site {
    name: &'static str,
    router: Place,
    host: Place,
    public: &'static str,
    lan: &'static str,
}

impl Site {
    const DIALER: Self = Self {
        name: "dialer",
        router: Place::DialerRouter,
        host: Place::Dialer,
        public: "11.0.0.10",
        lan: "192.168.10",
    };
    const LISTENER: Self = Self {
        name: "listener",
        router: Place::ListenerRouter,
        host: Place::Listener,
        public: "11.0.0.20",
        lan: "192.168.20",
    };
}

/// A process that keeps a namespace, until its standard input ends.
struct Holder {
    process: Child,
    /// Whether its namespace belongs to a user namespace other than ours.
    foreign: bool,
}

fn hold_all() -> Result<Vec<Holder>, String> {
    // As many as there are places.
    let count = Place::Listener as usize + 1;
    let as_root = || -> Result<Vec<Holder>, String> {
        (0..count)
            .map(|_| Holder::start(&["unshare", "--net"], false))
            .collect()
    };
    // The first one brings a user namespace with it, and the others are made there.
    let as_anybody = || -> Result<Vec<Holder>, String> {
        let first = Holder::start(&["unshare", "--user", "--map-root-user", "--net"], true)?;
        let user = format!("--user=/proc/{}/ns/user", first.id());
        let entered = [
            "nsenter",
            &user,
            "--preserve-credentials",
            "unshare",
            "--net",
        ];
        let mut holders = vec![first];
        while holders.len() < count {
            holders.push(Holder::start(&entered, true)?);
        }
        Ok(holders)
    };
    as_root().or_else(|root| as_anybody().map_err(|anybody| format!("{root}; {anybody}")))
}

impl Holder {
    fn start(words: &[&str], foreign: bool) -> Result<Self, String> {
        let script = "ip link set lo up && echo ready && exec cat";
        let mut process = Command::new(words[0])
            .args(&words[1..])
            .args(["sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{}: {error}", words[0]))?;
        let mut line = String::new();
        if let Some(output) = process.stdout.take() {
            // If it cannot be read, it is not "ready".
            let _ = BufReader::new(output).read_line(&mut line);
        }
        if line == "ready\n" {
            return Ok(Self { process, foreign });
        }
        let said = process
            .wait_with_output()
            .map_err(|error| error.to_string())?;
        Err(String::from_utf8_lossy(&said.stderr).trim().to_owned())
    }

    fn id(&self) -> u32 {
        self.process.id()
    }

    fn enter(&self) -> Vec<String> {
        let id = self.id();
        let mut words = vec!["nsenter".to_owned(), format!("--net=/proc/{id}/ns/net")];
        if self.foreign {
            words.push(format!("--user=/proc/{id}/ns/user"));
            words.push("--preserve-credentials".to_owned());
        }
        words.push("--".to_owned());
        words
    }

    fn run(&self, words: &[&str], input: &str) -> Result<String, String> {
        let entered = self.enter();
        let describe = |error: &dyn std::fmt::Display| format!("{}: {error}", words.join(" "));
        let mut process = Command::new(&entered[0])
            .args(&entered[1..])
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| describe(&error))?;
        if let Some(mut pipe) = process.stdin.take() {
            // If it has ended already, it has said why.
            let _ = pipe.write_all(input.as_bytes());
        }
        let output = process
            .wait_with_output()
            .map_err(|error| describe(&error))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(describe(&String::from_utf8_lossy(&output.stderr).trim()))
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Its input ends with it; nobody else keeps it.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}
