//! The processes of one attack, each in its own network namespace, and their results.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use harness::process::Process;

use super::{
    attacker::Attacked,
    catalogue::Kind,
    client::Measured,
    lines::{Line, Order},
    victim::{Closed, Held, Window},
};
use crate::{
    LONGEST,
    flood::{PORT, network},
};

pub struct Site {
    victim: Process,
    client: Process,
    attacker: Process,
    /// The victim's address for the attacker.
    address: String,
}

/// The observations of an attack.
#[derive(Default)]
pub struct Outcome {
    pub attacked: Attacked,
    /// With a transfer at a fixed rate, and with one as fast as possible.
    pub paced: Option<(Window, Measured)>,
    pub unpaced: Option<Window>,
    pub before: Held,
    /// At the end of the attack, with the peak.
    pub after: Held,
    /// The ends of the silent peer's connections.
    pub closed: Option<Closed>,
    /// Some time after the end of connections, and when nothing was left of them.
    pub left: Option<Held>,
    pub back_after: Option<Duration>,
}

/// The durations.
#[derive(Clone, Copy)]
pub struct Plan {
    pub seconds: u64,
    pub megabytes: u64,
    /// How long to wait for events that must occur soon.
    pub patience: Duration,
}

impl Site {
    pub fn prepare() -> Result<Self> {
        let role = |words: &[&str]| Process::start(["attack-role"].iter().chain(words), LONGEST);
        let mut victim = role(&["victim"])?;
        let Line::Namespace(id) = victim.hear()? else {
            bail!("the victim has no namespace");
        };
        let id = id.to_string();
        let mut client = role(&["client", &id])?;
        let attacker = role(&["attacker", &id])?;
        let Line::Peers(peers) = client.hear()? else {
            bail!("the client has no peers");
        };
        ready(&attacker)?;
        victim.say(&Order::Listen(peers))?;
        let Line::Listening(address) = victim.hear()? else {
            bail!("the victim does not listen");
        };
        let peer = address.rsplit('/').next().unwrap_or_default();
        let server = network::ATTACKER.server;
        let attacked = format!("/ip4/{server}/udp/{PORT}/quic-v1/p2p/{peer}");
        client.say(&Order::Connect(address))?;
        ready(&client)?;
        Ok(Self {
            victim,
            client,
            attacker,
            address: attacked,
        })
    }

    pub fn attack(mut self, kind: Kind, plan: &Plan) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        self.victim.say(&Order::Treat(kind.manner()))?;
        ready(&self.victim)?;
        // Until the transfer has reached its rate.
        thread::sleep(WARM_UP);
        outcome.before = self.weigh()?;
        self.attacker.say(&Order::Prepare {
            kind,
            seconds: plan.seconds,
            address: self.address.clone(),
        })?;
        ready(&self.attacker)?;
        self.attacker.say(&Order::Begin)?;
        ready(&self.attacker)?;
        if let Kind::Silent { idle_timeout } = kind {
            let millis = plan.patience.as_millis() as u64;
            self.victim.say(&match idle_timeout {
                None => Order::Close { millis },
                Some(_) => Order::Await { millis },
            })?;
            let Line::Closed(closed) = self.hear_victim()? else {
                bail!("the victim does not close");
            };
            outcome.closed = Some(closed);
        } else {
            outcome.paced = Some(self.measure(plan.seconds, Some(plan.megabytes))?);
            if !kind.is_finite() && plan.is_long() {
                outcome.unpaced = Some(self.measure(plan.seconds, None)?.0);
            }
        }
        if kind.is_finite() {
            ready(&self.attacker)?;
        }
        if matches!(kind, Kind::Ending { .. }) {
            let end = Instant::now();
            outcome.after = self.weigh()?;
            thread::sleep(FORGET);
            outcome.left = Some(self.weigh()?);
            outcome.back_after = self.wait_for_memory(&outcome, end, plan)?;
        }
        self.attacker.say(&Order::Stop)?;
        let Line::Attacked(attacked) = self.attacker.hear()? else {
            bail!("the attacker does not tell");
        };
        outcome.attacked = attacked;
        if outcome.left.is_none() {
            outcome.after = self.weigh()?;
        }
        Ok(outcome)
    }

    fn measure(&mut self, seconds: u64, megabytes: Option<u64>) -> Result<(Window, Measured)> {
        let millis = 1000 * seconds;
        self.victim.say(&Order::Window { millis })?;
        self.client.say(&Order::Measure { millis, megabytes })?;
        let Line::Window(window) = self.hear_victim()? else {
            bail!("the victim does not measure");
        };
        let Line::Measured(measured) = self.client.hear()? else {
            bail!("the client does not measure");
        };
        Ok((window, measured))
    }

    fn weigh(&mut self) -> Result<Held> {
        self.victim.say(&Order::Weigh)?;
        let Line::Held(held) = self.hear_victim()? else {
            bail!("the victim does not tell what it holds");
        };
        Ok(held)
    }

    /// Waits until memory use is almost as before. Returns how long that took.
    fn wait_for_memory(
        &mut self,
        outcome: &Outcome,
        end: Instant,
        plan: &Plan,
    ) -> Result<Option<Duration>> {
        let few = outcome.before.bytes + super::FORGOTTEN_BYTES;
        while end.elapsed() < plan.patience {
            if self.weigh()?.bytes <= few {
                return Ok(Some(end.elapsed()));
            }
            thread::sleep(LOOK_EVERY);
        }
        Ok(None)
    }

    fn hear_victim(&mut self) -> Result<Line> {
        match self.victim.hear()? {
            Line::Exhausted(bytes) => bail!(
                "the victim has ended itself: it held {} MB",
                bytes / 1_000_000
            ),
            line => Ok(line),
        }
    }
}

impl Plan {
    pub fn is_long(&self) -> bool {
        self.seconds >= super::LONG_SECONDS
    }
}

fn ready(process: &Process) -> Result<()> {
    match process.hear()? {
        Line::Ready => Ok(()),
        line => bail!("{line:?} instead of being ready"),
    }
}

const WARM_UP: Duration = Duration::from_millis(200);

/// When ended connections must be gone.
pub const FORGET: Duration = Duration::from_secs(2);

const LOOK_EVERY: Duration = Duration::from_millis(250);
