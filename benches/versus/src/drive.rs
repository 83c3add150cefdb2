//! The client process.

use anyhow::{Result, bail};
use harness::process::{answer, limit_time};

use crate::{
    catalogue::{Kind, Scenario},
    control::ClientLine,
    limits::{LONGEST, raise_file_limit},
    metric::Metrics,
    network::Place,
    placement::{Side, runtime},
    stack::{
        Address, Endpoint, Facts, Setup, StackName,
        bare::Bare,
        floor::Floor,
        libp2p::{Flavour, Libp2p, Official, Ours, OursBbr},
        quinn::{Aes, Chacha, Quinn},
        seen::{Debug, Info, Seen},
        tcp::{Bbr, Cubic, Tcp},
    },
    workload::{
        Effort, bulk, close, flood, handshakes, idle, link, ping_pong, short_streams, swarm,
    },
};

/// Runs the workload against a server and prints the result.
pub fn drive(
    stack: StackName,
    scenario: &Scenario,
    server: Address,
    effort: Effort,
    place: &Place,
) -> Result<()> {
    scenario.placement.apply(Side::Client)?;
    place.enter()?;
    let setup = Setup {
        profile: scenario.profile,
        ip: place.ip,
    };
    limit_time(LONGEST);
    raise_file_limit()?;
    let kind = scenario.kind;
    let (metrics, facts) = match stack {
        StackName::Ours => drive_libp2p::<Ours>(kind, setup, server, effort),
        StackName::OursSeen => drive_libp2p::<Seen<Info>>(kind, setup, server, effort),
        StackName::OursTraced => drive_libp2p::<Seen<Debug>>(kind, setup, server, effort),
        StackName::OursBbr => drive_libp2p::<OursBbr>(kind, setup, server, effort),
        StackName::Official => drive_libp2p::<Official>(kind, setup, server, effort),
        StackName::QuinnAes => drive_streams::<Quinn<Aes>>(kind, setup, server, effort),
        StackName::QuinnChacha => drive_streams::<Quinn<Chacha>>(kind, setup, server, effort),
        StackName::Floor => drive_streams::<Floor>(kind, setup, server, effort),
        StackName::Bare => drive_streams::<Bare>(kind, setup, server, effort),
        StackName::TcpCubic => drive_streams::<Tcp<Cubic>>(kind, setup, server, effort),
        StackName::TcpBbr => drive_streams::<Tcp<Bbr>>(kind, setup, server, effort),
        StackName::Go => bail!("go-libp2p has programs of its own"),
    }?;
    answer(&ClientLine::Result { metrics, facts })
}

/// Runs a workload over a libp2p transport, which can run more of them than the other stacks.
fn drive_libp2p<F: Flavour>(
    kind: Kind,
    setup: Setup,
    server: Address,
    effort: Effort,
) -> Result<(Metrics, Facts)> {
    match kind {
        Kind::Close { closing, at_once } => {
            in_task(close::run::<F>(closing, at_once, setup, server, effort))
        }
        Kind::Swarm(work) => in_task(swarm::run::<F>(work, setup, server, effort)),
        _ => drive_streams::<Libp2p<F>>(kind, setup, server, effort),
    }
}

fn drive_streams<E: Endpoint>(
    kind: Kind,
    setup: Setup,
    server: Address,
    effort: Effort,
) -> Result<(Metrics, Facts)> {
    in_task(async move {
        match kind {
            Kind::Bulk(bulk) => bulk::run::<E>(bulk, setup, server, effort).await,
            Kind::PingPong { size, beside } => {
                ping_pong::run::<E>(size, beside, setup, server, effort).await
            }
            Kind::Handshakes { peers, at_once } => {
                handshakes::run::<E>(peers, at_once, setup, server, effort).await
            }
            Kind::ShortStreams => short_streams::run::<E>(setup, server, effort).await,
            Kind::Idle { connections } => idle::run::<E>(connections, setup, server, effort).await,
            Kind::Link { write, .. } => link::run::<E>(write, setup, server, effort).await,
            Kind::Close { .. } | Kind::Swarm(_) => bail!("only libp2p's transports do that"),
            Kind::Go(_) => bail!("go-libp2p has programs of its own"),
            Kind::Flood => flood::run::<E>(setup, server, effort).await,
        }
    })
}

/// Runs a future in a task, because only tasks run on the worker threads of the runtime.
fn in_task<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    let runtime = runtime()?;
    let task = runtime.spawn(work);
    runtime.block_on(task)?
}
