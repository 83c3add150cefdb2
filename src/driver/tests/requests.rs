//! Requests that wait for a driver: their order, and their limits.

use std::{
    collections::BTreeSet,
    future::poll_fn,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::Arc,
    task::{Context, Wake, Waker},
    thread,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures::{FutureExt, channel::oneshot};
use quinn_proto::VarInt;
use tokio::runtime::{self, Builder};
use tracing::level_filters::LevelFilter;

use super::world::{self, CONFIG, Dialling, World, first_packet, first_packet_of_a_dial, nobody};
use crate::{
    driver::{
        connection::Handshake,
        incoming::{IncomingConnection, IncomingQueue},
        mailbox::{CloseAll, MAX_FORWARDED_BYTES, Mailbox, Undeliverable},
        requests::{
            Accept, DialRequest, HandshakeRequest, MAX_ACCEPTS, MAX_DIALS, MAX_PACKETS,
            PacketRequest, Reply, Request, Requests,
        },
        socket_group::SocketGroup,
        task::{HANDSHAKES_PER_ROUND, MAX_INBOX_BYTES, REQUESTS_PER_ROUND},
    },
    error::{ConnectionError, Error, HandshakeError},
    net::clock,
    proto::{Datagram, Incoming, IncomingKey, Registry, Route, ShardCount, route},
    stats::{RegistryStats, TransportStats},
    sync::{Mutex, lock},
    trace::collected::Traced,
};

type Answer = oneshot::Receiver<Result<Handshake, Error>>;

/// The number of dials in a crowd, enough to see who waits for it.
const CROWD: usize = 1000;

/// Whatever arrives before and after them.
#[test]
fn newest_dial_and_oldest_one_do_not_wait_for_a_crowd_between_them() {
    let scene = Scene::paused();
    let mut requests = Requests::default();
    for number in 0..CROWD {
        requests.push(Request::Dial(scene.dial_to(host(number)).0));
    }
    let (ends, turns) = (
        [host(0), host(CROWD - 1)],
        [next(&mut requests), next(&mut requests)],
    );
    assert!(ends.iter().all(|end| turns.contains(end)), "{turns:?}");
    // A later dial does not even wait for the rest of the crowd.
    requests.push(Request::Dial(scene.dial_to(host(CROWD)).0));
    let turns = [next(&mut requests), next(&mut requests)];
    assert!(turns.contains(&host(CROWD)), "{turns:?}");
}

/// Also if it arrives in the middle of the crowd.
#[test]
fn dial_does_not_wait_for_a_crowd_to_one_other_host() {
    let scene = Scene::paused();
    let mut requests = Requests::default();
    for number in 0..CROWD {
        requests.push(Request::Dial(scene.dial_to(host(0)).0));
        if number == CROWD / 2 {
            requests.push(Request::Dial(scene.dial_to(host(1)).0));
        }
    }
    let turns: Vec<_> = (0..4).map(|_| next(&mut requests)).collect();
    assert!(turns.contains(&host(1)), "{turns:?}");
    // The crowd goes on even if dials to other hosts keep arriving.
    let mut to_crowd = 0;
    for number in 0..100 {
        requests.push(Request::Dial(scene.dial_to(host(2 + number)).0));
        to_crowd += usize::from(next(&mut requests) == host(0));
    }
    assert!(to_crowd >= 50, "{to_crowd}");
}

#[test]
fn memory_of_a_crowd_goes_with_it() {
    let mut scene = Scene::paused();
    let key = scene.incoming().key();
    let mut requests = Requests::default();
    for number in 0..CROWD {
        // Two dials for each host.
        requests.push(Request::Dial(scene.dial_to(host(number / 2)).0));
        requests.push(Request::Accept(accept(key).0));
        requests.push(Request::Packet(scene.punch().0));
    }
    assert!(requests.capacity() >= 3 * CROWD);
    while requests.next_packet().is_some() {}
    while requests.next_handshake().is_some() {}
    assert!(requests.is_empty());
    assert_eq!(requests.capacity(), 0);

    // Also if the dials expire.
    let mut latest = None;
    for number in 0..CROWD {
        let (dial, _) = scene.dial_to(host(number / 2));
        latest = Some(dial.deadline);
        requests.push(Request::Dial(dial));
    }
    while requests.next_expired(latest.unwrap()).is_some() {}
    assert_eq!(requests.capacity(), 0);
}

#[test]
fn what_costs_a_packet_does_not_wait_for_dials() {
    const PUNCHES: usize = 10;

    let mut scene = Scene::paused();
    let _answers = scene.crowd();
    let _punches: Vec<_> = (0..PUNCHES).map(|_| scene.request_punch()).collect();
    scene.round(|scene| scene.totals().hole_punches == PUNCHES as u64);
    assert_eq!(scene.totals().dials, HANDSHAKES_PER_ROUND as u64);
}

#[test]
fn dials_and_accepted_connections_take_turns() {
    const ACCEPTS: usize = 3;

    let mut scene = Scene::paused();
    let incoming: Vec<_> = (0..ACCEPTS).map(|_| scene.incoming()).collect();
    let _answers = scene.crowd();
    let answers = incoming.into_iter().map(|incoming| incoming.accept());
    let mut waiting: Vec<_> = answers.map(Result::unwrap).collect();
    let mut begun = (0, 0);
    let mut turns = Vec::new();
    while !waiting.is_empty() {
        scene.poll();
        waiting.retain_mut(|answer| answer.now_or_never().is_none());
        let before = begun;
        begun = (scene.totals().dials, ACCEPTS - waiting.len());
        turns.push((begun.0 - before.0, begun.1 - before.1));
    }
    // Some rounds are put off.
    turns.retain(|turn| *turn != (0, 0));
    assert_eq!(turns, [(HANDSHAKES_PER_ROUND as u64 - 1, 1); ACCEPTS]);
}

/// Whatever else arrives meanwhile.
#[test]
fn dial_that_has_waited_for_too_long_fails_without_work() {
    let mut scene = Scene::paused();
    let crowd = scene.crowd();
    scene.round(|scene| scene.totals().dials > 0);
    scene.advance(CONFIG.handshake_timeout());
    let _others = scene.crowd();
    // Every second round is put off.
    for _ in 0..2 * CROWD.div_ceil(REQUESTS_PER_ROUND) {
        scene.poll();
    }
    let begun = HANDSHAKES_PER_ROUND as u64;
    assert_eq!(scene.totals().dials_expired, CROWD as u64 - begun);
    let ends = crowd.into_iter().filter_map(FutureExt::now_or_never);
    let late =
        ends.filter(|end| matches!(end, Ok(Err(Error::Handshake(HandshakeError::TimedOut)))));
    assert_eq!(late.count() as u64, CROWD as u64 - begun);
}

/// The timeout runs from the first poll of a dial, not from the start of its handshake.
#[test]
fn time_that_a_dial_has_waited_is_part_of_its_timeout() {
    let mut scene = Scene::paused();
    let answer = scene.request_dial(nobody()).unwrap();
    scene.advance(CONFIG.handshake_timeout() / 2);
    scene.round(|scene| scene.totals().dials == 1);
    let mut handshake = answer.now_or_never().unwrap().unwrap().unwrap();
    scene.advance(CONFIG.handshake_timeout() / 2);
    let mut end = None;
    scene.round(|_| {
        end = poll_fn(|cx| handshake.poll(cx)).now_or_never();
        end.is_some()
    });
    assert_eq!(end.unwrap().err(), Some(HandshakeError::TimedOut));
}

#[test]
fn dials_that_nobody_waits_for_cost_nothing_and_keep_nothing() {
    let mut scene = Scene::paused();
    let users = Arc::strong_count(&scene.world.socket);
    drop(scene.crowd());
    assert_eq!(Arc::strong_count(&scene.world.socket), users + CROWD);
    let mut rounds = 0;
    while scene.mailbox().has_requests() {
        scene.poll();
        rounds += 1;
    }
    assert!(rounds < CROWD / 16, "{rounds}");
    assert_eq!(Arc::strong_count(&scene.world.socket), users);
    assert_eq!(scene.totals().dials, 0);
}

#[test]
fn max_dials_wait() {
    let mut scene = Scene::paused();
    let dials = (0..MAX_DIALS).map(|number| scene.request_dial(host(number)));
    let _answers: Vec<_> = dials.map(Result::unwrap).collect();
    let refused = scene.request_dial(host(MAX_DIALS)).err();
    assert_eq!(refused, Some(Undeliverable::Overloaded));
    // Other requests have limits of their own.
    let _punch = scene.request_punch().unwrap();
    scene.poll();
    let totals = scene.totals();
    assert_eq!(totals.dials_dropped_overload, 1);
    assert_eq!(totals.accepts_dropped_overload, 0);
    assert_eq!(totals.requests_dropped_overload, 0);
    // Now there is room again.
    assert!(scene.request_dial(host(MAX_DIALS)).is_ok());
}

#[test]
fn max_accepts_wait() {
    let mut scene = Scene::paused();
    let incoming = scene.incoming();
    let request = || {
        let (accept, answer) = accept(incoming.key());
        let result = scene.mailbox().request(Request::Accept(accept));
        result.map(|()| answer)
    };
    let _answers: Vec<_> = (0..MAX_ACCEPTS).map(|_| request().unwrap()).collect();
    assert_eq!(request().err(), Some(Undeliverable::Overloaded));
    // Incoming connections for which there is no room are refused.
    assert_eq!(incoming.accept().err(), Some(HandshakeError::Overloaded));
    scene.round(|scene| scene.totals().incoming_refused == 1);
    assert_eq!(scene.totals().accepts_dropped_overload, 2);
}

/// The application takes none of them.
#[test]
fn incoming_connections_beyond_the_limit_of_the_queue_are_refused() {
    let mut scene = Scene::paused();
    let key = scene.incoming().key();
    scene.round(|scene| !scene.mailbox().has_requests());
    let another = || {
        let incoming = Incoming {
            key,
            socket: Arc::clone(&scene.world.socket),
            remote_addr: nobody(),
            local_ip: None,
        };
        IncomingConnection::new(incoming, Arc::clone(&scene.world.mailbox))
    };
    let queue = IncomingQueue::new(2);
    queue.push(another());
    queue.push(another());
    assert!(!scene.mailbox().has_requests());
    queue.push(another());
    let refuse = scene.mailbox().take_request(Requests::next_packet);
    assert!(matches!(refuse, Some(PacketRequest::Refuse { .. })));
    // The others wait, and each one taken makes room for another.
    let take = || poll_fn(|cx| queue.poll(cx)).now_or_never();
    let first = take();
    queue.push(another());
    assert!(!scene.mailbox().has_requests());
    assert!(first.is_some() && [take(), take()].iter().all(Option::is_some));
    assert!(take().is_none());
}

#[test]
fn max_packets_wait() {
    let mut scene = Scene::paused();
    let punches = (0..MAX_PACKETS).map(|_| scene.request_punch());
    let _punches: Vec<_> = punches.map(Result::unwrap).collect();
    let refused = scene.request_punch().err();
    assert_eq!(refused, Some(Undeliverable::Overloaded));
    scene.poll();
    assert_eq!(scene.totals().requests_dropped_overload, 1);
}

/// A punch that begins may end another one.
#[test]
fn what_begins_with_a_request_begins_only_if_the_request_is_delivered() {
    let scene = Scene::paused();
    let request_with = |begun: Result<(), ()>| {
        let mut is_called = false;
        let begin = || {
            is_called = true;
            begun
        };
        let request = Request::Packet(scene.punch().0);
        let result = scene.mailbox().request_with(request, begin);
        (result, is_called)
    };
    // A request is not delivered if nothing has begun.
    assert_eq!(request_with(Err(())), (Ok(Err(())), true));
    assert!(!scene.mailbox().has_requests());
    assert_eq!(request_with(Ok(())), (Ok(Ok(())), true));
    assert!(scene.mailbox().has_requests());
    let punches = (1..MAX_PACKETS).map(|_| scene.request_punch());
    let _punches: Vec<_> = punches.map(Result::unwrap).collect();
    let overloaded = (Err(Undeliverable::Overloaded), false);
    assert_eq!(request_with(Ok(())), overloaded);
}

#[test]
fn requests_that_are_dropped_are_traced_with_the_name_of_their_counter() {
    let traced = Traced::up_to(LevelFilter::TRACE);
    let mut scene = Scene::paused();
    let dials: Vec<_> = (0..=MAX_DIALS)
        .map(|number| scene.request_dial(host(number)))
        .collect();
    let punches: Vec<_> = (0..=MAX_PACKETS).map(|_| scene.request_punch()).collect();
    assert_eq!(
        traced.reasons("dropped a request"),
        ["dials_dropped_overload", "requests_dropped_overload"]
    );
    drop((dials, punches));

    let traced = Traced::up_to(LevelFilter::TRACE);
    let key = scene.incoming().key();
    for _ in 0..=MAX_ACCEPTS {
        let _ = scene.mailbox().request(Request::Accept(accept(key).0));
    }
    let dropped = traced.reasons("dropped a request");
    assert_eq!(dropped, ["accepts_dropped_overload"]);
}

#[test]
fn dial_that_has_waited_for_too_long_is_traced() {
    let mut scene = Scene::paused();
    let _crowd = scene.crowd();
    scene.advance(CONFIG.handshake_timeout());
    let traced = Traced::up_to(LevelFilter::DEBUG);
    scene.round(|scene| scene.totals().dials_expired > 0);
    let dropped = traced.events("dropped a dial");
    assert_eq!(dropped.len() as u64, scene.totals().dials_expired);
    for event in dropped {
        assert_eq!(event.field("reason"), "dials_expired");
        assert!(!event.field("remote_addr").is_empty());
    }
}

/// The requests that wait are dropped before the driver looks, and their numbers are not.
#[test]
fn drops_before_a_shutdown_or_the_end_of_a_driver_are_counted() {
    for ends in [false, true] {
        let mut scene = Scene::paused();
        let registry = Arc::clone(&scene.world.registry);
        let punches = (0..MAX_PACKETS).map(|_| scene.request_punch());
        let _punches: Vec<_> = punches.map(Result::unwrap).collect();
        assert!(scene.request_punch().is_err());
        if ends {
            drop(scene);
        } else {
            scene.mailbox().close_connections(close_all(7));
            scene.poll();
        }
        assert_eq!(stats(&registry).1.requests_dropped_overload, 1, "{ends}");
    }
}

#[test]
fn end_of_a_driver_is_told_from_overload() {
    let scene = Scene::paused();
    let mailbox = Arc::clone(&scene.world.mailbox);
    let (dial, answer) = scene.dial_to(nobody());
    let (punch, _) = scene.punch();
    mailbox.request(Request::Dial(dial)).unwrap();
    drop(scene);
    assert!(answer.now_or_never().unwrap().is_err());
    let refused = mailbox.request(Request::Packet(punch));
    assert_eq!(refused, Err(Undeliverable::Stopped));
}

#[test]
fn nothing_begins_after_a_shutdown() {
    let mut scene = Scene::paused();
    let incoming = scene.incoming();
    let waiting = scene.request_dial(nobody()).unwrap();
    scene.mailbox().close_connections(close_all(7));
    assert!(waiting.now_or_never().unwrap().is_err());
    let assert_refused = |scene: &Scene| {
        let dial = scene.request_dial(nobody()).err();
        assert_eq!(dial, Some(Undeliverable::ShutDown));
        let punch = scene.request_punch().err();
        assert_eq!(punch, Some(Undeliverable::ShutDown));
    };
    assert_refused(&scene);
    // Also incoming connections that the application already knows.
    assert_eq!(incoming.accept().err(), Some(HandshakeError::ShutDown));
    scene.round(|scene| scene.totals().incoming_refused == 1);
    assert_eq!(scene.totals().dials, 0);
    // A new driver begins none either.
    succeed(scene.mailbox());
    assert_refused(&scene);
}

/// An application that is accepting one gets an error, and does not wait.
#[test]
fn incoming_connections_are_refused_by_a_shutdown() {
    let mut scene = Scene::paused();
    let answer = scene.incoming().accept().unwrap();
    scene.mailbox().close_connections(close_all(7));
    scene.round(|scene| scene.totals().incoming_refused == 1);
    assert!(answer.now_or_never().unwrap().is_err());
}

#[test]
fn haste_does_not_change_what_peers_are_told() {
    let scene = Scene::paused();
    let mailbox = scene.mailbox();
    mailbox.close_connections(close_all(7));
    mailbox.close_connections(CloseAll {
        at_once: true,
        ..close_all(0)
    });
    let told = mailbox.take().close_all.unwrap();
    assert_eq!((told.code, told.at_once), (VarInt::from_u32(7), true));
}

/// For the next driver, the same key would name another connection.
#[test]
fn incoming_connections_are_not_those_of_the_next_driver() {
    for accepts in [false, true] {
        let mut scene = Scene::paused();
        let incoming = scene.incoming();
        succeed(scene.mailbox());
        if accepts {
            let stopped = ConnectionError::DriverStopped.into();
            assert_eq!(incoming.accept().err(), Some(stopped));
        } else {
            drop(incoming);
        }
        assert!(!scene.mailbox().has_requests());
    }
}

/// TLS is slow on some machines, and so may be a waker of a dial. Then `REQUEST_TIME` ends the
/// work.
#[test]
fn handshakes_that_take_long_begin_one_in_each_round() {
    const DIALS: u64 = 4;

    let mut scene = Scene::in_real_time();
    let waker = Waker::from(Arc::new(Slow));
    let mut cx = Context::from_waker(&waker);
    let dials = (0..DIALS).map(|_| scene.request_dial(nobody()));
    let mut answers: Vec<_> = dials.map(Result::unwrap).collect();
    for answer in &mut answers {
        assert!(answer.poll_unpin(&mut cx).is_pending());
    }
    for dialled in 1..=DIALS {
        scene.round(|scene| scene.totals().dials >= dialled);
        assert_eq!(scene.totals().dials, dialled);
    }
}

/// A waker that takes longer than a round works on requests.
struct Slow;

impl Wake for Slow {
    fn wake(self: Arc<Self>) {
        thread::sleep(Duration::from_millis(2));
    }
}

/// Another shard reads more for this one than it can handle.
#[test]
fn forwarded_datagrams_wait_in_the_mailbox_while_max_inbox_bytes_do() {
    const CONNECTIONS: usize = 32;
    const ROUNDS: usize = 30;
    const DATAGRAM: usize = 1024;

    let mut scene = Scene::in_real_time();
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    silent.set_nonblocking(true).unwrap();
    let addr = silent.local_addr().unwrap();
    let dials = (0..CONNECTIONS).map(|_| scene.request_dial(addr));
    let mut dials: Vec<_> = dials.map(Result::unwrap).collect();
    let mut handshakes = Vec::new();
    let mut ids = BTreeSet::new();
    while handshakes.len() < CONNECTIONS || ids.len() < CONNECTIONS {
        scene.poll();
        let begun = dials.iter_mut().filter_map(|dial| dial.now_or_never());
        handshakes.extend(begun.filter_map(Result::ok));
        ids.extend(std::iter::from_fn(|| id_of_dial(&silent)));
    }

    let users = Arc::strong_count(&scene.world.socket);
    let mut most = 0;
    for _ in 0..ROUNDS {
        let ids = ids.iter().cycle().take(MAX_FORWARDED_BYTES / DATAGRAM);
        let datagrams = ids.map(|id| worthless(id, DATAGRAM, Arc::clone(&scene.world.socket)));
        scene.mailbox().forward(&mut datagrams.collect());
        scene.poll();
        // Each datagram holds a reference to the socket.
        most = most.max(Arc::strong_count(&scene.world.socket) - users);
    }
    let room = (MAX_INBOX_BYTES + MAX_FORWARDED_BYTES) / DATAGRAM;
    assert!(most <= room + 1, "{most} datagrams wait, {room} may");
    // They wait in the mailbox, too, not only in inboxes.
    assert!(most > MAX_INBOX_BYTES / DATAGRAM, "{most}");
    assert!(scene.stats().0.dropped_overload > 0);
}

/// The source connection ID of a dial, from its next packet.
fn id_of_dial(silent: &UdpSocket) -> Option<Vec<u8>> {
    let mut packet = [0; 2048];
    silent.recv(&mut packet).ok()?;
    // RFC 8999 §5.1: first byte, version, and two IDs with their lengths. The second is the
    // sender's.
    let source = 6 + usize::from(packet[5]);
    Some(packet[source + 1..][..usize::from(packet[source])].to_vec())
}

/// A datagram for a connection, which discards it.
fn worthless(id: &[u8], len: usize, socket: Arc<SocketGroup>) -> Datagram<Arc<SocketGroup>> {
    let mut contents = BytesMut::zeroed(len);
    contents[0] = 0x40;
    contents[1..=id.len()].copy_from_slice(id);
    let Route::Quic { shard, header } = route(&contents, ShardCount::ONE) else {
        panic!("not QUIC");
    };
    Datagram {
        socket,
        shard,
        header,
        remote_addr: nobody(),
        local_ip: None,
        ecn: None,
        contents,
        held: len,
    }
}

/// A driver that runs when it is polled.
struct Scene {
    world: World,
    runtime: runtime::Runtime,
}

impl Scene {
    /// With paused time.
    fn paused() -> Self {
        Self::on(world::runtime())
    }

    fn in_real_time() -> Self {
        Self::on(Builder::new_current_thread().enable_all().build().unwrap())
    }

    fn on(runtime: runtime::Runtime) -> Self {
        Self {
            world: World::new(&runtime, Dialling::JustBegun),
            runtime,
        }
    }

    fn mailbox(&self) -> &Mailbox {
        &self.world.mailbox
    }

    /// Runs one round, after which `is_done` must hold. The round may be put off once, so that
    /// other tasks run before.
    fn round(&mut self, mut is_done: impl FnMut(&Self) -> bool) {
        self.poll();
        if !is_done(self) {
            self.poll();
            assert!(is_done(self));
        }
    }

    fn poll(&mut self) {
        let _context = self.runtime.enter();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(self.world.driver.poll_unpin(&mut cx).is_pending());
    }

    fn advance(&self, time: Duration) {
        self.runtime.block_on(tokio::time::advance(time));
    }

    fn stats(&self) -> (RegistryStats, TransportStats) {
        stats(&self.world.registry)
    }

    /// The totals, without the dial that exists from the beginning.
    fn totals(&self) -> TransportStats {
        let mut totals = self.stats().1;
        totals.dials -= totals.dials.min(1);
        totals
    }

    fn dial_to(&self, remote_addr: SocketAddr) -> (DialRequest, Answer) {
        let _context = self.runtime.enter();
        let (reply, answer) = Reply::new();
        let dial = DialRequest {
            config: Box::new(CONFIG.client(None, None).unwrap()),
            max_payload: None,
            remote_addr,
            socket: Arc::clone(&self.world.socket),
            deadline: clock::now() + CONFIG.handshake_timeout(),
            silent_for: None,
            reply,
        };
        (dial, answer)
    }

    fn request_dial(&self, remote_addr: SocketAddr) -> Result<Answer, Undeliverable> {
        let (dial, answer) = self.dial_to(remote_addr);
        self.mailbox().request(Request::Dial(dial))?;
        Ok(answer)
    }

    /// Requests many dials, each to a different host.
    fn crowd(&self) -> Vec<Answer> {
        (0..CROWD)
            .map(|number| self.request_dial(host(number)).unwrap())
            .collect()
    }

    /// Makes a peer dial us.
    fn incoming(&mut self) -> IncomingConnection {
        let datagram = first_packet(Arc::clone(&self.world.socket), &first_packet_of_a_dial());
        self.mailbox().forward(&mut vec![datagram]);
        let mut incoming = None;
        self.round(|scene| {
            incoming = poll_fn(|cx| scene.world.incoming.poll(cx)).now_or_never();
            incoming.is_some()
        });
        incoming.unwrap()
    }

    fn punch(&self) -> (PacketRequest, oneshot::Receiver<()>) {
        let (over, is_over) = Reply::new();
        let punch = PacketRequest::Punch {
            remote_addr: nobody(),
            socket: Arc::clone(&self.world.socket),
            over,
        };
        (punch, is_over)
    }

    fn request_punch(&self) -> Result<oneshot::Receiver<()>, Undeliverable> {
        let (punch, is_over) = self.punch();
        self.mailbox().request(Request::Packet(punch))?;
        Ok(is_over)
    }
}

fn stats(of: &Mutex<Registry>) -> (RegistryStats, TransportStats) {
    let mut stats = Default::default();
    let (registry, transport) = &mut stats;
    lock(of).add_to(registry, transport);
    stats
}

/// Takes the next dial, and returns its host.
fn next(requests: &mut Requests) -> SocketAddr {
    match requests.next_handshake() {
        Some(HandshakeRequest::Dial(dial)) => dial.remote_addr,
        _ => panic!("no dial waits"),
    }
}

fn close_all(code: u32) -> CloseAll {
    CloseAll {
        code: VarInt::from_u32(code),
        reason: Bytes::new(),
        at_once: false,
    }
}

/// Replaces the driver with a new one.
fn succeed(mailbox: &Mailbox) {
    mailbox.stop();
    mailbox.mark_gone();
    mailbox.revive();
}

fn accept(key: IncomingKey) -> (Accept, oneshot::Receiver<Result<Handshake, HandshakeError>>) {
    let (reply, answer) = Reply::new();
    let accept = Accept {
        key,
        max_payload: None,
        reply,
    };
    (accept, answer)
}

/// One of many hosts that do not answer.
fn host(number: usize) -> SocketAddr {
    let number = u32::try_from(number).unwrap();
    let ip = u32::from(Ipv4Addr::new(127, 1, 0, 1)) + number;
    (IpAddr::from(Ipv4Addr::from(ip)), 9).into()
}
