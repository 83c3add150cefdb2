//! The transport test of unified-testing, and of its predecessor test-plans: one peer dials the
//! other and pings it.

use std::{net::IpAddr, process::ExitCode, time::Duration};

use futures::StreamExt;
use interop_suites::{
    environment::Environment,
    error::Error,
    latency::Latency,
    node,
    program::{self, within},
    rendezvous::Rendezvous,
};
use libp2p::{Multiaddr, Swarm, identity::Keypair, ping, swarm::SwarmEvent};
use tokio::time::Instant;

#[tokio::main]
async fn main() -> ExitCode {
    program::run(test).await
}

struct Settings {
    contract: Contract,
    is_dialer: bool,
    redis_addr: String,
    /// The Redis key of the list of the listener's addresses.
    key: String,
    listener_ip: IpAddr,
    timeout: Duration,
}

/// The suite that has started us; the suites differ in names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contract {
    /// unified-testing: variables in upper case, a key for each test, YAML.
    Unified,
    /// test-plans: variables in lower case, one key, JSON.
    TestPlans,
}

async fn test(environment: Environment) -> Result<(), Error> {
    let settings = Settings::read(&environment)?;
    let mut rendezvous = Rendezvous::connect(&settings.redis_addr).await?;
    let mut swarm = node::swarm(Keypair::generate_ed25519(), |_| ping::Behaviour::default());
    if settings.is_dialer {
        let latency = within(
            settings.timeout,
            dial(&settings, &mut rendezvous, &mut swarm),
        )
        .await?;
        program::print(&match settings.contract {
            Contract::Unified => latency.yaml(),
            Contract::TestPlans => latency.json(),
        })
    } else {
        let addr = node::listen(&mut swarm, settings.listener_ip, 0).await?;
        rendezvous.push(&settings.key, &addr.to_string()).await?;
        match settings.contract {
            Contract::Unified => node::serve(&mut swarm).await,
            Contract::TestPlans => within(settings.timeout, node::serve(&mut swarm)).await,
        }
    }
}

async fn dial(
    settings: &Settings,
    rendezvous: &mut Rendezvous,
    swarm: &mut Swarm<ping::Behaviour>,
) -> Result<Latency, Error> {
    let addr: Multiaddr = rendezvous
        .pop(&settings.key, "a multiaddress", settings.timeout)
        .await?;
    let start = Instant::now();
    let (peer_id, dialled) = node::dial(swarm, addr).await?;
    let latency = loop {
        match swarm.select_next_some().await {
            SwarmEvent::Behaviour(ping::Event {
                connection, result, ..
            }) if connection == dialled => {
                let ping_rtt = result?;
                break Latency {
                    handshake_plus_one_rtt: start.elapsed(),
                    ping_rtt,
                };
            }
            SwarmEvent::ConnectionClosed { connection_id, .. } if connection_id == dialled => {
                return Err(Error::Disconnected);
            }
            event => tracing::debug!(?event, "waiting for the pong"),
        }
    };
    node::close(swarm, peer_id).await;
    Ok(latency)
}

impl Settings {
    fn read(environment: &Environment) -> Result<Self, Error> {
        if environment.get("IS_DIALER").is_some() {
            environment.only("TRANSPORT", "quic-v1")?;
            let test_key: String = environment.required("TEST_KEY", "a key")?;
            Ok(Self {
                contract: Contract::Unified,
                is_dialer: environment.required("IS_DIALER", "true or false")?,
                redis_addr: environment.required("REDIS_ADDR", "a host and port")?,
                key: format!("{test_key}_listener_multiaddr"),
                listener_ip: environment.optional("LISTENER_IP", "an IP address", ANY)?,
                timeout: TIMEOUT,
            })
        } else if environment.get("is_dialer").is_some() {
            environment.only("transport", "quic-v1")?;
            let timeout =
                environment.optional("test_timeout_seconds", "a number", TIMEOUT.as_secs())?;
            Ok(Self {
                contract: Contract::TestPlans,
                is_dialer: environment.required("is_dialer", "true or false")?,
                redis_addr: environment.optional(
                    "redis_addr",
                    "a host and port",
                    "redis:6379".to_owned(),
                )?,
                key: "listenerAddr".to_owned(),
                listener_ip: environment.optional("ip", "an IP address", ANY)?,
                timeout: Duration::from_secs(timeout),
            })
        } else {
            Err(Error::Missing("IS_DIALER"))
        }
    }
}

const ANY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

/// The suites' time limit of a test.
const TIMEOUT: Duration = Duration::from_secs(180);
