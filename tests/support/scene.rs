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
//! Each of the five is a network namespace. It takes `ip` and `nft`.
//!
//! The public addresses are not those of documentation: neither libp2p nor UPnP believes that these are public.

use super::namespace::Namespace;

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
    namespaces: Vec<Namespace>,
}

impl Scene {
    /// Builds a scene, or says why it cannot be built here.
    pub(crate) fn build(dialer: Nat, listener: Nat) -> Result<Self, String> {
        let mut scene = Self {
            // As many as there are places.
            namespaces: Namespace::hold(Place::Listener as usize + 1)?,
        };
        scene.build_public()?;
        scene.build_site(Site::DIALER, dialer)?;
        scene.build_site(Site::LISTENER, listener)?;
        Ok(scene)
    }

    /// What to put in front of a command for it to run at a place.
    pub(crate) fn enter(&self, place: Place) -> Vec<String> {
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

    fn namespace(&self, place: Place) -> &Namespace {
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
