//! Paths that an earlier connection has measured.

use super::{
    path::WanPath,
    run::{FlowOutcome, run},
};

/// The one flow after an earlier connection at `before` Mb/s, with and without memory.
fn flows(asked: &str, before: u32) -> [FlowOutcome; 2] {
    [1, 0].map(|remembers| {
        let asked = format!("{asked},before={before},remembers={remembers}");
        let outcome = run(&WanPath::parse(&asked));
        let [flow] = &outcome.flows[..] else {
            panic!("{} flows", outcome.flows.len());
        };
        assert_eq!(flow.death, None, "{asked}: {outcome}");
        flow.clone()
    })
}

/// After a handshake and a round trip, half of the path is full.
#[test]
fn transfer_over_a_known_path_does_without_slow_start() {
    let [known, unknown] = flows("rate=1000,rtt=63,queue=1,seconds=1", 1000);
    let [known_10_mb, unknown_10_mb] = [&known, &unknown].map(|flow| flow.milestones[1].unwrap());
    assert!(known_10_mb < 0.4, "{known:?}");
    assert!(unknown_10_mb > 0.6, "{unknown:?}");
    assert_eq!(known.lost, 0, "{known:?}");
}

/// The path has a hundredth of what was remembered.
#[test]
fn memory_that_is_wrong_costs_losses_of_a_round_trip_and_some_time() {
    let [known, unknown] = flows("rate=10,rtt=63,queue=1,seconds=12", 1000);
    let [known_10_mb, unknown_10_mb] = [&known, &unknown].map(|flow| flow.milestones[1].unwrap());
    assert!(known_10_mb < 1.1 * unknown_10_mb, "{known:?} {unknown:?}");
    // At most what half of 7.9 MB makes in packets.
    assert!(known.lost < 3_400, "{known:?}");
    assert!(known.lost > 1_000, "nothing was tried: {known:?}");
}

#[test]
fn memory_of_a_slower_path_costs_nothing() {
    let [known, unknown] = flows("rate=1000,rtt=63,queue=1,seconds=1", 10);
    let [known_10_mb, unknown_10_mb] = [&known, &unknown].map(|flow| flow.milestones[1].unwrap());
    // What is remembered is more than slow start has at first, so a little is gained.
    assert!(known_10_mb < unknown_10_mb, "{known:?} {unknown:?}");
}
