//! One measurement: the processes that one stack, workload and round take.

use anyhow::{Result, bail};
use harness::process::Process;

use crate::{
    catalogue::{Kind, Network, Scenario},
    control::{ClientLine, ServerLine},
    go,
    limits::LONGEST,
    metric::{Metric, Metrics},
    network::{Buffers, Place, Places},
    relay::Relay,
    stack::{Facts, Profile, StackName},
    workload::Effort,
};

/// What a workload needs that not every machine has.
pub struct Preparation {
    places: Places,
}

impl Preparation {
    pub fn of(scenario: &Scenario) -> Result<Self> {
        if let Kind::Go(_) = scenario.kind {
            go::check_built()?;
        }
        let places = match scenario.network {
            Network::Loopback => Places::loopback(),
            Network::Ethernet => Places::ethernet()?,
            Network::Relayed(_) => Places::relayed(match scenario.profile {
                Profile::StockBuffers => Buffers::Default,
                Profile::Equalised | Profile::Shipped => Buffers::Large,
            })?,
        };
        Ok(Self { places })
    }

    /// `seed` decides what a link loses.
    pub fn measure(
        &self,
        stack: StackName,
        scenario: &Scenario,
        effort: Effort,
        seed: u32,
    ) -> Result<(Metrics, Option<Facts>)> {
        if let Kind::Go(dialer) = scenario.kind {
            return Ok((go::measure(stack, dialer, effort)?, None));
        }
        let words = |role: &str, place: &Place| {
            let mut words = vec![
                role.to_owned(),
                stack.name().to_owned(),
                scenario.name.clone(),
            ];
            words.extend(place.arguments());
            words
        };
        let link = match scenario.network {
            Network::Relayed(link) => {
                let dropped = self.places.dropped()?;
                Some((Relay::start(&self.places, link, seed.into())?, dropped))
            }
            Network::Loopback | Network::Ethernet => None,
        };
        if let (StackName::Go, Kind::Link { write, .. }, Some((_, before))) =
            (stack, scenario.kind, &link)
        {
            let mut metrics = go::measure_link(&self.places, write, effort)?;
            self.note_dropped(&mut metrics, *before)?;
            return Ok((metrics, None));
        }
        let mut server = Process::start(words("serve", &self.places.server), LONGEST)?;
        let ServerLine::Listening(address) = server.hear()? else {
            bail!("the server says something else than its address");
        };
        let mut arguments = words("drive", &self.places.client);
        arguments.push(address);
        arguments.extend(effort.arguments());
        let mut client = Process::start(arguments, LONGEST)?;
        loop {
            match client.hear()? {
                ClientLine::Checkpoint => {
                    server.say("mark")?;
                    let ServerLine::Mark(mark) = server.hear()? else {
                        bail!("the server says something else than what it has used");
                    };
                    client.say(&mark)?;
                }
                ClientLine::Result { mut metrics, facts } => {
                    if let Some((_, before)) = link {
                        self.note_dropped(&mut metrics, before)?;
                    }
                    return Ok((metrics, Some(facts)));
                }
            }
        }
    }

    /// Adds what was dropped after `before` packets, because the relay did not take it in time.
    fn note_dropped(&self, metrics: &mut Metrics, before: u64) -> Result<()> {
        let dropped = self.places.dropped()? - before;
        metrics.insert(Metric::DroppedBeforeLink, dropped as f64);
        Ok(())
    }
}
