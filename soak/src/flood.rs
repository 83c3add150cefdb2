//! Floods of first packets, with dials and a transfer of honest clients at the same time.

mod attacker;
mod client;
pub mod dialer;
mod hello;
mod lines;
pub mod network;
mod pace;
pub mod packets;
mod proving;
pub mod server;
pub mod wire;

use std::{collections::HashMap, net::SocketAddrV4, path::PathBuf, time::Duration};

use anyhow::{Result, bail, ensure};
use clap::{Args, Subcommand};
use harness::process::Process;
use tokio::runtime::Runtime;

use self::{
    attacker::{Attacked, Kind},
    client::Measured,
    hello::Id,
    lines::{Line, Order},
    server::{Policy, Served},
};
use crate::{LONGEST, figures::Figures};

#[derive(Args)]
pub struct Options {
    /// How long each of the three floods lasts.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=120))]
    seconds: u64,
    /// Datagrams of a flood in each second.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    rate: u64,
    /// Legitimate dials in each second.
    #[arg(long, default_value_t = 70, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    dials: u64,
    /// Megabytes that the established transfer moves in each second. 0 sets no limit: the figures
    /// then vary a great deal.
    #[arg(long, default_value_t = 100)]
    megabytes: u64,
    /// When the server asks for a proof of address.
    #[arg(long, value_enum, default_value_t = Policy::Default)]
    policy: Policy,
    /// Where to write `flood.toml`.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// The processes of a flood; the flood starts them.
#[derive(Subcommand)]
pub enum Role {
    Server(server::Options),
    Client(client::Options),
    Attacker(attacker::Options),
}

impl Role {
    pub fn run(&self) -> Result<()> {
        match self {
            Self::Server(options) => server::run(options),
            Self::Client(options) => client::run(options),
            Self::Attacker(options) => attacker::run(options),
        }
    }
}

pub fn run(options: &Options) -> Result<bool> {
    let mut site = Site::prepare(options)?;
    let mut figures = Figures::new(options.command())?;
    let few: [(Kind, Judge); 3] = [
        (Kind::Spoofed, judge_few),
        (Kind::Strange, judge_strange),
        (Kind::Fragments, judge_fragments),
    ];
    for (kind, judge) in few {
        let (attacked, served) = site.begin(kind, FEW, FEW_PER_SECOND)?.end()?;
        judge(&mut figures, &attacked, &served);
    }
    let alone = site.measure(options)?;
    figures.tell("transfer without a flood", rate(&alone));
    figures.tell("dials without a flood", dials(&alone));
    let count = usize::try_from(options.seconds * options.rate)?;
    let floods = [
        ("spoofed", Kind::Spoofed),
        ("one address", Kind::Unspoofed),
        ("proven addresses", Kind::Proven),
    ];
    for (name, kind) in floods {
        let attack = site.begin(kind, count, options.rate)?;
        let beside = attack.site.measure(options)?;
        let (attacked, served) = attack.end()?;
        judge_flood(&mut figures, name, &alone, &beside, &attacked, &served);
        if kind == Kind::Proven {
            judge_proven(&mut figures, name, &attacked, &served);
        }
    }
    figures.print();
    if let Some(out) = &options.out {
        figures.write(&out.join("flood.toml"))?;
    }
    Ok(figures.all_met())
}

/// The processes, each in its own network namespace, with an upload in progress.
struct Site {
    server: Process,
    client: Process,
    attacker: Process,
}

/// An attack in progress.
struct Attack<'a> {
    site: &'a mut Site,
}

/// What an attacker has sent.
#[derive(Default)]
struct Sent {
    datagrams: u64,
    /// Those with a token.
    proven: u64,
    /// UDP payload that counts for the amplification limit, by source address.
    addresses: HashMap<SocketAddrV4, u64>,
    /// The same for the other connections, if some connections prove their source addresses.
    unproven: HashMap<Id, u64>,
    time: Duration,
}

type Judge = fn(&mut Figures, &Attacked, &Served);

impl Site {
    fn prepare(options: &Options) -> Result<Self> {
        let role = |words: &[&str]| Process::start(["role"].iter().chain(words), LONGEST);
        let mut server = role(&["server", options.policy.name()])?;
        let Line::Namespace(id) = server.hear()? else {
            bail!("the server has no namespace");
        };
        let id = id.to_string();
        let mut client = role(&["client", &id, &options.megabytes.to_string()])?;
        ready(&client)?;
        let prepared = 2 * options.seconds * options.rate + 3 * FEW as u64;
        ensure!(
            prepared <= MOST,
            "at most {MOST} packets are kept in memory"
        );
        let attacker = role(&["attacker", &id, &prepared.to_string()])?;
        ready(&attacker)?;
        server.say(&Order::Listen)?;
        let Line::Listening(address) = server.hear()? else {
            bail!("the server does not listen");
        };
        client.say(&Order::Upload(address))?;
        ready(&client)?;
        Ok(Self {
            server,
            client,
            attacker,
        })
    }

    fn begin(&mut self, kind: Kind, count: usize, per_second: u64) -> Result<Attack<'_>> {
        self.served()?;
        self.attacker.say(&Order::Attack {
            kind,
            count,
            per_second,
        })?;
        ready(&self.attacker)?;
        Ok(Attack { site: self })
    }

    fn measure(&mut self, options: &Options) -> Result<Measured> {
        self.client.say(&Order::Measure {
            seconds: options.seconds,
            per_second: options.dials,
        })?;
        let Line::Measured(measured) = self.client.hear()? else {
            bail!("the client does not measure");
        };
        Ok(measured)
    }

    fn served(&mut self) -> Result<Served> {
        self.server.say(&Order::Tell)?;
        let Line::Served(served) = self.server.hear()? else {
            bail!("the server does not tell");
        };
        Ok(served)
    }
}

impl Attack<'_> {
    /// Waits until the last packet is sent, and then until the server has given up the handshakes.
    fn end(self) -> Result<(Attacked, Served)> {
        ready(&self.site.attacker)?;
        let Line::Attacked(attacked) = self.site.attacker.hear()? else {
            bail!("the attacker does not tell");
        };
        Ok((attacked, self.site.served()?))
    }
}

impl Options {
    fn command(&self) -> String {
        format!(
            "soak flood --seconds {} --rate {} --dials {} --megabytes {} --policy {}",
            self.seconds,
            self.rate,
            self.dials,
            self.megabytes,
            self.policy.name()
        )
    }
}

fn judge_flood(
    figures: &mut Figures,
    name: &str,
    alone: &Measured,
    beside: &Measured,
    attacked: &Attacked,
    served: &Served,
) {
    let sent = attacked.sent_per_second;
    figures.tell(&format!("{name}: datagrams sent"), format!("{sent:.0}/s"));
    figures.demand(
        &format!("{name}: dials succeeded"),
        dials(beside),
        &format!("at least {DIALS_PERCENT} %"),
        percent(beside.succeeded as f64, beside.dials as f64) >= DIALS_PERCENT,
    );
    for failure in beside.failures.iter().take(5) {
        eprintln!("{name}: {failure}");
    }
    let kept = percent(
        beside.uploaded as f64 / beside.seconds,
        alone.uploaded as f64 / alone.seconds,
    );
    figures.demand(
        &format!("{name}: transfer kept"),
        format!("{kept:.1} %, {}", rate(beside)),
        &format!("at least {KEPT_PERCENT} %"),
        kept >= KEPT_PERCENT,
    );
    judge_amplification(figures, name, attacked);
    let answer = format!(
        "{} answers to {} addresses; {} Retry packets, {} handshakes completed, {} failed, {} refused, \
         {} dropped, {} because their source had too many, {} lost in full socket buffers",
        attacked.answers,
        attacked.answered_addresses,
        served.retries,
        served.completed,
        served.failed,
        served.refused,
        served.dropped,
        served.dropped_source_full,
        served.overrun
    );
    figures.tell(&format!("{name}: the server"), answer);
    let cpu = |time: Duration| format!("{:.1} s", time.as_secs_f64());
    let both = format!("{} server, {} client", cpu(served.cpu), cpu(beside.cpu));
    figures.tell(&format!("{name}: CPU time"), both);
}

/// Checks that the attack took place at all.
fn judge_proven(figures: &mut Figures, name: &str, attacked: &Attacked, served: &Served) {
    let addresses = attacked.answered_addresses;
    figures.demand(
        &format!("{name}: datagrams with a proof"),
        format!(
            "{} of {}, from {addresses} addresses",
            attacked.proven, attacked.sent
        ),
        &format!("at least half, from {} addresses", proving::ADDRESSES),
        2 * attacked.proven >= attacked.sent && addresses == proving::ADDRESSES as u64,
    );
    figures.demand(
        &format!("{name}: handshakes left unfinished"),
        served.failed,
        &format!("at least {UNFINISHED}"),
        served.failed >= UNFINISHED,
    );
}

/// Row 5: below the threshold for Retry packets, where a whole flight goes to the claimed source
/// address.
fn judge_few(figures: &mut Figures, attacked: &Attacked, served: &Served) {
    judge_amplification(figures, "few", attacked);
    figures.demand(
        "few: addresses answered",
        format!(
            "{}, with {} Retry packets",
            attacked.answered_addresses, served.retries
        ),
        &format!("at least {ANSWERED} of {FEW}"),
        attacked.answered_addresses >= ANSWERED,
    );
    figures.demand(
        "few: answers that a router may fragment",
        attacked.fragmentable,
        "0",
        attacked.fragmentable == 0,
    );
    figures.demand(
        "few: Initial packets answered with less than 1200 bytes",
        attacked.short,
        "0",
        attacked.short == 0,
    );
}

/// Row 6.
fn judge_strange(figures: &mut Figures, attacked: &Attacked, served: &Served) {
    let answered = attacked.answers + attacked.uncalled;
    // To a host that does not know the subnet, its broadcast address looks like any other; the
    // kernel refuses to send answers there.
    let value = format!(
        "{answered}; {} sent, {} dropped by the server, {} taken, the others dropped by the kernel",
        attacked.sent, served.martian, served.incoming
    );
    let met = answered == 0 && served.martian > 0;
    figures.demand("strange sources: answers", value, "0", met);
}

/// Row 26.
fn judge_fragments(figures: &mut Figures, attacked: &Attacked, _: &Served) {
    judge_amplification(figures, "fragments", attacked);
    let half = FEW as u64 / 2;
    let wanted = ANSWERED / 2;
    figures.demand(
        "fragments: addresses answered",
        format!(
            "{}, and {} answers to those without their second half",
            attacked.answered_addresses, attacked.uncalled
        ),
        &format!("at least {wanted} of {half}, and 0"),
        attacked.answered_addresses >= wanted && attacked.uncalled == 0,
    );
}

fn judge_amplification(figures: &mut Figures, name: &str, attacked: &Attacked) {
    // The packet socket may have missed packets of any kind.
    let complete = attacked.seen as f64 >= attacked.counted as f64 * COMPLETE;
    figures.demand(
        &format!("{name}: bytes sent for each byte received"),
        format!(
            "{:.2} at most, {:.2} on average; {} of {} packets seen",
            attacked.worst_ratio, attacked.mean_ratio, attacked.seen, attacked.counted
        ),
        &format!("at most {MOST_BYTES}, at each address"),
        complete && attacked.uncalled == 0 && attacked.worst_ratio <= MOST_BYTES,
    );
}

fn ready(process: &Process) -> Result<()> {
    match process.hear()? {
        Line::Ready => Ok(()),
        line => bail!("{line:?} instead of being ready"),
    }
}

fn rate(measured: &Measured) -> String {
    format!(
        "{:.0} MB/s",
        measured.uploaded as f64 / measured.seconds / 1e6
    )
}

fn dials(measured: &Measured) -> String {
    format!(
        "{:.2} %, {} of {}; {:.1} ms median, {:.1} ms for 99 %, {:.1} ms at most",
        percent(measured.succeeded as f64, measured.dials as f64),
        measured.succeeded,
        measured.dials,
        measured.median_ms,
        measured.p99_ms,
        measured.slowest_ms
    )
}

fn percent(part: f64, whole: f64) -> f64 {
    100.0 * part / whole
}

pub fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?)
}

/// The names that a row of the table may use: the beginnings of the figures' names.
pub const PARTS: [&str; 6] = [
    "few",
    "fragments",
    "one address",
    "proven addresses",
    "spoofed",
    "strange sources",
];

/// The server's port.
pub const PORT: u16 = 4001;

pub const SERVER: SocketAddrV4 = SocketAddrV4::new(network::ATTACKER.server, PORT);

/// Packets without a flood, and their rate, below the server's threshold for Retry packets.
const FEW: usize = 120;
const FEW_PER_SECOND: u64 = 200;

/// The rest may be lost in a full buffer.
const ANSWERED: u64 = 110;

/// The least that must be left under a flood.
const DIALS_PERCENT: f64 = 99.9;
const KEPT_PERCENT: f64 = 80.0;

/// Three quarters of a server's places.
const UNFINISHED: u64 = 768;

/// RFC 9000 §8.1.
const MOST_BYTES: f64 = 3.0;

/// The rest is ARP and IPv6, which the interface counts as well.
const COMPLETE: f64 = 0.9;

/// Packets of 1.2 KB, which the attacker prepares.
const MOST: u64 = 2_000_000;

// The time of a flood includes preparing its packets.
const _: () = assert!(LONGEST.as_secs() >= 600);
