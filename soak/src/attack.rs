//! Attacks by peers and strangers, each with a transfer, pings and dials of honest clients at the
//! same time.

mod attacker;
mod catalogue;
mod client;
mod judge;
mod lines;
mod machine;
mod page;
mod site;
mod victim;

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use self::{
    catalogue::{ATTACKS, Attack},
    judge::{Alone, Judge},
    site::{Plan, Site},
};
use crate::figures::Figures;

#[derive(Args)]
pub struct Options {
    /// Seconds that each attack lasts. With fewer than five there are fewer attacks, connections
    /// and bytes, and no wait lasts longer than its step may take.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Megabytes that the transfer moves in each second.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    megabytes: u64,
    /// Runs only these attacks, by the names at the beginning of the figures.
    #[arg(long)]
    only: Vec<String>,
    /// Where to write `attack.toml`.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Earlier figures to show next to these in the page, as written with `--out`.
    #[arg(long, requires = "page")]
    before: Option<PathBuf>,
    /// Where to write the figures in Markdown.
    #[arg(long)]
    page: Option<PathBuf>,
}

/// The processes of an attack, which starts them. The other two are given the victim's process ID.
#[derive(Subcommand)]
pub enum Role {
    Victim,
    Client { victim: u32 },
    Attacker { victim: u32 },
}

impl Role {
    pub fn run(&self) -> Result<()> {
        match *self {
            Self::Victim => victim::run(),
            Self::Client { victim } => client::run(victim),
            Self::Attacker { victim } => attacker::run(victim),
        }
    }
}

pub fn run(options: &Options) -> Result<bool> {
    let plan = options.plan();
    let mut figures = Figures::new(options.command())?;
    machine::tell(&mut figures)?;
    let mut alone = Alone::default();
    for attack in options.attacks()? {
        // Progress, because an attack takes a while.
        eprintln!("{}", attack.name);
        let outcome = Site::prepare().and_then(|site| site.attack(attack.kind, &plan));
        let mut judge = Judge::new(&mut figures, attack, &plan, &alone);
        match outcome {
            Ok(outcome) if attack.kind == catalogue::Kind::Nothing => alone = judge.alone(&outcome),
            Ok(outcome) => judge.judge(&outcome),
            Err(error) => judge.failed(&error),
        }
    }
    machine::tell_load(&mut figures, "load of the machine at the end")?;
    figures.print();
    if let Some(out) = &options.out {
        figures.write(&out.join("attack.toml"))?;
    }
    if let Some(page) = &options.page {
        let before = options.before.as_deref().map(Figures::read).transpose()?;
        page::write(page, before.flatten().as_ref(), &figures)?;
    }
    Ok(figures.all_met())
}

impl Options {
    fn plan(&self) -> Plan {
        let mut plan = Plan {
            seconds: self.seconds,
            megabytes: self.megabytes,
            patience: SHORT_PATIENCE,
        };
        if plan.is_long() {
            plan.patience = LONG_PATIENCE;
        }
        plan
    }

    /// The attacks to run. The first is the one with which the others are compared.
    fn attacks(&self) -> Result<Vec<&'static Attack>> {
        for name in &self.only {
            if ATTACKS.iter().all(|attack| attack.name != name) {
                let names: Vec<_> = ATTACKS.iter().map(|attack| attack.name).collect();
                bail!("there is no attack {name:?}, but {}", names.join(", "));
            }
        }
        let is_wanted = |attack: &&Attack| {
            let is_brief = self.only.is_empty() && !self.plan().is_long();
            attack.kind == catalogue::Kind::Nothing
                || self.only.iter().any(|name| name == attack.name)
                || self.only.is_empty() && !(is_brief && attack.is_variant)
        };
        Ok(ATTACKS.iter().filter(is_wanted).collect())
    }

    fn command(&self) -> String {
        let only = self.only.iter().map(|name| format!(" --only {name:?}"));
        format!(
            "soak attack --seconds {} --megabytes {}{}",
            self.seconds,
            self.megabytes,
            only.collect::<String>()
        )
    }
}

/// The names that a row of the table may use.
pub fn names() -> impl Iterator<Item = &'static str> {
    ATTACKS.iter().map(|attack| attack.name)
}

/// With this many seconds there is time for everything that an attack does.
const LONG_SECONDS: u64 = 5;

/// A little more than anything may take.
const SHORT_PATIENCE: Duration = Duration::from_millis(3500);

/// More than three times the largest `max_ack_delay`.
const LONG_PATIENCE: Duration = Duration::from_secs(60);

/// Bytes that may be left of ended connections: caches, and the capacity of lists.
const FORGOTTEN_BYTES: u64 = 4 * 1024 * 1024;

/// First bytes of streams to be echoed, and of the transfer.
const ECHO: u8 = 0xec;
const TRANSFER: u8 = 0x5a;
