//! Long and fast paths: filled as well as congestion control lets, and never fatal.
//!
//! `SIM_WAN` asks for other paths than those of a quick run, which want to be optimised; `soak wan`
//! does. Each is told on a line of its own:
//!
//! ```text
//! SIM_WAN='rate=1000,rtt=63,loss=0.1,queue=1 rate=5000,rtt=10,seconds=4' \
//!     cargo test --release --lib proto::tests::wan::paths_that -- --nocapture
//! ```

mod bbr;
mod paced;
mod path;
mod resume;
mod run;

use std::{
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use self::{
    path::WanPath,
    run::{Outcome, run},
};

/// What one stream reaches on a path, in Mb/s.
pub(super) fn goodput_in_mbits(asked: &str) -> f64 {
    let outcome = run(&WanPath::parse(asked));
    let [flow] = &outcome.flows[..] else {
        panic!("{} flows", outcome.flows.len());
    };
    assert_eq!(flow.death, None, "{asked}");
    flow.goodput
}

#[test]
fn paths_that_were_asked_for_are_told_about() {
    let asked = std::env::var("SIM_WAN").unwrap_or_else(|_| "rate=20,rtt=10,seconds=2".to_owned());
    let paths: Vec<_> = asked.split_whitespace().map(WanPath::parse).collect();
    let (next, told) = (Mutex::new(paths.iter()), Mutex::new(0));
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers.min(paths.len()) {
            scope.spawn(|| {
                loop {
                    let path = next.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(path) = path else { return };
                    let outcome = run(path);
                    println!("path {path} {outcome}");
                    *told.lock().unwrap() += 1;
                }
            });
        }
    });
    assert_eq!(*told.lock().unwrap(), paths.len());
}

/// quinn-proto 0.11.19, read in order, ends all of these: its slow start overruns the queue, and
/// what is left has more than 1,024 gaps.
#[test]
fn slow_start_that_overruns_a_queue_costs_no_connection() {
    for asked in [
        "quinn=1,rate=200,rtt=63,queue=1,seconds=3",
        "quinn=1,rate=100,rtt=63,queue=4,seconds=3",
        "quinn=1,rate=1000,rtt=63,queue=0.1,windows=64,seconds=2",
    ] {
        let outcome = run(&WanPath::parse(asked));
        let [flow] = &outcome.flows[..] else {
            panic!("{} flows", outcome.flows.len());
        };
        assert_eq!(flow.death, None, "{asked}");
        assert!(flow.lost > 1_000, "{asked}: only {} packets", flow.lost);
        assert!(flow.most_gaps > 100, "{asked}: {} gaps", flow.most_gaps);
        assert!(flow.most_held < MOST_HELD, "{asked}: {}", flow.most_held);
    }
}

/// What has piled up for a reader that is far behind is left in quinn-proto, but not with that many
/// gaps.
#[test]
fn slow_start_that_overruns_a_queue_costs_no_connection_of_a_slow_reader() {
    for asked in [
        "quinn=1,rate=100,rtt=150,queue=1,reads=25,seconds=4",
        "quinn=1,rate=100,rtt=150,queue=2,reads=66.666,seconds=4",
    ] {
        let outcome = run(&WanPath::parse(asked));
        let [flow] = &outcome.flows[..] else {
            panic!("{} flows", outcome.flows.len());
        };
        assert_eq!(flow.death, None, "{asked}");
        assert!(flow.lost > 1_000, "{asked}: only {} packets", flow.lost);
    }
}

/// Ours ends before that, at queues as long as a round trip, with little lost and a full path.
#[test]
fn slow_start_ends_with_a_full_path_and_a_short_queue() {
    for asked in [
        "rate=100,rtt=10,queue=1,seconds=4",
        "rate=100,rtt=63,queue=1,seconds=4",
        "rate=200,rtt=63,queue=4,seconds=4",
        "rate=1000,rtt=10,queue=1,seconds=2",
    ] {
        let path = WanPath::parse(asked);
        let outcome = run(&path);
        let [flow] = &outcome.flows[..] else {
            panic!("{} flows", outcome.flows.len());
        };
        assert!(flow.late_goodput > 0.95 * path.rate, "{asked}: {outcome}");
        assert!(flow.lost < flow.sent / 200, "{asked}: {outcome}");
        assert_eq!(flow.black_holes, 0, "{asked}: {outcome}");
        assert!(
            flow.most_cwnd < 2 * flow.most_in_flight,
            "{asked}: {outcome}"
        );
    }
}

/// More than a window of 64 MB, and less than two.
const MOST_HELD: u64 = 80_000_000;

/// quinn-proto searches the chunks of a stream for each packet.
#[test]
fn writes_of_any_size_are_handed_on_in_large_chunks_while_much_is_in_flight() {
    for write in [64, 1000, 1024, 1400, 4096, 16_000, 16_384, 65_536] {
        let asked = format!("rate=500,rtt=20,seconds=0.8,write={write}");
        let outcome = run(&WanPath::parse(&asked));
        let [flow] = &outcome.flows[..] else {
            panic!("{} flows", outcome.flows.len());
        };
        assert!(flow.read > 10_000_000, "{write}: {outcome}");
        assert!(flow.mean_chunk > 15_000, "{write}: {outcome}");
    }
}

/// Acknowledgements wait behind what is sent the other way. Slow start must not take that for a
/// queue of its own, and leave one direction with a part of the rate.
#[test]
fn both_directions_of_a_connection_fill_their_paths() {
    let goodput = |quinn: u8| -> f64 {
        let asked = format!("rate=20,rtt=100,queue=1,back=1,seconds=20,quinn={quinn}");
        let outcome = run(&WanPath::parse(&asked));
        assert_eq!(outcome.flows.len(), 2);
        outcome.flows.iter().map(|flow| flow.goodput).sum()
    };
    let (ours, theirs) = (goodput(0), goodput(1));
    assert!(ours > 0.98 * theirs, "{ours} {theirs}");
}

#[test]
fn two_flows_share_a_path() {
    let outcome = run(&WanPath::parse("rate=50,rtt=10,queue=1,flows=2,seconds=12"));
    assert_eq!(outcome.flows.len(), 2);
    assert!(outcome.jain() > 0.7, "{outcome}");
    let together: f64 = outcome.flows.iter().map(|flow| flow.late_goodput).sum();
    assert!(together > 40.0, "{outcome}");
}

#[test]
fn delay_of_an_empty_path_is_none() {
    for asked in ["rate=10,rtt=10", "rate=1000,rtt=10"] {
        let outcome = run(&WanPath::parse(&format!(
            "{asked},every=50,write=1380,seconds=5"
        )));
        let delay = outcome.flows[0].mean_delay;
        assert!(delay < Duration::from_micros(50), "{asked}: {delay:?}");
    }
}

#[test]
fn request_that_is_not_answered_in_time_counts_with_its_age() {
    let outcome = run(&WanPath::parse(
        "rate=1,rtt=40,write=1000,answer=9000000,seconds=5",
    ));
    let latest = outcome.flows[0].latency[2];
    assert!(latest > Duration::from_secs(4), "{latest:?}");
}

#[test]
#[should_panic(expected = "too late for some")]
fn flow_that_never_begins_is_noticed() {
    run(&WanPath::parse("rate=10,rtt=10,flows=2,apart=5,seconds=2"));
}

#[test]
fn same_path_and_seed_come_out_the_same() {
    let path = WanPath::parse("rate=20,rtt=30,loss=1,seconds=2,seed=3");
    let [one, two] = [(); 2].map(|()| without_cpu(run(&path)));
    assert_eq!(one, two);
    let other = WanPath::parse("rate=20,rtt=30,loss=1,seconds=2,seed=4");
    assert_ne!(one, without_cpu(run(&other)));
}

fn without_cpu(outcome: Outcome) -> Outcome {
    Outcome {
        sender_cpu: Duration::ZERO,
        ..outcome
    }
}
