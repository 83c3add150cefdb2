//! The role of this program in the test, and how it finds the others.

use std::{
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
    time::Duration,
};

use interop_suites::{environment::Environment, error::Error, rendezvous::Rendezvous};
use libp2p::{Multiaddr, PeerId};

pub struct Settings {
    pub contract: Contract,
    pub role: Role,
    /// The address to listen on.
    pub ip: IpAddr,
    redis_addr: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Relay,
    Listener,
    Dialer,
}

/// The suite that has started us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contract {
    /// unified-testing: `IS_DIALER`, which the relay does not have; one value at a key for each
    /// test; YAML.
    Unified { test_key: String },
    /// test-plans: `MODE`; lists at keys for all tests; JSON. The suite has its own relay.
    TestPlans,
}

/// How the peers of a test find each other.
pub struct Meeting {
    rendezvous: Rendezvous,
    contract: Contract,
}

impl Settings {
    pub fn read(environment: &Environment) -> Result<Self, Error> {
        let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        if environment.get("MODE").is_some() {
            environment.only("TRANSPORT", "quic")?;
            return Ok(Self {
                contract: Contract::TestPlans,
                role: environment.required("MODE", "listen, dial or relay")?,
                ip: environment.optional("LISTENER_IP", "an IP address", any)?,
                redis_addr: environment.optional(
                    "REDIS_ADDR",
                    "a host and port",
                    "redis:6379".to_owned(),
                )?,
            });
        }
        environment.only("TRANSPORT", "quic-v1")?;
        let (role, ip) = if environment.get("IS_DIALER").is_none() {
            (Role::Relay, "RELAY_IP")
        } else if environment.required("IS_DIALER", "true or false")? {
            (Role::Dialer, "DIALER_IP")
        } else {
            (Role::Listener, "LISTENER_IP")
        };
        Ok(Self {
            contract: Contract::Unified {
                test_key: environment.required("TEST_KEY", "a key")?,
            },
            role,
            ip: environment.optional(ip, "an IP address", any)?,
            redis_addr: environment.required("REDIS_ADDR", "a host and port")?,
        })
    }

    pub async fn meeting(&self) -> Result<Meeting, Error> {
        Ok(Meeting {
            rendezvous: Rendezvous::connect(&self.redis_addr).await?,
            contract: self.contract.clone(),
        })
    }
}

impl FromStr for Role {
    type Err = ();

    fn from_str(mode: &str) -> Result<Self, ()> {
        match mode {
            "relay" => Ok(Self::Relay),
            "listen" => Ok(Self::Listener),
            "dial" => Ok(Self::Dialer),
            _ => Err(()),
        }
    }
}

impl Meeting {
    /// Publishes the relay's address for the two peers.
    pub async fn publish_relay(&mut self, addr: &Multiaddr) -> Result<(), Error> {
        let addr = addr.to_string();
        match &self.contract {
            Contract::Unified { test_key } => {
                let key = format!("{test_key}_relay_multiaddr");
                self.rendezvous.set(&key, &addr).await
            }
            Contract::TestPlans => {
                // Each of the two takes one.
                self.rendezvous.push(RELAY, &addr).await?;
                self.rendezvous.push(RELAY, &addr).await
            }
        }
    }

    pub async fn relay(&mut self) -> Result<Multiaddr, Error> {
        match &self.contract {
            Contract::Unified { test_key } => {
                let key = format!("{test_key}_relay_multiaddr");
                self.rendezvous.get(&key, "a multiaddress", TIMEOUT).await
            }
            Contract::TestPlans => self.rendezvous.pop(RELAY, "a multiaddress", TIMEOUT).await,
        }
    }

    /// Publishes the listener's peer ID for the dialer.
    pub async fn publish_listener(&mut self, peer_id: PeerId) -> Result<(), Error> {
        let peer_id = peer_id.to_string();
        match &self.contract {
            Contract::Unified { test_key } => {
                let key = format!("{test_key}_listener_peer_id");
                self.rendezvous.set(&key, &peer_id).await
            }
            Contract::TestPlans => self.rendezvous.push(LISTENER, &peer_id).await,
        }
    }

    pub async fn listener(&mut self) -> Result<PeerId, Error> {
        match &self.contract {
            Contract::Unified { test_key } => {
                let key = format!("{test_key}_listener_peer_id");
                self.rendezvous.get(&key, "a peer ID", TIMEOUT).await
            }
            Contract::TestPlans => self.rendezvous.pop(LISTENER, "a peer ID", TIMEOUT).await,
        }
    }
}

/// unified-testing's time limit of a test.
pub const TIMEOUT: Duration = Duration::from_secs(180);

const RELAY: &str = "RELAY_QUIC_ADDRESS";

const LISTENER: &str = "LISTEN_CLIENT_PEER_ID";
