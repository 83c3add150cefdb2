//! Which paths are run.

use super::told::Told;

/// The write that others are measured against.
pub const LARGE_WRITE: f64 = 65536.0;

/// A path as the simulation is asked for it.
pub struct Asked {
    pub path: String,
    /// Whether its CPU time counts.
    pub is_measured: bool,
}

/// Paths of one kind.
pub struct Table {
    pub kind: Kind,
    pub asked: Vec<Asked>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Rates, round trips, loss and queues.
    Grid,
    /// Where slow start overruns a queue.
    Deaths,
    Fairness,
    Cost,
    /// One flow, with each controller.
    Alone,
    /// Flows that share a path, with the same controller or with different ones.
    Contest,
    /// Flows that write little.
    Limited,
}

pub const RATES: [u32; 3] = [100, 1000, 5000];
pub const RTTS: [u32; 4] = [10, 63, 150, 450];
pub const LOSSES: [f64; 3] = [0.0, 0.1, 1.0];
/// In products of rate and round trip.
pub const QUEUES: [f64; 4] = [0.1, 0.5, 1.0, 4.0];
/// In MB; 0 are the defaults.
pub const WINDOWS: [u32; 2] = [0, 64];
/// Whether quinn-proto's CUBIC is used.
pub const QUINN: [u8; 2] = [0, 1];

/// Bytes of each write.
const WRITES: [u32; 10] = [64, 256, 1000, 1024, 1400, 4096, 8192, 16000, 16384, 65536];

/// Where the cost of writes is measured: 10 MB are in flight.
const COST: &str = "rate=5000,rtt=63,queue=1,seconds=3";

pub fn full(seeds: u64, with_fastest: bool) -> Vec<Table> {
    let rates = RATES
        .into_iter()
        .filter(|&rate| with_fastest || rate < 5000);
    let mut grid = Vec::new();
    for rate in rates {
        for rtt in RTTS {
            for loss in LOSSES {
                for queue in QUEUES {
                    grid.extend(cells(rate, rtt, loss, queue, seeds));
                }
            }
        }
    }
    let mut deaths = Vec::new();
    for rate in [20, 50, 100, 200, 500, 1000] {
        for rtt in [63, 150, 300, 450] {
            for queue in [0.5, 1.0, 2.0, 4.0] {
                deaths.push(format!(
                    "rate={rate},rtt={rtt},queue={queue},windows=0,quinn=1,seconds=8"
                ));
            }
        }
    }
    for rate in [50, 100, 200, 1000] {
        for rtt in [63, 150, 450] {
            for queue in [0.5, 1.0, 2.0, 4.0] {
                deaths.push(format!(
                    "rate={rate},rtt={rtt},queue={queue},windows=64,quinn=1,seconds=8"
                ));
            }
        }
    }
    let mut fairness = Vec::new();
    for rtt in [10, 63] {
        for queue in [0.1, 0.5, 1.0, 4.0] {
            fairness.extend(QUINN.map(|quinn| {
                format!("rate=100,rtt={rtt},queue={queue},quinn={quinn},flows=2,seconds=40")
            }));
        }
    }
    let cost = WRITES.map(|write| format!("{COST},write={write}"));
    vec![
        table(Kind::Grid, grid),
        table(Kind::Deaths, deaths),
        table(Kind::Fairness, fairness),
        table(Kind::Cost, cost.into()),
    ]
}

/// Few, with everything that is judged.
pub fn short() -> Vec<Table> {
    let compared = [
        "rate=100,rtt=63,loss=0,queue=1,windows=0,seconds=8",
        "rate=100,rtt=10,loss=0,queue=0.5,windows=0,seconds=4",
        "rate=1000,rtt=10,loss=0,queue=0.1,windows=64,seconds=2",
        "rate=1000,rtt=63,loss=0,queue=4,windows=64,seconds=3",
    ];
    let alone = [
        "rate=100,rtt=63,loss=1,queue=1,windows=0,quinn=0,seconds=4",
        "rate=1000,rtt=150,loss=0,queue=1,windows=0,quinn=0,seconds=6",
    ];
    let grid = (compared.iter())
        .flat_map(|path| QUINN.map(|quinn| format!("{path},quinn={quinn}")))
        .chain(alone.map(str::to_owned));
    // All of these died with quinn-proto's own reassembly.
    let deaths = [
        "rate=200,rtt=63,queue=1,quinn=1,seconds=4",
        "rate=100,rtt=150,queue=1,quinn=1,seconds=4",
        "rate=50,rtt=450,queue=0.5,quinn=1,seconds=8",
        "rate=1000,rtt=63,queue=0.1,windows=64,quinn=1,seconds=2",
        "rate=1000,rtt=63,queue=1,windows=64,quinn=1,seconds=2",
    ];
    let fairness = ["rate=100,rtt=10,queue=1,flows=2,quinn=0,seconds=20"];
    let cost = [1024, 65536].map(|write| format!("{COST},write={write}"));
    vec![
        table(Kind::Grid, grid.collect()),
        table(Kind::Deaths, deaths.map(str::to_owned).into()),
        table(Kind::Fairness, fairness.map(str::to_owned).into()),
        table(Kind::Cost, cost.into()),
    ]
}

pub fn is_for_cost(told: &Told) -> bool {
    told.is_about(COST)
}

fn table(kind: Kind, paths: Vec<String>) -> Table {
    let asked = paths.into_iter().map(|path| Asked {
        path,
        is_measured: kind == Kind::Cost,
    });
    Table {
        kind,
        asked: asked.collect(),
    }
}

/// With both kinds of congestion control, and each of the windows and seeds.
fn cells(rate: u32, rtt: u32, loss: f64, queue: f64, seeds: u64) -> impl Iterator<Item = String> {
    let seconds = match (rate, rtt) {
        (5000, 10) => 4,
        (5000, _) => 8,
        (1000, _) if loss == 0.0 => 10,
        _ => 20,
    };
    // Without loss, seeds differ in little. With loss, windows do not bind.
    let (windows, seeds) = if loss == 0.0 {
        (&WINDOWS[..], 1)
    } else {
        (&WINDOWS[..1], seeds)
    };
    windows.iter().flat_map(move |windows| {
        (1..=seeds).flat_map(move |seed| {
            QUINN.map(|quinn| {
                format!(
                    "rate={rate},rtt={rtt},loss={loss},queue={queue},windows={windows},\
                     quinn={quinn},seconds={seconds},seed={seed}"
                )
            })
        })
    })
}
