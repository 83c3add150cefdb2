//! The client process.

use anyhow::Result;

use crate::{
    catalogue::{Kind, Scenario},
    control::{ClientLine, say},
    metric::Metrics,
    placement::{Side, runtime},
    process,
    stack::{
        Address, Endpoint, Facts, StackName,
        bare::Bare,
        floor::Floor,
        libp2p::{Libp2p, Official, Ours},
        quinn::{Aes, Chacha, Quinn},
    },
    workload::{Effort, bulk, flood, handshakes, idle, ping_pong, short_streams},
};

/// Does the workload against a server, and says what came out.
pub fn drive(stack: StackName, scenario: &Scenario, server: Address, effort: Effort) -> Result<()> {
    process::limit_time();
    process::raise_file_limit()?;
    scenario.placement.apply(Side::Client)?;
    let (metrics, facts) = match stack {
        StackName::Ours => drive_streams::<Libp2p<Ours>>(scenario, server, effort),
        StackName::Official => drive_streams::<Libp2p<Official>>(scenario, server, effort),
        StackName::QuinnAes => drive_streams::<Quinn<Aes>>(scenario, server, effort),
        StackName::QuinnChacha => drive_streams::<Quinn<Chacha>>(scenario, server, effort),
        StackName::Floor => drive_streams::<Floor>(scenario, server, effort),
        StackName::Bare => drive_streams::<Bare>(scenario, server, effort),
    }?;
    say(&ClientLine::Result { metrics, facts })
}

fn drive_streams<E: Endpoint>(
    scenario: &Scenario,
    server: Address,
    effort: Effort,
) -> Result<(Metrics, Facts)> {
    let runtime = runtime()?;
    let (kind, profile) = (scenario.kind, scenario.profile);
    // In a task, because only tasks run on the runtime's workers.
    let task = runtime.spawn(async move {
        match kind {
            Kind::Bulk(bulk) => bulk::run::<E>(bulk, profile, server, effort).await,
            Kind::PingPong { size, beside } => {
                ping_pong::run::<E>(size, beside, profile, server, effort).await
            }
            Kind::Handshakes { peers, at_once } => {
                handshakes::run::<E>(peers, at_once, profile, server, effort).await
            }
            Kind::ShortStreams => short_streams::run::<E>(profile, server, effort).await,
            Kind::Idle { connections } => {
                idle::run::<E>(connections, profile, server, effort).await
            }
            Kind::Flood => flood::run::<E>(profile, server, effort).await,
        }
    });
    runtime.block_on(task)?
}
