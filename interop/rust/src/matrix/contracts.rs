//! The contracts of libp2p's interoperability suites: our programs for them, started in the same
//! way as by the suites.

mod result;
mod site;

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{
    case::Direction,
    child::{Invocation, Process},
    known::Known,
    prepare,
    table::markdown,
};

use self::{
    result::{Format, PERF_BYTES},
    site::Site,
};

/// The contracts: what is available to run them, and their results.
#[derive(Default)]
pub struct Contracts {
    /// The reasons why some or all cannot be run.
    skipped: Vec<Skipped>,
    redis: Option<String>,
    cases: Vec<Case>,
    outcomes: Vec<Outcome>,
}

struct Skipped {
    /// The name in `INTEROP_REQUIRE`.
    name: &'static str,
    reason: String,
}

/// One test of a suite, with a dialer and a listener.
struct Case {
    suite: &'static str,
    test: &'static str,
    format: Format,
    dialer: &'static str,
    listener: &'static str,
    /// In the order of starting. The last one is the dialer, whose result counts.
    programs: Vec<Invocation>,
    /// The line of the earlier programs after which the dialer may start, if the dialer cannot wait
    /// itself.
    ready: Option<&'static str>,
}

enum Outcome {
    /// With a summary of the result.
    Passed(String),
    /// Failed for a reason in known.toml.
    Known(String),
    Failed(String),
}

/// Prepares the contracts. `root` is the directory of the matrix, and `program` its executable.
pub fn prepare(root: &Path, program: &Path) -> Contracts {
    eprintln!("preparing contracts");
    let mut contracts = Contracts::default();
    match site::redis(root) {
        Ok(version) => contracts.redis = Some(version),
        Err(reason) => return contracts.skip("redis", reason),
    }
    let programs = match ours(program) {
        Ok(programs) => programs,
        Err(reason) => return contracts.skip("rust", reason),
    };
    let py = match py(root) {
        Ok(py) => Some(py),
        Err(reason) => {
            contracts = contracts.skip("py", reason);
            None
        }
    };
    contracts.cases = cases(&programs, py.as_ref());
    contracts
}

impl Contracts {
    /// Runs all of them one after another.
    pub fn run(mut self, root: &Path, known: &Known) -> Self {
        if self.cases.is_empty() {
            return self;
        }
        let site = match Site::start(root) {
            Ok(site) => site,
            Err(reason) => {
                self.cases.clear();
                return self.skip("redis", reason);
            }
        };
        for case in &self.cases {
            let outcome = case.run(&site, root).map_or_else(
                |error| match known.explain_row(case.peer(), case.direction(), &case.row(), &error)
                {
                    Some(failure) => Outcome::Known(failure.id.clone()),
                    None => Outcome::Failed(error),
                },
                Outcome::Passed,
            );
            eprintln!("{}: {}", case.describe(), outcome.text());
            self.outcomes.push(outcome);
        }
        self
    }

    fn skip(mut self, name: &'static str, reason: String) -> Self {
        eprintln!("contracts: skipped for want of {name}: {reason}");
        self.skipped.push(Skipped { name, reason });
        self
    }

    /// The failures, and what is required but was skipped.
    pub fn failures(&self, required: &str) -> Vec<String> {
        let failed = self
            .cases
            .iter()
            .zip(&self.outcomes)
            .filter_map(|(case, outcome)| match outcome {
                Outcome::Failed(error) => Some(format!("{}: {error}", case.describe())),
                _ => None,
            });
        let missing = self
            .skipped
            .iter()
            .filter(|skipped| required.split(',').any(|name| name.trim() == skipped.name))
            .map(|Skipped { name, reason }| format!("{name} is required for contracts: {reason}"));
        failed.chain(missing).collect()
    }

    /// A section of RESULTS.md.
    pub fn section(&self) -> String {
        let mut text = "\n## Contracts of the interoperability suites\n\n".to_owned();
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "The programs in `suites/`, started as [unified-testing] and [test-plans] start theirs; passed if the \
             dialer's exit code is 0 and its standard output is what the suite's scripts read. `py` is py-libp2p's \
             own program for the suite, from its source package.\n"
        );
        if let Some(redis) = &self.redis {
            let _ = writeln!(text, "- redis-server: {redis}");
        }
        for skipped in &self.skipped {
            let _ = writeln!(text, "- {}: *skipped*: {}", skipped.name, skipped.reason);
        }
        let _ = writeln!(
            text,
            "\n{}\n[unified-testing]: https://github.com/libp2p/unified-testing\n\
             [test-plans]: https://github.com/libp2p/test-plans",
            self.table()
        );
        text
    }

    /// The number of tests run.
    pub fn len(&self) -> usize {
        self.outcomes.len()
    }

    /// One row for each test; empty if none was run.
    pub fn table(&self) -> String {
        if self.outcomes.is_empty() {
            return String::new();
        }
        let column = |title: &str, cell: &dyn Fn(&Case, &Outcome) -> String| {
            let mut column = vec![title.to_owned()];
            let rows = self.cases.iter().zip(&self.outcomes);
            column.extend(rows.map(|(case, outcome)| cell(case, outcome)));
            column
        };
        markdown(&[
            column("suite", &|case, _| case.suite.to_owned()),
            column("test", &|case, _| case.test.to_owned()),
            column("dialer → listener", &|case, _| case.pair()),
            column("result", &|_, outcome| outcome.text()),
        ])
    }
}

impl Outcome {
    fn text(&self) -> String {
        match self {
            Self::Passed(found) => found.clone(),
            Self::Known(id) => format!("known: {id}"),
            Self::Failed(error) => format!("**FAILED**: {error}"),
        }
    }
}

impl Case {
    fn run(&self, site: &Site, dir: &Path) -> Result<String, String> {
        let (dialer, others) = self.programs.split_last().ok_or("no programs")?;
        let mut running: Vec<(Process, &Invocation)> = Vec::new();
        for program in others {
            let process = site.enter(program, LIMIT).start(dir)?;
            if let Some(ready) = self.ready
                && !process.says(ready, Instant::now() + LIMIT)
            {
                return Err(format!("not ready: {}", process.errors()));
            }
            running.push((process, program));
        }
        let outcome = site
            .enter(dialer, LIMIT)
            .run(dir, LIMIT + GRACE)
            .and_then(|output| self.format.check(&output));
        outcome.map_err(|error| {
            let mut text = error;
            for (process, _) in &running {
                let _ = write!(text, "; the other side: {}", process.errors());
            }
            // The path of this copy of the repository must not appear in results.
            text.replace(&dir.display().to_string(), "interop")
        })
    }

    /// The name in known.toml.
    fn row(&self) -> String {
        format!("{} {}", self.suite, self.test)
    }

    fn pair(&self) -> String {
        format!("{} → {}", self.dialer, self.listener)
    }

    fn describe(&self) -> String {
        format!("{}, {}", self.row(), self.pair())
    }

    /// The side that is not ours, if there is one.
    fn peer(&self) -> &'static str {
        if self.dialer == OURS {
            self.listener
        } else {
            self.dialer
        }
    }

    fn direction(&self) -> Direction {
        if self.dialer == OURS {
            Direction::Out
        } else {
            Direction::In
        }
    }
}

/// The directory of our programs, which `run` has built beside the matrix.
fn ours(program: &Path) -> Result<PathBuf, String> {
    let programs = program.parent().ok_or("the matrix is nowhere")?;
    if programs.join("transport").exists() {
        Ok(programs.to_owned())
    } else {
        Err("the programs are not built; interop/run does that".to_owned())
    }
}

/// py-libp2p's own programs for unified-testing and test-plans.
struct Py {
    python: String,
    dir: PathBuf,
}

fn py(root: &Path) -> Result<Py, String> {
    let peers = prepare::peers(root, &["py"], root);
    let ready = peers.into_iter().next().ok_or("no py")?.state?;
    let python = ready
        .invocation
        .words
        .into_iter()
        .next()
        .ok_or("no Python")?;
    let dir = root.join("py");
    let pinned = dir.join("suites.txt");
    let read = |file: &Path| fs::read_to_string(file).map_err(|error| error.to_string());
    // Records what is installed, so that it is installed only once.
    let stamp = dir.join("venv/suites/suites.txt");
    let requirement = read(&pinned)?;
    if read(&stamp).as_deref() != Ok(&requirement) {
        Invocation::new([python.as_str(), "-m", "pip", "download", "--quiet"])
            .with([
                "--disable-pip-version-check",
                "--no-deps",
                "--require-hashes",
            ])
            .with(["--no-binary", "libp2p", "--requirement", "suites.txt"])
            .with(["--dest", "venv/suites"])
            .run(&dir, BUILD)?;
        let package = requirement
            .lines()
            .find_map(|line| line.split_whitespace().next()?.split_once("=="))
            .map(|(name, version)| format!("{name}-{version}"))
            .ok_or("suites.txt names no package")?;
        Invocation::new(["tar", "--extract", "--gzip", "--strip-components=2"])
            .with(["--directory", "venv/suites", "--file"])
            .with([
                format!("venv/suites/{package}.tar.gz"),
                format!("{package}/interop"),
            ])
            .run(&dir, BUILD)?;
        fs::write(&stamp, requirement).map_err(|error| error.to_string())?;
    }
    Ok(Py {
        python,
        dir: dir.join("venv/suites"),
    })
}

fn cases(programs: &Path, py: Option<&Py>) -> Vec<Case> {
    let ours = |name: &str| Invocation::new([programs.join(name).display().to_string()]);
    let theirs = |name: &str| {
        let Py { python, dir } = py?;
        Some(Invocation::new([
            python.clone(),
            dir.join(name).display().to_string(),
        ]))
    };
    let mut cases = Vec::new();
    // Dialer and listener.
    let pairs = |ours: &Invocation, theirs: Option<Invocation>| {
        let mut pairs = vec![(OURS, ours.clone(), OURS, ours.clone())];
        if let Some(theirs) = theirs {
            pairs.push((OURS, ours.clone(), "py", theirs.clone()));
            pairs.push(("py", theirs, OURS, ours.clone()));
        }
        pairs
    };

    let transport = pairs(&ours("transport"), theirs("transport/ping_test.py"));
    for (dialer, dials, listener, listens) in transport {
        let key = format!("{dialer}-{listener}-transport");
        cases.push(Case {
            suite: "unified-testing",
            test: "transport",
            format: Format::Latency,
            dialer,
            listener,
            programs: vec![unified(&listens, &key, false), unified(&dials, &key, true)],
            ready: None,
        });
    }
    let perf = pairs(&ours("perf"), theirs("perf/perf_test.py"));
    for (dialer, dials, listener, listens) in perf {
        let key = format!("{dialer}-{listener}-perf");
        cases.push(Case {
            suite: "unified-testing",
            test: "perf",
            format: Format::Perf,
            dialer,
            listener,
            programs: vec![
                unified(&listens, &key, false),
                perf_sizes(&unified(&dials, &key, true)),
            ],
            ready: None,
        });
    }
    let both = ours("perf").env("PERF_HEADER_BYTES", "16");
    let key = "ours-ours-perf-16";
    cases.push(Case {
        suite: "unified-testing",
        test: "perf, header of 16 bytes",
        format: Format::Perf,
        dialer: OURS,
        listener: OURS,
        programs: vec![
            unified(&both, key, false),
            perf_sizes(&unified(&both, key, true)),
        ],
        ready: None,
    });
    let hole_punch = ours("hole-punch");
    let key = "ours-ours-hole-punch";
    let relay = hole_punch
        .clone()
        .env("REDIS_ADDR", site::REDIS_ADDR)
        .env("TEST_KEY", key)
        .env("TRANSPORT", "quic-v1")
        .env("RELAY_IP", site::IP);
    cases.push(Case {
        suite: "unified-testing",
        test: "hole-punch, without NATs",
        format: Format::Latency,
        dialer: OURS,
        listener: OURS,
        programs: vec![
            relay,
            unified(&hole_punch, key, false).env("LISTENER_IP", site::IP),
            unified(&hole_punch, key, true).env("DIALER_IP", site::IP),
        ],
        ready: None,
    });

    let test_plans = |invocation: &Invocation, is_dialer: &str| {
        invocation
            .clone()
            .env("transport", "quic-v1")
            .env("is_dialer", is_dialer)
            .env("redis_addr", site::REDIS_ADDR)
            .env("test_timeout_seconds", "30")
    };
    let theirs = theirs("transport/ping_test.py").map(|program| program.with(["--test-plans"]));
    for (dialer, dials, listener, listens) in pairs(&ours("transport"), theirs) {
        cases.push(Case {
            suite: "test-plans",
            test: "transport",
            format: Format::LatencyJson,
            dialer,
            listener,
            programs: vec![test_plans(&listens, "false"), test_plans(&dials, "true")],
            ready: None,
        });
    }
    let address = format!("{}:4001", site::IP);
    let bytes = PERF_BYTES.to_string();
    cases.push(Case {
        suite: "test-plans",
        test: "perf",
        format: Format::PerfJson,
        dialer: OURS,
        listener: OURS,
        programs: vec![
            ours("perf").with(["--run-server", "--server-address", "0.0.0.0:4001"]),
            ours("perf")
                .with(["--server-address", &address, "--transport", "quic-v1"])
                .with(["--upload-bytes", &bytes, "--download-bytes", &bytes]),
        ],
        ready: Some("/quic-v1/p2p/"),
    });
    let mode = |mode: &str| {
        hole_punch
            .clone()
            .env("MODE", mode)
            .env("TRANSPORT", "quic")
            .env("REDIS_ADDR", site::REDIS_ADDR)
    };
    cases.push(Case {
        suite: "test-plans",
        test: "hole-punch, without NATs",
        format: Format::HolePunchJson,
        dialer: OURS,
        listener: OURS,
        programs: vec![mode("relay"), mode("listen"), mode("dial")],
        ready: None,
    });
    cases
}

/// The environment variables that unified-testing sets for a program.
fn unified(program: &Invocation, test_key: &str, is_dialer: bool) -> Invocation {
    program
        .clone()
        .env("IS_DIALER", &is_dialer.to_string())
        .env("REDIS_ADDR", site::REDIS_ADDR)
        .env("TEST_KEY", test_key)
        .env("TRANSPORT", "quic-v1")
        .env("LISTENER_IP", "0.0.0.0")
        .env("DEBUG", "false")
}

fn perf_sizes(program: &Invocation) -> Invocation {
    program
        .clone()
        .env("UPLOAD_BYTES", &PERF_BYTES.to_string())
        .env("DOWNLOAD_BYTES", &PERF_BYTES.to_string())
        .env("UPLOAD_ITERATIONS", "5")
        .env("DOWNLOAD_ITERATIONS", "5")
        .env("LATENCY_ITERATIONS", "20")
        .env("DURATION", "20")
}

/// The name of our programs.
const OURS: &str = "ours";

/// Time limit of a program; none takes three seconds.
const LIMIT: Duration = Duration::from_secs(40);

/// How long a program may exceed its limit.
const GRACE: Duration = Duration::from_secs(5);

/// Time to build our programs, or to download theirs.
const BUILD: Duration = Duration::from_secs(1200);
