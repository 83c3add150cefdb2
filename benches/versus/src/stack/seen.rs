//! Our transport in a process that is watched: it writes a log, and its metrics are scraped.

use std::{io, marker::PhantomData, sync::Once, thread, time::Duration};

use anyhow::Result;
use libp2p_identity::Keypair;
use libp2p_quinn_metrics::Registry;
use prometheus_client::encoding::text::encode;
use tracing_subscriber::filter::LevelFilter;

use super::{
    Facts, Profile,
    libp2p::{Flavour, Ours},
};

/// How much is logged.
pub trait Detail: Send + Sync + 'static {
    const LEVEL: LevelFilter;
}

/// What programs log usually: nothing of a connection.
pub struct Info;

/// Also the spans of connections, and their events.
pub struct Debug;

impl Detail for Info {
    const LEVEL: LevelFilter = LevelFilter::INFO;
}

impl Detail for Debug {
    const LEVEL: LevelFilter = LevelFilter::DEBUG;
}

/// libp2p-quinn; the first transport of a process begins to log and to scrape.
pub struct Seen<D>(PhantomData<D>);

impl<D: Detail> Flavour for Seen<D> {
    type Muxer = <Ours as Flavour>::Muxer;
    type Transport = <Ours as Flavour>::Transport;
    type Probe = <Ours as Flavour>::Probe;

    fn transport(identity: &Keypair, profile: Profile) -> Result<(Self::Transport, Self::Probe)> {
        static FIRST: Once = Once::new();

        let (transport, handle) = Ours::transport(identity, profile)?;
        FIRST.call_once(|| {
            // Lines are made as for a terminal, and then thrown away.
            tracing_subscriber::fmt()
                .with_max_level(D::LEVEL)
                .with_writer(io::sink)
                .init();
            let mut registry = Registry::default();
            libp2p_quinn_metrics::register(&handle, &mut registry);
            thread::spawn(move || scrape(&registry));
        });
        Ok((transport, handle))
    }

    fn facts(handle: &Self::Probe) -> Facts {
        Ours::facts(handle)
    }
}

/// Encodes the metrics once in each second.
fn scrape(registry: &Registry) {
    let mut text = String::new();
    loop {
        text.clear();
        encode(&mut text, registry).expect("a string takes every text");
        thread::sleep(INTERVAL);
    }
}

/// Prometheus scrapes every 15 s or more rarely, unless it is told otherwise.
const INTERVAL: Duration = Duration::from_secs(1);
