//! The sources of unfinished handshakes.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// An IPv6 /48 may have this many times as many handshakes as each /56 in it.
///
/// Customers get a /56, sites a /48, and some mobile networks spread all their subscribers over a
/// few /48s.
const SITE_SHARE: usize = 4;

/// Unfinished handshakes by source: an IPv4 address, or both the /56 and the /48 of an IPv6
/// address.
///
/// A source has an entry only while it has unfinished handshakes, so there are at most two entries
/// for each handshake. Attackers choose the addresses, hence the standard hasher.
#[derive(Default)]
pub(super) struct Sources(HashMap<Network, Handshakes>);

/// The sender of a first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proto) struct Source {
    pub(super) ip: IpAddr,
    /// Whether it has proven that it receives packets at this address (RFC 9000 §8.1). Otherwise
    /// the address may be forged.
    pub(in crate::proto) is_proven: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Network {
    V4(Ipv4Addr),
    V6Customer([u8; 7]),
    V6Site([u8; 6]),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Handshakes {
    unfinished: usize,
    /// Those with a proven address.
    proven: usize,
    /// Bytes that handshakes with a proven address hold while they wait.
    bytes: usize,
}

impl Sources {
    /// Networks with unfinished handshakes.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether at least `limit` handshakes with this source address are unfinished, including those
    /// with a forged one.
    pub(super) fn is_busy(&self, ip: IpAddr, limit: usize) -> bool {
        self.reaches(ip, limit, |handshakes| handshakes.unfinished)
    }

    /// Whether at least `limit` handshakes with this source address, proven, are unfinished.
    pub(super) fn is_full(&self, ip: IpAddr, limit: usize) -> bool {
        self.reaches(ip, limit, |handshakes| handshakes.proven)
    }

    /// Whether handshakes with this proven source address may hold this many more bytes.
    pub(super) fn has_room(&self, ip: IpAddr, bytes: usize, limit: usize) -> bool {
        networks(ip).all(|(network, share)| {
            let held = self
                .0
                .get(&network)
                .map_or(0, |handshakes| handshakes.bytes);
            held + bytes <= limit.saturating_mul(share)
        })
    }

    pub(super) fn add(&mut self, source: Source) {
        for (network, _) in networks(source.ip) {
            let handshakes = self.0.entry(network).or_default();
            handshakes.unfinished += 1;
            handshakes.proven += usize::from(source.is_proven);
        }
    }

    /// Undoes [`add`](Self::add).
    pub(super) fn remove(&mut self, source: Source) {
        for (network, _) in networks(source.ip) {
            let Some(handshakes) = self.0.get_mut(&network) else {
                continue;
            };
            handshakes.unfinished -= 1;
            handshakes.proven -= usize::from(source.is_proven);
            if handshakes.unfinished == 0 {
                self.0.remove(&network);
            }
        }
    }

    /// Notes that a handshake holds this many more bytes.
    pub(super) fn hold(&mut self, source: Source, bytes: usize) {
        self.change_bytes(source, |held| held + bytes);
    }

    pub(super) fn let_go(&mut self, source: Source, bytes: usize) {
        self.change_bytes(source, |held| held - bytes);
    }

    fn change_bytes(&mut self, source: Source, change: impl Fn(usize) -> usize) {
        if !source.is_proven {
            return;
        }
        for (network, _) in networks(source.ip) {
            if let Some(handshakes) = self.0.get_mut(&network) {
                handshakes.bytes = change(handshakes.bytes);
            }
        }
    }

    fn reaches(&self, ip: IpAddr, limit: usize, count: impl Fn(&Handshakes) -> usize) -> bool {
        networks(ip).any(|(network, share)| {
            self.0
                .get(&network)
                .is_some_and(|handshakes| count(handshakes) >= limit.saturating_mul(share))
        })
    }
}

/// The networks in which an address is counted, each with its share of the limit.
fn networks(ip: IpAddr) -> impl Iterator<Item = (Network, usize)> {
    let (first, second) = match ip.to_canonical() {
        IpAddr::V4(ip) => ((Network::V4(ip), 1), None),
        IpAddr::V6(ip) => match translated(ip) {
            Some(ip) => ((Network::V4(ip), 1), None),
            None => {
                let [a, b, c, d, e, f, g, ..] = ip.octets();
                (
                    (Network::V6Customer([a, b, c, d, e, f, g]), 1),
                    Some((Network::V6Site([a, b, c, d, e, f]), SITE_SHARE)),
                )
            }
        },
    };
    [first].into_iter().chain(second)
}

/// The IPv4 address in an IPv6 address that a translator has made of it (RFC 6052 §2.1). Behind
/// such a translator, all IPv4 addresses have the same /48.
fn translated(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    match ip.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn source(ip: &str, is_proven: bool) -> Source {
        Source {
            ip: ip.parse().unwrap(),
            is_proven,
        }
    }

    fn filled(ips: &[&str]) -> Sources {
        let mut sources = Sources::default();
        for ip in ips {
            sources.add(source(ip, true));
        }
        sources
    }

    fn is_full(sources: &Sources, ip: &str, limit: usize) -> bool {
        sources.is_full(ip.parse().unwrap(), limit)
    }

    #[test]
    fn each_ipv4_address_is_a_source() {
        let sources = filled(&["192.0.2.1", "192.0.2.1", "::ffff:192.0.2.1"]);
        assert!(is_full(&sources, "192.0.2.1", 3));
        assert!(!is_full(&sources, "192.0.2.1", 4));
        assert!(!is_full(&sources, "192.0.2.2", 1));
        // The same address as a translator writes it.
        assert!(is_full(&sources, "64:ff9b::c000:201", 3));
        assert!(!is_full(&sources, "64:ff9b::c000:202", 1));
    }

    #[test]
    fn an_ipv6_customer_is_one_source_whatever_address_it_takes() {
        let sources = filled(&["2001:db8:0:ff::1", "2001:db8:0:1::2", "2001:db8:0:ff::3"]);
        assert!(is_full(&sources, "2001:db8:0:7f::9", 3));
        assert!(!is_full(&sources, "2001:db8:0:7f::9", 4));
        assert!(!is_full(&sources, "2001:db8:0:100::9", 1));
    }

    #[test]
    fn an_ipv6_site_has_the_share_of_a_few_customers() {
        let sources = filled(&[
            "2001:db8::1",
            "2001:db8:0:100::1",
            "2001:db8:0:200::1",
            "2001:db8:0:300::1",
        ]);
        assert!(is_full(&sources, "2001:db8:0:400::1", 1));
        assert!(!is_full(&sources, "2001:db8:0:400::1", 2));
        assert!(!is_full(&sources, "2001:db8:1::1", 1));
    }

    #[test]
    fn what_is_forged_makes_a_source_busy_but_not_full() {
        let mut sources = Sources::default();
        for _ in 0..3 {
            sources.add(source("192.0.2.1", false));
        }
        let ip = "192.0.2.1".parse().unwrap();
        assert!(sources.is_busy(ip, 3));
        assert!(!sources.is_full(ip, 1));
    }

    #[test]
    fn a_source_may_hold_bytes_up_to_its_limit_and_a_site_those_of_a_few_customers() {
        const LIMIT: usize = 4000;

        let mut sources = Sources::default();
        for (ip, held, room) in [
            ("192.0.2.1", 0, LIMIT),
            ("192.0.2.1", 2500, LIMIT - 2500),
            ("2001:db8::1", LIMIT, 0),
            // Of the /48, whose customers have their own limits.
            ("2001:db8:0:100::1", 3000, 1000),
            ("2001:db8:0:200::1", LIMIT, 0),
            ("2001:db8:0:300::1", LIMIT - 100, 100),
            ("2001:db8:0:400::1", 0, 4 * LIMIT - (3 * LIMIT + 2900)),
            ("2001:db8:1::1", 0, LIMIT),
        ] {
            let source = source(ip, true);
            sources.add(source);
            sources.hold(source, held);
            assert!(sources.has_room(source.ip, room, LIMIT), "{ip}");
            assert!(!sources.has_room(source.ip, room + 1, LIMIT), "{ip}");
        }
    }

    proptest! {
        /// For any sequence of additions and removals, the counts are those of a list, there are
        /// never more than two entries for each handshake, and none is left at the end.
        #[test]
        fn the_table_agrees_with_a_list_and_is_bounded_by_it(
            acts in proptest::collection::vec(
                // Few enough to collide: of both families, of several sites, translated, mapped.
                (any::<bool>(), 0..6_usize, 0..3_u16, any::<bool>(), any::<usize>()),
                0..200,
            ),
            limit in 1..6_usize,
        ) {
            let mut sources = Sources::default();
            let mut list: Vec<Source> = Vec::new();
            for (comes, kind, number, is_proven, which) in acts {
                let ip: IpAddr = match kind {
                    0 => Ipv4Addr::new(192, 0, 2, number as u8).into(),
                    1 => Ipv4Addr::new(192, 0, 2, number as u8).to_ipv6_mapped().into(),
                    2 => Ipv6Addr::from([0x64, 0xff9b, 0, 0, 0, 0, 0xc000, 0x200 + number]).into(),
                    3 => Ipv6Addr::from([0x2001, 0xdb8, 0, number, 0, 0, 0, 1]).into(),
                    4 => Ipv6Addr::from([0x2001, 0xdb8, 0, number << 8, 0, 0, 0, 1]).into(),
                    _ => Ipv6Addr::from([0x2001, 0xdb8, number, 0, 0, 0, 0, 1]).into(),
                };
                if comes || list.is_empty() {
                    list.push(Source { ip, is_proven });
                    sources.add(Source { ip, is_proven });
                    sources.hold(Source { ip, is_proven }, BYTES);
                } else {
                    let gone = list.swap_remove(which % list.len());
                    sources.let_go(gone, BYTES);
                    sources.remove(gone);
                }
                prop_assert!(sources.len() <= 2 * list.len());
                let counted = |proven: bool, share: usize, together: fn(u128) -> u128| {
                    let own = together(bits(ip));
                    let there = list.iter().filter(|other| {
                        together(bits(other.ip)) == own && (other.is_proven || !proven)
                    });
                    there.count() >= limit * share
                };
                for (proven, found) in [
                    (false, sources.is_busy(ip, limit)),
                    (true, sources.is_full(ip, limit)),
                    // One byte more than `limit` handshakes hold.
                    (true, !sources.has_room(ip, 1, limit * BYTES)),
                ] {
                    let expected = counted(proven, 1, |bits| bits >> 72)
                        || counted(proven, SITE_SHARE, |bits| bits >> 80);
                    prop_assert_eq!(found, expected);
                }
            }
            for source in list {
                sources.let_go(source, BYTES);
                sources.remove(source);
            }
            prop_assert_eq!(sources.len(), 0);
        }
    }

    /// The bytes that each handshake holds.
    const BYTES: usize = 1200;

    /// The address as a number whose upper 56 and 48 bits identify its sources. IPv4 addresses get
    /// a range of their own.
    fn bits(ip: IpAddr) -> u128 {
        match ip.to_canonical() {
            IpAddr::V4(ip) => u128::from(u32::from(ip)) << 80 | 0xff << 120,
            IpAddr::V6(ip) if ip.segments()[0] == 0x64 => {
                u128::from(ip.to_bits() as u32) << 80 | 0xff << 120
            }
            IpAddr::V6(ip) => ip.to_bits(),
        }
    }
}
