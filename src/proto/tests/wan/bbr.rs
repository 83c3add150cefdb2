//! BBR on whole connections: paced, beside CUBIC, and where the application is the limit.

use std::time::Duration;

use super::{
    path::WanPath,
    run::{FlowOutcome, Outcome, run},
    without_cpu,
};

fn outcome(asked: &str) -> Outcome {
    let outcome = run(&WanPath::parse(asked));
    for flow in &outcome.flows {
        assert_eq!(flow.death, None, "{asked}: {outcome}");
    }
    outcome
}

fn flow(asked: &str) -> FlowOutcome {
    let outcome = outcome(asked);
    let [flow] = &outcome.flows[..] else {
        panic!("{} flows", outcome.flows.len());
    };
    flow.clone()
}

#[test]
fn random_loss_costs_a_part_of_the_rate_and_not_all_of_it() {
    // Seeds have 34 to 41.
    let [cubic, bbr] = [0, 1].map(|bbr| {
        let late = (1..=4).map(|seed| {
            let asked = format!("bbr={bbr},rate=50,rtt=30,loss=1,queue=1,seconds=8,seed={seed}");
            flow(&asked).late_goodput
        });
        late.sum::<f64>() / 4.0
    });
    assert!(cubic < 15.0, "{cubic}");
    assert!(bbr > 37.0, "{bbr}");
}

#[test]
fn queue_is_a_quarter_of_cubics_at_most_and_the_path_is_full() {
    let [cubic, bbr] =
        [0, 1].map(|bbr| flow(&format!("bbr={bbr},rate=50,rtt=30,queue=2,seconds=10")));
    assert!(bbr.late_goodput > 0.95 * cubic.late_goodput, "{bbr:?}");
    assert!(bbr.mean_delay < cubic.mean_delay / 4, "{bbr:?}");
}

#[test]
fn flows_share_a_path_with_cubic_and_with_each_other() {
    for kind in ["bbr=1", "rivals=1", "rivals=2"] {
        let outcome = outcome(&format!("{kind},rate=20,rtt=20,queue=1,flows=2,seconds=24"));
        assert!(outcome.jain() > 0.85, "{kind}: {outcome}");
        let together: f64 = outcome.flows.iter().map(|flow| flow.late_goodput).sum();
        assert!(together > 18.0, "{kind}: {outcome}");
    }
}

/// Pacing does not hold back what the application sends now and then, nor is half of a window
/// enough that was measured by it.
#[test]
fn flow_that_writes_little_keeps_its_latency() {
    for writes in [
        "every=20,write=2500",
        "every=100,write=10000",
        "write=1000,answer=1000",
        "every=1000,write=1000,answer=100000",
    ] {
        let [cubic, bbr] = [0, 1].map(|bbr| {
            let asked = format!("bbr={bbr},rate=20,rtt=40,queue=1,{writes},seconds=20");
            flow(&asked).latency
        });
        assert!(cubic[0] > Duration::from_millis(20), "{writes}: {cubic:?}");
        for (cubic, bbr) in cubic.into_iter().zip(bbr) {
            assert!(bbr <= cubic.mul_f64(1.1), "{writes}: {bbr:?} {cubic:?}");
        }
    }
}

/// The draft takes it for a bottleneck. If it were the application, Startup would never end, and
/// leave a queue of all that the window has beyond the path.
#[test]
fn flow_control_of_the_peer_is_a_bottleneck() {
    // 1.6 products.
    let bbr = flow("bbr=1,rate=50,rtt=100,queue=4,windows=1,seconds=12");
    assert!(bbr.late_goodput > 42.0, "{bbr:?}");
    assert!(bbr.mean_delay < Duration::from_millis(20), "{bbr:?}");
    assert!(bbr.most_in_flight < 1_000_000, "{bbr:?}");
}

/// With the window as the only limit, the queue would be as long as the path.
#[test]
fn what_is_sent_is_paced_from_the_first_round_trip_on() {
    let bbr = flow("bbr=1,rate=100,rtt=63,queue=0.1,seconds=4");
    assert!(bbr.lost < bbr.sent / 30, "{bbr:?}");
    assert!(bbr.late_goodput > 80.0, "{bbr:?}");
}

#[test]
fn same_path_and_seed_come_out_the_same() {
    let path = WanPath::parse("bbr=1,rate=20,rtt=30,loss=1,seconds=4,seed=3");
    let [one, two] = [(); 2].map(|()| without_cpu(run(&path)));
    assert_eq!(one, two);
}
