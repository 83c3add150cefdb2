//! The perf test of unified-testing: variables in upper case, a key for each test, YAML.

use std::{
    net::{IpAddr, Ipv4Addr},
    num::NonZeroU32,
};

use interop_suites::{
    environment::Environment,
    error::Error,
    latency::millis,
    node,
    program::{self, within},
    rendezvous::Rendezvous,
};
use libp2p::{Multiaddr, PeerId, Swarm, identity::Keypair};

use crate::{
    Behaviour, TIMEOUT,
    codec::{Codec, Header, Request},
    measure, serve,
    statistics::{Statistics, Unit},
};

pub async fn test(environment: &Environment, header: Header) -> Result<(), Error> {
    environment.only("TRANSPORT", "quic-v1")?;
    let is_dialer: bool = environment.required("IS_DIALER", "true or false")?;
    let redis_addr: String = environment.required("REDIS_ADDR", "a host and port")?;
    let test_key: String = environment.required("TEST_KEY", "a key")?;
    let key = format!("{test_key}_listener_multiaddr");
    let mut swarm = crate::swarm(Keypair::generate_ed25519(), Codec::new(header));
    if is_dialer {
        let plan = Plan::read(environment)?;
        let result = within(TIMEOUT, async {
            let mut rendezvous = Rendezvous::connect(&redis_addr).await?;
            let addr: Multiaddr = rendezvous.get(&key, "a multiaddress", TIMEOUT).await?;
            let (peer_id, _) = node::dial(&mut swarm, addr).await?;
            let result = plan.run(&mut swarm, peer_id).await?;
            node::close(&mut swarm, peer_id).await;
            Ok(result)
        })
        .await?;
        program::print(&result)
    } else {
        let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let ip = environment.optional("LISTENER_IP", "an IP address", any)?;
        let mut rendezvous = Rendezvous::connect(&redis_addr).await?;
        let addr = node::listen(&mut swarm, ip, 0).await?;
        rendezvous.set(&key, &addr.to_string()).await?;
        serve(&mut swarm).await
    }
}

/// The measurements to make.
struct Plan {
    upload_bytes: u64,
    download_bytes: u64,
    upload_iterations: NonZeroU32,
    download_iterations: NonZeroU32,
    latency_iterations: NonZeroU32,
}

impl Plan {
    fn read(environment: &Environment) -> Result<Self, Error> {
        let iterations =
            |name, default| environment.optional(name, "a number of at least 1", default);
        Ok(Self {
            upload_bytes: environment.optional("UPLOAD_BYTES", "a number", BYTES)?,
            download_bytes: environment.optional("DOWNLOAD_BYTES", "a number", BYTES)?,
            upload_iterations: iterations("UPLOAD_ITERATIONS", ITERATIONS)?,
            download_iterations: iterations("DOWNLOAD_ITERATIONS", ITERATIONS)?,
            latency_iterations: iterations("LATENCY_ITERATIONS", LATENCY_ITERATIONS)?,
        })
    }

    /// Runs all measurements, and returns the result.
    async fn run(&self, swarm: &mut Swarm<Behaviour>, peer_id: PeerId) -> Result<String, Error> {
        let upload = Request {
            upload: self.upload_bytes,
            download: 0,
        };
        let download = Request {
            upload: 0,
            download: self.download_bytes,
        };
        let latency = Request {
            upload: 1,
            download: 1,
        };
        let mut sections = Vec::new();
        for (name, request, iterations, unit) in [
            ("upload", upload, self.upload_iterations, Unit::Gbps),
            ("download", download, self.download_iterations, Unit::Gbps),
            (
                "latency",
                latency,
                self.latency_iterations,
                Unit::Milliseconds,
            ),
        ] {
            tracing::info!(name, iterations, "measuring");
            let mut samples = Vec::new();
            for _ in 0..iterations.get() {
                let took = measure(swarm, peer_id, request).await?;
                samples.push(match unit {
                    Unit::Gbps => {
                        (request.upload + request.download) as f64 * 8.0 / 1e9 / took.as_secs_f64()
                    }
                    Unit::Milliseconds => millis(took),
                });
            }
            if let Some((&first, more)) = samples.split_first() {
                sections.push(Statistics::of(first, more.iter().copied()).yaml(name, unit));
            }
        }
        Ok(sections.join("\n"))
    }
}

const BYTES: u64 = 1 << 30;

const ITERATIONS: NonZeroU32 = NonZeroU32::MIN.saturating_add(9);

const LATENCY_ITERATIONS: NonZeroU32 = NonZeroU32::MIN.saturating_add(99);
