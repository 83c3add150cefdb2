//! Streams that never end, over one path.

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::VecDeque,
    fmt,
    future::poll_fn,
    rc::Rc,
    task::Poll,
    time::{Duration, Instant},
};

use futures::future::join;

use super::{
    super::{
        network::{Network, book},
        node::{Outbox, Setup},
        peer::Peer,
        tasks::Alarms,
    },
    path::{Back, Rivals, WanPath, Writing},
};
use crate::{
    authenticator::Protection,
    config::{ConfigBuilder, CongestionControl, Preset},
    net::clock,
    proto::StreamId,
};

/// As Linux cuts batches of full datagrams.
const MAX_SEGMENTS: usize = 44;

/// Bytes of which it is told when they were read.
const MILESTONES: [u64; 3] = [1_000_000, 10_000_000, 100_000_000];

/// Enough to find the rate of 1 Gb/s at 63 ms.
const EARLIER_BYTES: usize = 40_000_000;

/// How often the sender is looked at.
const SAMPLED: Duration = Duration::from_millis(20);

/// The result of one path.
#[derive(Debug, PartialEq)]
pub(super) struct Outcome {
    pub(super) flows: Vec<FlowOutcome>,
    /// Of the core and its writers, for all flows together.
    pub(super) sender_cpu: Duration,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct FlowOutcome {
    /// Bytes that the application has read.
    pub(super) read: u64,
    /// In Mb/s, from the beginning of the flow on.
    pub(super) goodput: f64,
    /// In Mb/s, in the second half of the run.
    pub(super) late_goodput: f64,
    /// Seconds until each of [`MILESTONES`] was read.
    pub(super) milestones: [Option<f64>; 3],
    /// Packets.
    pub(super) sent: u64,
    pub(super) lost: u64,
    congestion_events: u64,
    pub(super) black_holes: u64,
    /// Bytes of what quinn-proto was given at a time.
    pub(super) mean_chunk: u64,
    mtu: u16,
    pub(super) most_cwnd: u64,
    pub(super) most_in_flight: u64,
    /// By how much round trips were longer than those of a datagram on an empty path, in the second
    /// half.
    pub(super) mean_delay: Duration,
    /// From a write until all of it was read, or the whole answer to it, if writes pause or are
    /// answered: half of them, 99 %, and all.
    pub(super) latency: [Duration; 3],
    /// At the receiver.
    pub(super) most_gaps: u32,
    pub(super) most_held: u64,
    /// Seconds until the connection was over, and why.
    pub(super) death: Option<(f64, String)>,
}

impl Outcome {
    /// How evenly flows share a path: 1 is evenly, one half of two is one for itself alone.
    pub(super) fn jain(&self) -> f64 {
        let goodputs = self.flows.iter().map(|flow| flow.late_goodput);
        let (sum, squares) = goodputs.fold((0.0, 0.0), |(sum, squares), goodput| {
            (sum + goodput, squares + goodput * goodput)
        });
        sum * sum / (self.flows.len() as f64 * squares)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let read: u64 = self.flows.iter().map(|flow| flow.read).sum();
        let cpu = self.sender_cpu.as_secs_f64() / (read as f64 / 1e9);
        write!(f, "cpu={cpu:.3} jain={:.3}", self.jain())?;
        for flow in &self.flows {
            let [one, ten, hundred] = flow
                .milestones
                .map(|time| time.map_or_else(|| "-".to_owned(), |time| format!("{time:.2}")));
            let (died, why) = match &flow.death {
                None => ("-".to_owned(), "-".to_owned()),
                Some((time, why)) => (format!("{time:.2}"), why.replace(' ', "_")),
            };
            write!(
                f,
                " flow goodput={:.3} late={:.3} t1={one} t10={ten} t100={hundred} sent={} lost={} \
                 events={} black_holes={} chunk={} mtu={} cwnd={} in_flight={} gaps={} held={} \
                 delay={:.2} latency={:.1} p99={:.1} latest={:.1} died={died} why={why}",
                flow.goodput,
                flow.late_goodput,
                flow.sent,
                flow.lost,
                flow.congestion_events,
                flow.black_holes,
                flow.mean_chunk,
                flow.mtu,
                flow.most_cwnd,
                flow.most_in_flight,
                flow.most_gaps,
                flow.most_held,
                in_ms(flow.mean_delay),
                in_ms(flow.latency[0]),
                in_ms(flow.latency[1]),
                in_ms(flow.latency[2]),
            )?;
        }
        Ok(())
    }
}

fn in_ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Lets flows run for the time that the path sets, or until all are dead.
pub(super) fn run(path: &WanPath) -> Outcome {
    let mut network = network(path);
    if let Some(earlier) = path.earlier() {
        network.impair(earlier.impairments());
        transfer_before(&mut network);
    }
    network.impair(path.impairments());
    network.delay_timers(path.lateness());
    let cpu = network.count_cpu_time(0);
    let began = network.now;
    let (mut flows, mut connections) = (Vec::<Flow>::new(), 0);
    while network.now - began < path.time() {
        let due = began + path.beginning(connections);
        // Handshakes may take longer than that, and are not told apart where they are accepted.
        let is_next = flows.last().is_none_or(Flow::has_begun);
        if connections < path.flows && network.now >= due && is_next {
            flows.extend(connect(&mut network, path, connections, &cpu));
            connections += 1;
        }
        network.run_for(SAMPLED);
        let is_late = network.now - began >= path.time() / 2;
        for flow in &mut flows {
            flow.look(network.now, is_late);
        }
        if connections == path.flows && flows.iter().all(|flow| flow.outcome.death.is_some()) {
            break;
        }
    }
    assert_eq!(flows.len(), path.flow_count(), "too late for some: {path}");
    let end = network.now;
    let flows: Vec<_> = flows.into_iter().map(|flow| flow.end(end)).collect();
    for flow in &flows {
        assert!(
            flow.read > 0 || flow.death.is_some(),
            "nothing came: {path}"
        );
    }
    Outcome {
        flows,
        sender_cpu: cpu.get(),
    }
}

/// Two nodes with the settings of the path.
pub(super) fn network(path: &WanPath) -> Network {
    let setup = setup(path);
    let mut network = Network::pair(path.seed, setup.clone(), setup);
    network.record_nothing();
    network
}

/// A connection that ends before the flows begin.
fn transfer_before(network: &mut Network) {
    network.serve(|peer| {
        Box::pin(async move {
            let Ok(stream) = peer.accept().await else {
                return;
            };
            let mut buf = vec![0; 64 * 1024];
            while let Ok(1..) = peer.read(stream, &mut buf).await {}
            let _ = peer.finish(stream);
        })
    });
    let peer = network.dial(0, 1);
    network.block_on(async move {
        peer.established().await.unwrap();
        let stream = peer.open().await.unwrap();
        peer.write_all(stream, &vec![0; EARLIER_BYTES])
            .await
            .unwrap();
        peer.finish(stream).unwrap();
        assert_eq!(peer.read(stream, &mut [0]).await, Ok(0));
        peer.close(0);
    });
    network.run_for(Duration::from_secs(1));
}

/// One direction of a connection.
struct Flow {
    began: Instant,
    sender: End,
    receiver: End,
    progress: Rc<RefCell<Progress>>,
    /// When the second half began, and what was read by then.
    late: Option<(Instant, u64)>,
    round_trip: Duration,
    /// By how much round trips were longer than that, in the second half.
    delays: Vec<Duration>,
    outcome: FlowOutcome,
}

/// One side of a connection, once it is known.
type End = Rc<OnceCell<Peer>>;

#[derive(Default)]
struct Progress {
    read: u64,
    milestones: [Option<Instant>; 3],
    written: u64,
    /// When it was written, and what was written by then.
    writes: VecDeque<(Instant, u64)>,
    /// When the request was written that is not answered yet.
    asked: Option<Instant>,
    /// From a write until it was read, or answered.
    latencies: Vec<Duration>,
}

/// Returns the flow from the dialer, and the one back to it if there is any.
fn connect(
    network: &mut Network,
    path: &WanPath,
    number: u32,
    cpu: &Rc<Cell<Duration>>,
) -> Vec<Flow> {
    let path = *path;
    let (write, writing) = (path.write(number), path.writing(number));
    let (dialer, listener) = (End::default(), End::default());
    let there = Flow::begin(network.now, &path, &dialer, &listener);
    let back = Flow::begin(network.now, &path, &listener, &dialer);

    let (alarms, noted, accepted) = (network.alarms(), Rc::clone(&there.progress), listener);
    network.serve(move |peer| {
        let _ = accepted.set(peer.clone());
        let (alarms, noted) = (alarms.clone(), Rc::clone(&noted));
        Box::pin(async move {
            let answer = async {
                if path.back == Back::AsMuch {
                    let stream = peer.open().await.unwrap();
                    upload(&peer, stream, write, &Cell::default()).await;
                }
            };
            let Ok(stream) = peer.accept().await else {
                return;
            };
            if let Writing::Asking { answer, .. } = writing {
                return answer_all(&peer, stream, [write, answer], &alarms, &noted).await;
            }
            let echo = path.back == Back::Echo;
            let download = download(path, &peer, stream, &alarms, &noted, echo);
            join(download, answer).await;
        })
    });

    let peer = network.dial(0, 1);
    let _ = dialer.set(peer.clone());
    let (alarms, noted, cpu) = (network.alarms(), Rc::clone(&back.progress), Rc::clone(cpu));
    let written = Rc::clone(&there.progress);
    network.spawn(async move {
        peer.established().await.unwrap();
        let stream = peer.open().await.unwrap();
        let answer = async {
            let stream = match path.back {
                Back::Nothing => return,
                Back::AsMuch => peer.accept().await.unwrap(),
                Back::Echo => stream,
            };
            download(path, &peer, stream, &alarms, &noted, false).await;
        };
        match writing {
            Writing::Always => drop(join(upload(&peer, stream, write, &cpu), answer).await),
            Writing::NowAndThen { pause } => {
                write_now_and_then(&peer, stream, write, pause, &alarms, &written).await;
            }
            Writing::Asking { answer, pause } => {
                ask(&peer, stream, [write, answer], pause, &alarms, &written).await;
            }
        }
    });
    match path.back {
        Back::Nothing => vec![there],
        Back::AsMuch | Back::Echo => vec![there, back],
    }
}

impl Flow {
    fn begin(now: Instant, path: &WanPath, sender: &End, receiver: &End) -> Self {
        Self {
            began: now,
            sender: Rc::clone(sender),
            receiver: Rc::clone(receiver),
            progress: Rc::default(),
            late: None,
            round_trip: path.round_trip(),
            delays: Vec::new(),
            outcome: FlowOutcome::default(),
        }
    }

    /// Whether its connection was accepted, or has ended.
    fn has_begun(&self) -> bool {
        self.receiver.get().is_some() && self.sender.get().is_some() || self.outcome.death.is_some()
    }

    fn look(&mut self, now: Instant, is_late: bool) {
        if is_late && self.late.is_none() {
            self.late = Some((now, self.progress.borrow().read));
        }
        let outcome = &mut self.outcome;
        if let Some(sender) = self.sender.get() {
            let in_flight = sender.with(|connection| connection.bytes_in_flight());
            outcome.most_in_flight = outcome.most_in_flight.max(in_flight);
            let stats = sender.stats();
            outcome.most_cwnd = outcome.most_cwnd.max(stats.congestion_window_bytes);
            if is_late {
                self.delays.push(stats.rtt.saturating_sub(self.round_trip));
            }
        }
        if let Some(receiver) = self.receiver.get() {
            let (held, _) = receiver.with(|connection| connection.received());
            outcome.most_gaps = outcome.most_gaps.max(held.gaps);
            outcome.most_held = outcome.most_held.max(receiver.stats().held_bytes);
        }
        if outcome.death.is_none() {
            let ends = [self.sender.get(), self.receiver.get()];
            // Who has ended it says why.
            let loss = ends
                .into_iter()
                .flatten()
                .filter_map(Peer::loss)
                .next_back();
            let after = (now - self.began).as_secs_f64();
            outcome.death = loss.map(|loss| (after, loss.to_string()));
        }
    }

    fn end(self, now: Instant) -> FlowOutcome {
        self.progress.borrow_mut().end(now);
        let Progress {
            read,
            milestones,
            ref mut latencies,
            ..
        } = *self.progress.borrow_mut();
        latencies.sort_unstable();
        let last = latencies.len().saturating_sub(1);
        let latency = [latencies.len() / 2, last * 99 / 100, last]
            .map(|index| latencies.get(index).copied().unwrap_or_default());
        let rate = |bytes: u64, time: Duration| bytes as f64 * 8.0 / 1e6 / time.as_secs_f64();
        let Some(sender) = self.sender.get() else {
            return self.outcome;
        };
        let quic = sender.with(|connection| connection.quic_stats());
        let (chunks, bytes) = sender.with(|connection| connection.handed_over());
        FlowOutcome {
            read,
            goodput: rate(read, now - self.began),
            late_goodput: self
                .late
                .map_or(0.0, |(from, before)| rate(read - before, now - from)),
            milestones: milestones.map(|time| time.map(|time| (time - self.began).as_secs_f64())),
            sent: quic.path.sent_packets,
            lost: quic.path.lost_packets,
            congestion_events: quic.path.congestion_events,
            mean_chunk: bytes / chunks.max(1),
            black_holes: quic.path.black_holes_detected,
            mtu: quic.path.current_mtu,
            mean_delay: self.delays.iter().sum::<Duration>() / (self.delays.len().max(1) as u32),
            latency,
            ..self.outcome
        }
    }
}

/// Writes as long as anything is taken; its CPU time counts.
async fn upload(peer: &Peer, stream: StreamId, write: usize, cpu: &Cell<Duration>) {
    let data = vec![0; write];
    poll_fn(|cx| {
        let stopwatch = clock::thread_cpu_time();
        let over = loop {
            let written =
                peer.with(|connection| connection.streams().poll_write(stream, &data, cx.waker()));
            match written {
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => break Poll::Ready(()),
                Poll::Pending => break Poll::Pending,
            }
        };
        book(cpu, Some(stopwatch));
        over
    })
    .await;
}

/// Writes once, and again after each pause.
async fn write_now_and_then(
    peer: &Peer,
    stream: StreamId,
    write: usize,
    pause: Duration,
    alarms: &Alarms,
    progress: &RefCell<Progress>,
) {
    let data = vec![0; write];
    loop {
        {
            let mut progress = progress.borrow_mut();
            progress.written += write as u64;
            let written = progress.written;
            progress.writes.push_back((alarms.now(), written));
        }
        if peer.write_all(stream, &data).await.is_err() {
            return;
        }
        alarms.after(pause).await;
    }
}

/// Writes a request, reads the whole answer, and does so again after each pause.
async fn ask(
    peer: &Peer,
    stream: StreamId,
    [request, answer]: [usize; 2],
    pause: Duration,
    alarms: &Alarms,
    progress: &RefCell<Progress>,
) {
    let (data, mut buf) = (vec![0; request], vec![0; answer]);
    loop {
        let asked = alarms.now();
        progress.borrow_mut().asked = Some(asked);
        if peer.write_all(stream, &data).await.is_err() {
            return;
        }
        let mut left = answer;
        while left > 0 {
            let Ok(count @ 1..) = peer.read(stream, &mut buf[..left]).await else {
                return;
            };
            left -= count;
        }
        {
            let mut progress = progress.borrow_mut();
            progress.latencies.push(alarms.now() - asked);
            progress.asked = None;
        }
        alarms.after(pause).await;
    }
}

/// Answers each request once it is whole, until the connection is over.
async fn answer_all(
    peer: &Peer,
    stream: StreamId,
    [request, answer]: [usize; 2],
    alarms: &Alarms,
    progress: &RefCell<Progress>,
) {
    let (mut buf, data) = (vec![0; request], vec![0; answer]);
    let mut left = request;
    while let Ok(count @ 1..) = peer.read(stream, &mut buf[..left]).await {
        progress.borrow_mut().note_read(count, alarms.now());
        left -= count;
        if left == 0 {
            if peer.write_all(stream, &data).await.is_err() {
                return;
            }
            left = request;
        }
    }
}

/// Reads whatever comes, until the connection is over.
async fn download(
    path: WanPath,
    peer: &Peer,
    stream: StreamId,
    alarms: &Alarms,
    progress: &RefCell<Progress>,
    echo: bool,
) {
    let mut buf = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = peer.read(stream, &mut buf).await {
        alarms.after(path.reading_time(count)).await;
        progress.borrow_mut().note_read(count, alarms.now());
        if echo && peer.write_all(stream, &buf[..count]).await.is_err() {
            return;
        }
    }
}

impl Progress {
    /// What is unfinished counts with its age, which would otherwise hide what takes longest.
    fn end(&mut self, now: Instant) {
        let unread = self.writes.drain(..).map(|(time, _)| time);
        let unfinished = unread.chain(self.asked.take());
        self.latencies.extend(unfinished.map(|time| now - time));
    }

    fn note_read(&mut self, count: usize, now: Instant) {
        self.read += count as u64;
        for (time, bytes) in self.milestones.iter_mut().zip(MILESTONES) {
            if self.read >= bytes {
                time.get_or_insert(now);
            }
        }
        while let Some((time, _)) = (self.writes).pop_front_if(|&mut (_, bytes)| bytes <= self.read)
        {
            self.latencies.push(now - time);
        }
    }
}

fn setup(path: &WanPath) -> Setup {
    Setup {
        configure: match path.windows {
            0 => configure::<0>(path),
            1 => configure::<1>(path),
            64 => configure::<64>(path),
            256 => configure::<256>(path),
            other => panic!("no windows of {other} MB"),
        },
        outbox: Outbox {
            max_segments: MAX_SEGMENTS,
            ..Outbox::default()
        },
        protection: Protection::None,
        ..Setup::default()
    }
}

/// What sets all three windows to `MB` megabytes, and one thing more that the path asks for; 0
/// keeps the windows as they are with that.
fn configure<const MB: u64>(path: &WanPath) -> fn(ConfigBuilder) -> ConfigBuilder {
    let control = [
        path.rivals != Rivals::No,
        path.is_reno,
        path.is_bbr,
        path.remembers,
        path.is_for_throughput,
        path.is_quinn,
    ];
    assert!(
        control.into_iter().filter(|&is_asked| is_asked).count() <= 1,
        "only one of them: {path}"
    );
    match path.rivals {
        Rivals::CubicFirst => |builder| windows::<MB>(builder.rivals(false)),
        Rivals::BbrFirst => |builder| windows::<MB>(builder.rivals(true)),
        Rivals::No if path.is_reno => {
            |builder| windows::<MB>(builder.congestion_control(CongestionControl::NewReno))
        }
        Rivals::No if path.is_bbr => {
            |builder| windows::<MB>(builder.congestion_control(CongestionControl::Bbr))
        }
        Rivals::No if path.remembers => |builder| windows::<MB>(builder.remember_paths(true)),
        Rivals::No if path.is_for_throughput => {
            |builder| windows::<MB>(builder.preset(Preset::HighThroughput))
        }
        // They do not grow.
        Rivals::No if path.is_quinn && MB == 0 => {
            |builder| set_windows(builder.quinn_cubic(), [10, 15, 10])
        }
        Rivals::No if path.is_quinn => |builder| windows::<MB>(builder.quinn_cubic()),
        Rivals::No => windows::<MB>,
    }
}

fn windows<const MB: u64>(builder: ConfigBuilder) -> ConfigBuilder {
    if MB == 0 {
        return builder;
    }
    set_windows(builder, [MB; 3])
}

/// Of a stream, of a connection, and for what is sent, in MB.
fn set_windows(builder: ConfigBuilder, [stream, connection, send]: [u64; 3]) -> ConfigBuilder {
    builder
        .stream_receive_window_bytes(stream * 1_000_000)
        .and_then(|builder| builder.connection_receive_window_bytes(connection * 1_000_000))
        .and_then(|builder| builder.send_window_bytes(send * 1_000_000))
        .unwrap()
}
