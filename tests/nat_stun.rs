//! External addresses by STUN: on loopback, and behind NATs in network namespaces.
//!
//! The servers are coturn's, except hostile ones. The tests are skipped, with the reason, if coturn
//! is missing or namespaces cannot be created; `INTEROP_REQUIRE=nat` makes that a failure.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

use std::{future::poll_fn, net::SocketAddr, process::Command, time::Duration};

use futures::StreamExt;
use harness::scene::{Nat, PUBLIC, Place, Ports, Scene};
use libp2p::{
    Swarm, SwarmBuilder,
    swarm::{FromSwarm, NetworkBehaviour, NewListenAddr, SwarmEvent, ToSwarm},
};
use libp2p_core::transport::ListenerId;
use libp2p_identity::Keypair;
use libp2p_quinn::{
    Config, ConfigError, Handle, StunStats, Transport,
    nat::{self, MappingBehaviour},
};
use multiaddr::Multiaddr;
use support::{
    node::{LOOPBACK_V4, Node, bounded, quic_addr, socket_addr, until},
    required,
    streams::transfer_through_echo,
    stun_server::StunServer,
    visit::run_at,
};
use tokio::net::UdpSocket;

#[tokio::test]
async fn answers_and_a_transfer_share_a_socket() {
    let Some(server) = or_skip(StunServer::start(&["127.0.0.1", "127.0.0.2"])) else {
        return;
    };
    bounded(async {
        // All answers arrive at the socket of one shard.
        for shards in [1, 2] {
            let mut listener = Node::with(|builder| builder.shards(shards));
            let (id, addr) = listener.listen_at(LOOPBACK_V4).await;
            let handle = listener.transport.handle();
            let _echo = listener.spawn_echo();
            let asking = Asking::start(&handle, &server.addrs(), id, &addr);

            let mut dialer = Node::new();
            let (_, mut muxer) = dialer.dial(&addr).await.unwrap();
            // Two requests, half a second apart, to two servers.
            while handle.stats().stun.answers < 4 {
                asking.ask_again();
                transfer_through_echo(&mut muxer, 2 * MIB).await;
            }
            let stats = handle.stats();
            assert_eq!(stats.stun.unanswered, 0);
            assert_eq!(dropped(&stats.stun), 0);
            assert_eq!(stats.registry.non_quic, stats.stun.answers);
            assert_eq!(stats.registry.malformed, 0);
            assert!(stats.connections[0].bytes_received > 2 * MIB);
        }
    })
    .await;
}

#[tokio::test]
async fn address_is_offered_to_the_swarm_and_expires_with_the_listener() {
    let Some(server) = or_skip(StunServer::start(&["127.0.0.1", "127.0.0.2"])) else {
        return;
    };
    bounded(async {
        let nobody = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        // The port is closed now. The host reports that, and the next server is asked at once.
        let mut servers = vec![nobody.local_addr().unwrap()];
        drop(nobody);
        servers.extend(server.addrs());
        let (mut swarm, handle) = swarm(servers);
        let id = swarm.listen_on(LOOPBACK_V4.parse().unwrap()).unwrap();
        let mut seen = Seen::default();
        let (address, behaviour) = seen.until_mapped(&mut swarm).await;
        assert_eq!(behaviour, Some(MappingBehaviour::EndpointIndependent));
        // There is no NAT, so it is the listener's own address.
        let own = swarm.listeners().next().unwrap().clone();
        assert_eq!((&address, &seen.candidates), (&own, &vec![own.clone()]));
        let stats = handle.stats().stun;
        assert_eq!((stats.answers, stats.unanswered), (2, 1));
        assert_eq!(stats.requests_sent, 3);

        assert!(swarm.remove_listener(id));
        seen.until(&mut swarm, |seen| !seen.expired.is_empty())
            .await;
        assert_eq!(seen.expired, [own]);
    })
    .await;
}

#[tokio::test]
async fn without_servers_nobody_is_asked() {
    bounded(async {
        let (mut swarm, handle) = swarm(Vec::new());
        swarm.listen_on(LOOPBACK_V4.parse().unwrap()).unwrap();
        let listening = async {
            loop {
                swarm.select_next_some().await;
            }
        };
        // Longer than the first request takes.
        assert!(tokio::time::timeout(SECOND, listening).await.is_err());
        assert_eq!(handle.stats().stun.requests_sent, 0);
        assert_eq!(handle.stats().transport.datagrams_sent, 0);
    })
    .await;
}

#[tokio::test]
async fn forged_answers_are_dropped_and_counted() {
    bounded(async {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut listener = Node::new();
        let (id, addr) = listener.listen_at(LOOPBACK_V4).await;
        let (_, other_addr) = listener.listen_at(LOOPBACK_V4).await;
        let handle = listener.transport.handle();
        let mut asking = Asking::start(&handle, &[server.local_addr().unwrap()], id, &addr);

        let mut request = [0; 64];
        let (len, from) = server.recv_from(&mut request).await.unwrap();
        assert_eq!((len, from), (20, socket_addr(&addr)));
        assert_eq!(request[..8], [0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42]);
        let good = response(&request[..len], [203, 0, 113, 7], 4321);
        let with = |index: usize, flipped: u8| {
            let mut bytes = good.clone();
            bytes[index] ^= flipped;
            bytes
        };
        let sends = |socket: &'static str, to, bytes| (socket, to, bytes);
        let other = socket_addr(&other_addr);
        for (socket, to, bytes) in [
            // From another port, for another transaction, to a socket that sent no request.
            sends("stranger", from, good.clone()),
            sends("server", from, with(19, 1)),
            sends("server", other, good.clone()),
            // Without the cookie, a byte too short, with another length.
            sends("server", from, with(5, 1)),
            sends("server", from, good[..good.len() - 1].to_vec()),
            sends("server", from, with(3, 4)),
        ] {
            let socket = match socket {
                "server" => &server,
                _ => &stranger,
            };
            socket.send_to(&bytes, to).await.unwrap();
        }
        until(|| dropped(&handle.stats().stun) == 6).await;
        let stats = handle.stats();
        assert_eq!(stats.stun.dropped_unexpected, 3);
        assert_eq!(stats.stun.dropped_malformed, 3);
        assert_eq!(stats.stun.answers, 0);
        assert_eq!(stats.registry.non_quic, 6);

        // The transaction is not affected.
        server.send_to(&good, from).await.unwrap();
        let (address, _) = asking.mapped().await;
        assert_eq!(address, quic_addr(([203, 0, 113, 7], 4321).into()));
        // A second answer is dropped.
        server.send_to(&good, from).await.unwrap();
        until(|| handle.stats().stun.dropped_unexpected == 4).await;
        assert_eq!(handle.stats().stun.answers, 1);

        handle.reset_stats();
        assert_eq!(handle.stats().stun, StunStats::default());
    })
    .await;
}

#[test]
fn configuration_refuses_what_cannot_work() {
    let addr = |text: &str| text.parse::<SocketAddr>().unwrap();
    let is_refused = |result: Result<nat::Config, ConfigError>| {
        matches!(result, Err(ConfigError::OutOfRange { .. }))
    };
    assert!(is_refused(nat::Config::new([addr("192.0.2.1:0")])));
    assert!(is_refused(nat::Config::new([addr("0.0.0.0:3478")])));
    assert!(is_refused(nat::Config::new([addr("[ff02::1]:3478")])));
    let many = |count| nat::Config::new((0..count).map(|port| ([192, 0, 2, 1], port + 1).into()));
    assert!(many(16).is_ok());
    assert!(is_refused(many(17)));
    let config = || nat::Config::new([addr("192.0.2.1:3478")]).unwrap();
    assert!(config().interval(SECOND).is_ok());
    assert!(is_refused(config().interval(SECOND / 2)));
    assert!(is_refused(config().interval(25 * 3600 * SECOND)));
}

#[test]
fn address_behind_a_nat_that_keeps_ports() {
    let Some(scene) = scene(Ports::Kept) else {
        return;
    };
    let Some(outcome) = discover(&scene) else {
        return;
    };
    assert_eq!(outcome.address, public_addr("11.0.0.10", PORT));
    assert_eq!(
        outcome.behaviour,
        Some(MappingBehaviour::EndpointIndependent)
    );
    assert_eq!(outcome.candidates, [outcome.address]);
}

#[test]
fn address_behind_a_nat_that_gives_another_port_to_everybody() {
    let Some(scene) = scene(Ports::Kept) else {
        return;
    };
    let router = scene.enter(Place::DialerRouter);
    let chain = "inet nat postrouting_miniupnpd";
    let rule = format!("oifname wan0 udp sport {PORT} masquerade to :50001");
    run(&router, &format!("nft add rule {chain} {rule}"));
    let Some(outcome) = discover(&scene) else {
        return;
    };
    assert_eq!(outcome.address, public_addr("11.0.0.10", 50001));
    assert_eq!(
        outcome.behaviour,
        Some(MappingBehaviour::EndpointIndependent)
    );
    assert_eq!(outcome.candidates, [outcome.address]);
}

#[test]
fn nat_with_a_port_for_each_target_is_endpoint_dependent_and_its_address_is_not_offered() {
    let Some(scene) = scene(Ports::Random) else {
        return;
    };
    let Some(outcome) = discover(&scene) else {
        return;
    };
    assert_eq!(outcome.behaviour, Some(MappingBehaviour::EndpointDependent));
    assert!(outcome.address.to_string().starts_with("/ip4/11.0.0.10/"));
    assert_eq!(outcome.candidates, []);
}

#[test]
fn change_of_an_interface_finds_the_new_address() {
    let Some(scene) = scene(Ports::Kept) else {
        return;
    };
    let Some(server) = or_skip(StunServer::start_at(&scene, Place::Public, &PUBLIC[..2])) else {
        return;
    };
    let servers = server.addrs();
    let router = scene.enter(Place::DialerRouter);
    let host = scene.enter(Place::Dialer);
    let discovered = run_at(&scene, Place::Dialer, move || {
        block_on(async {
            // Nothing else makes it ask again in time.
            let (mut swarm, _) = swarm(servers);
            swarm.listen_on(wildcard()).unwrap();
            let mut seen = Seen::default();
            let (first, _) = seen.until_mapped(&mut swarm).await;
            assert_eq!(first, public_addr("11.0.0.10", PORT));
            run(&router, "ip address del 11.0.0.10/24 dev wan0");
            run(&router, "ip address add 11.0.0.11/24 dev wan0");
            run(&host, "ip address add 192.168.10.3/24 dev eth0");
            let second = loop {
                let (address, _) = seen.until_mapped(&mut swarm).await;
                if address != first {
                    break address;
                }
            };
            assert_eq!(second, public_addr("11.0.0.11", PORT));
            assert_eq!(seen.candidates, [first.clone(), second]);
            assert_eq!(seen.expired, [first]);
        });
    });
    or_skip(discovered);
}

/// The result of one node.
struct Outcome {
    address: Multiaddr,
    behaviour: Option<MappingBehaviour>,
    candidates: Vec<Multiaddr>,
}

/// Makes a node on the dialer's host find its address.
fn discover(scene: &Scene) -> Option<Outcome> {
    let server = or_skip(StunServer::start_at(scene, Place::Public, &PUBLIC[..2]))?;
    let servers = server.addrs();
    or_skip(run_at(scene, Place::Dialer, move || {
        block_on(async {
            let (mut swarm, _) = swarm(servers);
            swarm.listen_on(wildcard()).unwrap();
            let mut seen = Seen::default();
            let (address, behaviour) = seen.until_mapped(&mut swarm).await;
            Outcome {
                address,
                behaviour,
                candidates: seen.candidates,
            }
        })
    }))
}

/// A node with these servers.
fn swarm(servers: Vec<SocketAddr>) -> (Swarm<nat::Behaviour>, Handle) {
    let keypair = Keypair::generate_ed25519();
    let transport = Transport::new(Config::new(&keypair));
    let handle = transport.handle();
    let behaviour = nat::Behaviour::new(&handle, nat::Config::new(servers).unwrap());
    let swarm = SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_other_transport(|_| transport)
        .unwrap()
        .with_behaviour(|_| behaviour)
        .unwrap()
        .build();
    (swarm, handle)
}

/// The events of a Swarm.
#[derive(Default)]
struct Seen {
    mapped: Option<(Multiaddr, Option<MappingBehaviour>)>,
    candidates: Vec<Multiaddr>,
    expired: Vec<Multiaddr>,
}

impl Seen {
    async fn until(&mut self, swarm: &mut Swarm<nat::Behaviour>, is_so: impl Fn(&Self) -> bool) {
        while !is_so(self) {
            match swarm.select_next_some().await {
                SwarmEvent::Behaviour(nat::Event::Mapped {
                    address, behaviour, ..
                }) => self.mapped = Some((address, behaviour)),
                SwarmEvent::NewExternalAddrCandidate { address } => self.candidates.push(address),
                SwarmEvent::ExternalAddrExpired { address } => self.expired.push(address),
                _ => {}
            }
        }
    }

    /// Waits for the next address whose behaviour is known.
    async fn until_mapped(
        &mut self,
        swarm: &mut Swarm<nat::Behaviour>,
    ) -> (Multiaddr, Option<MappingBehaviour>) {
        self.mapped = None;
        self.until(swarm, |seen| matches!(seen.mapped, Some((_, Some(_)))))
            .await;
        self.mapped.clone().unwrap()
    }
}

/// A behaviour without a Swarm.
struct Asking {
    again: tokio::sync::mpsc::Sender<()>,
    events: tokio::sync::mpsc::Receiver<nat::Event>,
    task: tokio::task::JoinHandle<()>,
}

impl Asking {
    fn start(handle: &Handle, servers: &[SocketAddr], id: ListenerId, addr: &Multiaddr) -> Self {
        let config = nat::Config::new(servers.to_vec()).unwrap();
        let mut behaviour = nat::Behaviour::new(handle, config);
        let (again, mut asked_again) = tokio::sync::mpsc::channel(1);
        let (found, events) = tokio::sync::mpsc::channel(8);
        let addr = addr.clone();
        let task = tokio::spawn(async move {
            loop {
                behaviour.on_swarm_event(FromSwarm::NewListenAddr(NewListenAddr {
                    listener_id: id,
                    addr: &addr,
                }));
                while let Some(event) = tokio::select! {
                    event = poll_fn(|cx| behaviour.poll(cx)) => Some(event),
                    _ = asked_again.recv() => None,
                } {
                    if let ToSwarm::GenerateEvent(event) = event {
                        found.send(event).await.unwrap();
                    }
                }
            }
        });
        Self {
            again,
            events,
            task,
        }
    }

    /// Simulates a change of an interface.
    fn ask_again(&self) {
        // One pending request is enough.
        let _ = self.again.try_send(());
    }

    async fn mapped(&mut self) -> (Multiaddr, Option<MappingBehaviour>) {
        match self.events.recv().await {
            Some(nat::Event::Mapped {
                address, behaviour, ..
            }) => (address, behaviour),
            event => panic!("{event:?} instead of an address"),
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A success response (RFC 8489 §14.2), byte by byte, so that the codec under test is not used to
/// check itself.
fn response(request: &[u8], ip: [u8; 4], port: u16) -> Vec<u8> {
    const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
    let mut response = vec![0x01, 0x01, 0, 12];
    response.extend(&request[4..20]);
    response.extend([0, 0x20, 0, 8, 0, 1]);
    response.extend((port ^ 0x2112).to_be_bytes());
    response.extend(ip.iter().zip(COOKIE).map(|(byte, mask)| byte ^ mask));
    response
}

fn dropped(stats: &StunStats) -> u64 {
    stats.dropped_malformed + stats.dropped_unexpected
}

/// A dialer behind a NAT with these ports; the other site is not used.
fn scene(ports: Ports) -> Option<Scene> {
    or_skip(Scene::build(Nat::KEPT.with_ports(ports), Nat::KEPT))
}

fn or_skip<T>(result: Result<T, String>) -> Option<T> {
    required::or_skip("nat", result)
}

fn block_on<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(bounded(test))
}

fn run(enter: &[String], command: &str) {
    let mut words = enter.iter().map(String::as_str).chain(command.split(' '));
    let program = words.next().unwrap();
    let status = Command::new(program).args(words).status().unwrap();
    assert!(status.success(), "{command}");
}

fn wildcard() -> Multiaddr {
    quic_addr(([0, 0, 0, 0], PORT).into())
}

fn public_addr(ip: &str, port: u16) -> Multiaddr {
    quic_addr(SocketAddr::new(ip.parse().unwrap(), port))
}

const MIB: u64 = 1024 * 1024;
const PORT: u16 = 4001;
const SECOND: Duration = Duration::from_secs(1);
