//! Streams that upload for ever, over one path.

use std::{
    cell::{Cell, RefCell},
    fmt,
    future::poll_fn,
    rc::Rc,
    task::Poll,
    time::{Duration, Instant},
};

use super::{
    super::{
        network::{Network, book},
        node::{Outbox, Setup},
        peer::Peer,
        tasks::Alarms,
    },
    path::WanPath,
};
use crate::{authenticator::Protection, config::ConfigBuilder, net::clock, proto::StreamId};

/// As Linux cuts batches of full datagrams.
const MAX_SEGMENTS: usize = 44;

/// Bytes of which it is told when they were read.
const MILESTONES: [u64; 3] = [1_000_000, 10_000_000, 100_000_000];

/// How often the sender is looked at.
const SAMPLED: Duration = Duration::from_millis(20);

/// By how much one flow begins after another.
const BETWEEN_FLOWS: Duration = Duration::from_secs(1);

/// What came of one path.
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
    /// Seconds until so much was read.
    milestones: [Option<f64>; 3],
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
                 events={} black_holes={} chunk={} mtu={} cwnd={} in_flight={} gaps={} held={} died={died} \
                 why={why}",
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
            )?;
        }
        Ok(())
    }
}

/// Lets flows upload for as long as the path says, or until all are dead.
pub(super) fn run(path: &WanPath) -> Outcome {
    let setup = setup(path);
    let mut network = Network::pair(path.seed, setup.clone(), setup);
    network.record_nothing();
    network.impair(path.impairments());
    let cpu = network.count_cpu_time(0);
    let began = network.now;
    let mut flows: Vec<Flow> = Vec::new();
    while network.now - began < path.time() {
        let due = began + BETWEEN_FLOWS * flows.len() as u32;
        if flows.len() < path.flows as usize && network.now >= due {
            flows.push(Flow::begin(&mut network, path, &cpu));
        }
        network.run_for(SAMPLED);
        let is_late = network.now - began >= path.time() / 2;
        for flow in &mut flows {
            flow.look(network.now, is_late);
        }
        if flows.iter().all(|flow| flow.outcome.death.is_some()) {
            break;
        }
    }
    let end = network.now;
    Outcome {
        flows: flows.into_iter().map(|flow| flow.end(end)).collect(),
        sender_cpu: cpu.get(),
    }
}

/// One connection with one stream.
struct Flow {
    began: Instant,
    dialer: Peer,
    listener: Option<Peer>,
    accepted: Rc<RefCell<Option<Peer>>>,
    progress: Rc<RefCell<Progress>>,
    /// When the second half began, and what was read by then.
    late: Option<(Instant, u64)>,
    outcome: FlowOutcome,
}

#[derive(Default)]
struct Progress {
    read: u64,
    milestones: [Option<Instant>; 3],
}

impl Flow {
    fn begin(network: &mut Network, path: &WanPath, cpu: &Rc<Cell<Duration>>) -> Self {
        let began = network.now;
        let progress = Rc::new(RefCell::new(Progress::default()));
        let accepted = Rc::new(RefCell::new(None));
        let (alarms, noted, taken) = (network.alarms(), Rc::clone(&progress), Rc::clone(&accepted));
        let path = *path;
        network.serve(move |peer| {
            *taken.borrow_mut() = Some(peer.clone());
            Box::pin(download(path, peer, alarms.clone(), Rc::clone(&noted)))
        });
        let dialer = network.dial(0, 1);
        let (writer, write, cpu) = (dialer.clone(), path.write, Rc::clone(cpu));
        network.spawn(async move {
            writer.established().await.unwrap();
            let stream = writer.open().await.unwrap();
            upload(&writer, stream, write, &cpu).await;
        });
        Self {
            began,
            dialer,
            listener: None,
            accepted,
            progress,
            late: None,
            outcome: FlowOutcome::default(),
        }
    }

    fn look(&mut self, now: Instant, is_late: bool) {
        if self.listener.is_none() {
            self.listener = self.accepted.take();
        }
        if is_late && self.late.is_none() {
            self.late = Some((now, self.progress.borrow().read));
        }
        let in_flight = self.dialer.with(|connection| connection.bytes_in_flight());
        let cwnd = self.dialer.stats().congestion_window_bytes;
        let outcome = &mut self.outcome;
        outcome.most_in_flight = outcome.most_in_flight.max(in_flight);
        outcome.most_cwnd = outcome.most_cwnd.max(cwnd);
        if let Some(listener) = &self.listener {
            let (held, _) = listener.with(|connection| connection.received());
            outcome.most_gaps = outcome.most_gaps.max(held.gaps);
            outcome.most_held = outcome.most_held.max(listener.stats().held_bytes);
        }
        if outcome.death.is_none() {
            let ends = [Some(&self.dialer), self.listener.as_ref()];
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
        let Progress { read, milestones } = *self.progress.borrow();
        let rate = |bytes: u64, time: Duration| bytes as f64 * 8.0 / 1e6 / time.as_secs_f64();
        let quic = self.dialer.with(|connection| connection.quic_stats());
        let (chunks, bytes) = self.dialer.with(|connection| connection.handed_over());
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

/// Reads whatever comes, until the connection is over.
async fn download(path: WanPath, peer: Peer, alarms: Alarms, progress: Rc<RefCell<Progress>>) {
    let Ok(stream) = peer.accept().await else {
        return;
    };
    let mut buf = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = peer.read(stream, &mut buf).await {
        alarms.after(path.reading_time(count)).await;
        let mut progress = progress.borrow_mut();
        progress.read += count as u64;
        let read = progress.read;
        for (time, bytes) in progress.milestones.iter_mut().zip(MILESTONES) {
            if read >= bytes {
                time.get_or_insert_with(|| alarms.now());
            }
        }
    }
}

fn setup(path: &WanPath) -> Setup {
    Setup {
        configure: match (path.windows, path.is_quinn) {
            (0, false) => configure::<0, false>,
            (0, true) => configure::<0, true>,
            (64, false) => configure::<64, false>,
            (64, true) => configure::<64, true>,
            (256, false) => configure::<256, false>,
            (256, true) => configure::<256, true>,
            (other, _) => panic!("no windows of {other} MB"),
        },
        outbox: Outbox {
            max_segments: MAX_SEGMENTS,
            ..Outbox::default()
        },
        protection: Protection::None,
        ..Setup::default()
    }
}

/// With all three windows of so many MB; 0 are the defaults.
fn configure<const MB: u64, const IS_QUINN: bool>(mut builder: ConfigBuilder) -> ConfigBuilder {
    if IS_QUINN {
        builder = builder.quinn_cubic();
    }
    let [stream, connection, send] = match MB {
        0 if IS_QUINN => [10, 15, 10],
        0 => return builder,
        all => [all; 3],
    };
    builder
        .stream_receive_window_bytes(stream * 1_000_000)
        .and_then(|builder| builder.connection_receive_window_bytes(connection * 1_000_000))
        .and_then(|builder| builder.send_window_bytes(send * 1_000_000))
        .unwrap()
}
