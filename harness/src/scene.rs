//! A simulated part of the Internet on one machine: two hosts, each behind its own router, and a
//! public segment.
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
//! Each of the five is a network namespace. The tests require `ip` and `nft`.
//!
//! The public addresses are not documentation addresses, because neither libp2p nor UPnP treats
//! those as public.

use crate::namespace::Namespace;

/// Addresses of relays and servers, all in one namespace.
pub const PUBLIC: [&str; 3] = ["11.0.0.1", "11.0.0.2", "11.0.0.3"];

/// A namespace of the scene.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Public,
    DialerRouter,
    Dialer,
    ListenerRouter,
    Listener,
}

/// The address translation of a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nat {
    pub ports: Ports,
    pub strangers: Strangers,
}

/// The external port of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// The internal port if it is free, for any destination: endpoint-independent mapping (RFC
    /// 4787 §4.1).
    Kept,
    /// A random port for each destination.
    Random,
}

/// The reaction of a router to unsolicited packets from outside. All routers let in only answers
/// from the address and port to which a packet was sent (RFC 4787 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strangers {
    /// The packet is dropped, as by most providers' routers.
    Dropped,
    /// The firewall answers "port unreachable", like OpenWrt's.
    Rejected,
    /// The router accepts the packet itself, like a router without a firewall. The port is closed,
    /// so its own stack answers "port unreachable", and its connection tracking has recorded a
    /// flow.
    Taken,
}

impl Nat {
    /// The usual NAT.
    pub const KEPT: Self = Self {
        ports: Ports::Kept,
        strangers: Strangers::Dropped,
    };

    pub fn with_strangers(self, strangers: Strangers) -> Self {
        Self { strangers, ..self }
    }

    pub fn with_ports(self, ports: Ports) -> Self {
        Self { ports, ..self }
    }

    /// The nft ruleset. The chains of miniupnpd are for a daemon that forwards ports, and are empty
    /// without one.
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

/// A scene. Dropping it deletes it; programs in it must end by themselves, or be ended before.
pub struct Scene {
    /// One for each place.
    namespaces: [Namespace; Place::Listener as usize + 1],
}

impl Scene {
    /// Builds a scene, or returns why that is not possible here.
    pub fn build(dialer: Nat, listener: Nat) -> Result<Self, String> {
        let mut scene = Self {
            namespaces: Namespace::hold()?,
        };
        scene.build_public()?;
        scene.build_site(Site::DIALER, dialer)?;
        scene.build_site(Site::LISTENER, listener)?;
        Ok(scene)
    }

    /// The words before a command that make it run at a place.
    pub fn enter(&self, place: Place) -> Vec<String> {
        self.namespace(place).enter()
    }

    fn build_public(&mut self) -> Result<(), String> {
        let mut batch = "link add wan0 type bridge\nlink set wan0 up\n".to_owned();
        for addr in PUBLIC {
            batch.push_str(&format!("address add {addr}/24 dev wan0\n"));
        }
        for site in [Site::DIALER, Site::LISTENER] {
            let Site { name, router, .. } = site;
            let router = self.namespace(router).id();
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
        let host_id = self.namespace(host).id();
        self.ip(
            router,
            &format!(
                "address add {public}/24 dev wan0\nlink set wan0 up\n\
                 link add lan0 type veth peer name eth0 netns {host_id}\n\
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
        let router = self.namespace(router);
        router.run(&["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"], "")?;
        router.run(&["nft", "-f", "-"], &nat.ruleset()).map(drop)
    }

    fn ip(&self, place: Place, batch: &str) -> Result<(), String> {
        let batched = ["ip", "-batch", "-"];
        self.namespace(place).run(&batched, batch).map(drop)
    }

    /// The namespace of a place.
    pub fn namespace(&self, place: Place) -> &Namespace {
        &self.namespaces[place as usize]
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
