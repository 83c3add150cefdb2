//! The workloads and their names.

mod kind;

use std::{str::FromStr, sync::LazyLock, time::Duration};

use anyhow::{Error, anyhow};

pub use kind::{Beside, Bulk, Closing, Direction, Kind, NodeWork, Peers, Steady};

use crate::{
    go::Dialer,
    placement::Placement,
    relay::Link,
    service::BLOCK,
    stack::{Profile, StackName},
};

/// One workload, with all parameters that both processes need.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub name: String,
    pub kind: Kind,
    pub placement: Placement,
    pub profile: Profile,
    pub network: Network,
    pub group: Group,
}

/// Which command runs a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    Main,
    /// Takes minutes for each stack, and runs only if the command line names it.
    Long,
    /// Links with delay, loss and a rate.
    Links,
}

/// The network between the processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    Loopback,
    /// A cable with the MTU of Ethernet.
    Ethernet,
    /// A relay between two TUN devices with the same MTU.
    Relayed(Link),
}

impl Scenario {
    /// A description for the report.
    pub fn setting(&self) -> String {
        let placement = match self.placement {
            Placement::Pinned => "server on CPU 0, client on CPU 1",
            Placement::Unpinned => "on all CPUs",
        };
        let profile = match self.profile {
            Profile::Equalised => "equalised",
            Profile::Shipped => "as shipped",
            Profile::StockBuffers => "as shipped, socket buffers of 208 KiB",
        };
        let network = match self.network {
            Network::Loopback => "loopback",
            Network::Ethernet => "veth, MTU 1500",
            Network::Relayed(_) => "TUN, MTU 1500",
        };
        format!("{profile}; {placement}; {network}")
    }

    /// Whether a stack can run this workload.
    pub fn is_for(&self, stack: StackName) -> bool {
        match stack {
            StackName::QuinnAes | StackName::QuinnChacha => {
                !matches!(self.kind, Kind::Close { .. } | Kind::Swarm(_) | Kind::Go(_))
            }
            StackName::Floor | StackName::Bare => {
                self.network == Network::Loopback
                    && self.profile == Profile::Equalised
                    && matches!(
                        self.kind,
                        Kind::Bulk(Bulk {
                            connections: 1,
                            streams: 1,
                            write: BLOCK,
                            ..
                        })
                    )
            }
            StackName::OursBbr | StackName::TcpCubic | StackName::TcpBbr => {
                matches!(self.kind, Kind::Link { .. })
            }
            // quic-go asks for larger socket buffers, and cannot be told not to.
            StackName::Go => {
                matches!(self.kind, Kind::Link { .. }) && self.profile != Profile::StockBuffers
            }
            // The programs that dial go-libp2p have no log.
            StackName::OursSeen | StackName::OursTraced => !matches!(self.kind, Kind::Go(_)),
            StackName::Ours | StackName::Official => true,
        }
    }
}

impl FromStr for Scenario {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        all()
            .iter()
            .find(|scenario| scenario.name == name)
            .cloned()
            .ok_or_else(|| anyhow!("no such workload; `versus list` has them"))
    }
}

/// The workloads that `words` choose. A word is the name of a workload, or a part of the names of
/// workloads in `group`. Without words, all workloads of `group`.
pub fn choose(words: &[String], group: Group) -> Vec<&'static Scenario> {
    let is_name = |word: &String| all().iter().any(|scenario| scenario.name == *word);
    let chooses = |word: &String, scenario: &Scenario| {
        scenario.name == *word
            || (!is_name(word) && scenario.group == group && scenario.name.contains(word))
    };
    all()
        .iter()
        .filter(|scenario| match words {
            [] => scenario.group == group,
            words => words.iter().any(|word| chooses(word, scenario)),
        })
        .collect()
}

/// Prints the names of all workloads.
pub fn list() {
    for scenario in all() {
        let note = match scenario.group {
            Group::Main => "",
            Group::Long => "  (long; only when it is named)",
            Group::Links => "  (links)",
        };
        println!("{}{note}", scenario.name);
    }
}

/// All workloads, in the order of the report.
pub fn all() -> &'static [Scenario] {
    static ALL: LazyLock<Vec<Scenario>> = LazyLock::new(build);
    &ALL
}

fn build() -> Vec<Scenario> {
    use {Direction::*, Placement::*, Profile::*};

    let mut all = Vec::new();
    let mut add = |name: String, kind, placement, profile| {
        all.push(Scenario {
            name,
            kind,
            placement,
            profile,
            network: match kind {
                Kind::Link { link, .. } => Network::Relayed(link),
                _ => Network::Loopback,
            },
            group: match kind {
                Kind::Idle { connections } if connections > 1000 => Group::Long,
                Kind::Link { .. } => Group::Links,
                _ => Group::Main,
            },
        });
    };
    let bulk = |direction, connections, streams, write| {
        Kind::Bulk(Bulk {
            direction,
            connections,
            streams,
            write,
        })
    };
    let ping = |size, beside| Kind::PingPong { size, beside };

    for streams in [1, 8, 64] {
        add(
            format!("bulk-up-{streams}"),
            bulk(Up, 1, streams, BLOCK),
            Pinned,
            Equalised,
        );
        add(
            format!("bulk-down-{streams}"),
            bulk(Down, 1, streams, BLOCK),
            Pinned,
            Equalised,
        );
    }
    add(
        "bulk-up-shipped".into(),
        bulk(Up, 1, 1, BLOCK),
        Pinned,
        Shipped,
    );
    add(
        "bulk-down-shipped".into(),
        bulk(Down, 1, 1, BLOCK),
        Pinned,
        Shipped,
    );
    for write in [64, 256, 1024] {
        add(
            format!("write-{write}"),
            bulk(Up, 1, 1, write),
            Pinned,
            Equalised,
        );
    }
    for connections in [8, 64] {
        add(
            format!("connections-{connections}"),
            bulk(Up, connections, 1, BLOCK),
            Unpinned,
            Equalised,
        );
    }
    for size in [1, 64, 1024] {
        add(
            format!("ping-{size}"),
            ping(size, Beside::Nothing),
            Unpinned,
            Equalised,
        );
        add(
            format!("ping-{size}-pinned"),
            ping(size, Beside::Nothing),
            Pinned,
            Equalised,
        );
    }
    for (name, beside) in [
        ("same", Beside::SameConnection),
        ("other", Beside::OtherConnection),
    ] {
        add(
            format!("ping-beside-{name}"),
            ping(64, beside),
            Unpinned,
            Equalised,
        );
        add(
            format!("ping-beside-{name}-pinned"),
            ping(64, beside),
            Pinned,
            Equalised,
        );
    }
    for (name, peers) in [("new", Peers::New), ("returning", Peers::Returning)] {
        for (suffix, at_once) in [("", 1), ("-64", 64)] {
            let kind = Kind::Handshakes { peers, at_once };
            add(format!("handshake-{name}{suffix}"), kind, Pinned, Equalised);
        }
    }
    for (name, closing) in [
        ("returning", Closing::AtOnce),
        ("held", Closing::WhenTheNextIsThere),
    ] {
        for (suffix, at_once) in [("", 1), ("-64", 64)] {
            let kind = Kind::Close { closing, at_once };
            add(format!("close-{name}{suffix}"), kind, Pinned, Equalised);
        }
    }
    let kind = Kind::Close {
        closing: Closing::WhenTheNextIsThere,
        at_once: 8,
    };
    add("close-held-8-shipped".into(), kind, Pinned, Shipped);
    add("streams".into(), Kind::ShortStreams, Pinned, Equalised);
    for connections in [1000, 10_000] {
        add(
            format!("idle-{connections}"),
            Kind::Idle { connections },
            Unpinned,
            Equalised,
        );
    }
    add("flood".into(), Kind::Flood, Pinned, Equalised);
    for (name, work, placement) in [
        ("ping", NodeWork::Ping, Unpinned),
        ("ping-pinned", NodeWork::Ping, Pinned),
        ("identify", NodeWork::Identify, Pinned),
        ("dial-close", NodeWork::DialClose, Pinned),
        ("bulk-65536", NodeWork::Upload { write: BLOCK }, Pinned),
        ("bulk-1024", NodeWork::Upload { write: 1024 }, Pinned),
        ("request-1", NodeWork::Requests { at_once: 1 }, Pinned),
        ("request-64", NodeWork::Requests { at_once: 64 }, Pinned),
    ] {
        let kind = Kind::Swarm(work);
        add(format!("swarm-{name}"), kind, placement, Equalised);
    }
    add("go-dials".into(), Kind::Go(Dialer::Go), Unpinned, Shipped);
    add(
        "go-listens".into(),
        Kind::Go(Dialer::Rust),
        Unpinned,
        Shipped,
    );
    let link = |rate, round_trip, loss, write| {
        let link = Link {
            round_trip,
            loss,
            rate,
        };
        Kind::Link { link, write }
    };
    for rate in [100, 1000] {
        for round_trip in [10, 50, 100] {
            let name = format!("link-{rate}M-{round_trip}ms");
            for (percent, loss) in [("0", 0), ("0.1", 1), ("1", 10)] {
                add(
                    format!("{name}-{percent}%"),
                    link(rate, round_trip, loss, BLOCK),
                    Unpinned,
                    Shipped,
                );
            }
            add(
                format!("{name}-0%-208K"),
                link(rate, round_trip, 0, BLOCK),
                Unpinned,
                StockBuffers,
            );
        }
        for write in [1024, 1400] {
            add(
                format!("link-{rate}M-50ms-0%-write-{write}"),
                link(rate, 50, 0, write),
                Unpinned,
                Shipped,
            );
        }
    }
    for (name, peers, at_once, every) in STEADY {
        let every = Duration::from_millis(every);
        let steady = |lazy| Steady {
            peers,
            at_once,
            every,
            lazy,
        };
        for (suffix, network, lazy) in [
            ("", Network::Loopback, false),
            ("-20ms", Network::Relayed(STEADY_LINK), false),
            ("-20ms-lazy", Network::Relayed(STEADY_LINK), true),
        ] {
            all.push(Scenario {
                name: format!("steady-{name}{suffix}"),
                kind: Kind::Swarm(NodeWork::Steady(steady(lazy))),
                placement: Unpinned,
                profile: Shipped,
                network,
                group: Group::Main,
            });
        }
    }
    for (name, direction) in [("up", Up), ("down", Down)] {
        all.push(Scenario {
            name: format!("bulk-{name}-ethernet"),
            kind: bulk(direction, 1, 1, BLOCK),
            placement: Pinned,
            profile: Shipped,
            network: Network::Ethernet,
            group: Group::Main,
        });
    }
    all
}

/// The workloads with requests by the clock: peers, requests at once, and milliseconds.
const STEADY: [(&str, usize, usize, u64); 3] = [
    ("request", 1, 1, 20),
    ("streams-100", 1, 100, 500),
    ("peers-100", 100, 1, 100),
];

/// The link of these workloads, if any.
const STEADY_LINK: Link = Link {
    round_trip: 20,
    loss: 0,
    rate: 1000,
};

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_different() {
        let names: HashSet<_> = all().iter().map(|scenario| &scenario.name).collect();
        assert_eq!(names.len(), all().len());
    }

    #[test]
    fn a_whole_name_chooses_nothing_else() {
        let names = |word: &str, group| -> Vec<_> {
            let chosen = choose(&[word.to_owned()], group);
            chosen
                .iter()
                .map(|scenario| scenario.name.as_str())
                .collect()
        };
        assert_eq!(names("ping-1", Group::Main), ["ping-1"]);
        assert_eq!(names("idle", Group::Main), ["idle-1000"]);
        assert_eq!(names("idle-10000", Group::Main), ["idle-10000"]);
        assert!(names("link", Group::Main).is_empty());
    }

    #[test]
    fn only_links_are_measured_with_tcp_bbr_and_go_alone() {
        for scenario in all() {
            let is_link = matches!(scenario.kind, Kind::Link { .. });
            assert_eq!(scenario.is_for(StackName::TcpBbr), is_link);
            assert_eq!(scenario.is_for(StackName::OursBbr), is_link);
            let has_own_buffers = scenario.profile == Profile::StockBuffers;
            let is_for_go = is_link && !has_own_buffers;
            assert_eq!(scenario.is_for(StackName::Go), is_for_go);
            assert_eq!(scenario.group == Group::Links, is_link);
        }
        assert_eq!(choose(&[], Group::Links).len(), 18 + 6 + 4);
    }
}
