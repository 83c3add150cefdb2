//! Peers and strangers that do what nobody should, each beside a transfer, pings and dials that deserve better.

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
    /// How long each attack is looked at. With less than five there are fewer attacks, connections and bytes, and
    /// nothing is waited for longer than it may take.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Megabytes that the transfer moves in each second.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    megabytes: u64,
    /// Runs these attacks only; their names are those in front of the figures.
    #[arg(long)]
    only: Vec<String>,
    /// Where to write `attack.toml`.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Figures to stand beside these in the page, as `--out` has written them.
    #[arg(long, requires = "page")]
    before: Option<PathBuf>,
    /// Where to write the figures in Markdown.
    #[arg(long)]
    page: Option<PathBuf>,
}

/// The processes of an attack, which starts them. The two others are given the victim's process.
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
        // It takes a while.
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

    /// Those that are to run, and first of all what they are compared with.
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

/// What a row of the table may name.
pub fn names() -> impl Iterator<Item = &'static str> {
    ATTACKS.iter().map(|attack| attack.name)
}

/// With so many there is time for all that an attack can do.
const LONG_SECONDS: u64 = 5;

/// A little more than anything may take.
const SHORT_PATIENCE: Duration = Duration::from_millis(3500);

/// More than three times the longest delay of acknowledgements.
const LONG_PATIENCE: Duration = Duration::from_secs(60);

/// What may be left of connections that are over: caches, and what lists have grown to.
const FORGOTTEN_BYTES: u64 = 4 * 1024 * 1024;

/// What streams begin with that are echoed, and those of the transfer.
const ECHO: u8 = 0xec;
const TRANSFER: u8 = 0x5a;
