//! Finding our addresses on the other side of a NAT (feature `nat`).
//!
//! A node behind a NAT does not know the address at which others see it. STUN servers (RFC 8489)
//! report it, if the request comes from the socket that peers should reach. This [`Behaviour`]
//! makes the transport send such requests from the sockets of its listeners, between QUIC packets.
//!
//! It reports each address to the Swarm as a candidate for an external address, not as a confirmed
//! one: AutoNAT finds out whether others can reach it. [`MappingBehaviour`] tells whether hole
//! punching can work.
//!
//! ```
//! use std::net::SocketAddr;
//!
//! use libp2p_quinn::{Config, Transport, nat};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let servers: [SocketAddr; 2] = ["192.0.2.1:3478".parse()?, "198.51.100.1:3478".parse()?];
//! let keypair = libp2p::identity::Keypair::generate_ed25519();
//! let transport = Transport::new(Config::new(&keypair));
//! let discovery = nat::Behaviour::new(&transport.handle(), nat::Config::new(servers)?);
//! let swarm = libp2p::SwarmBuilder::with_existing_identity(keypair)
//!     .with_tokio()
//!     .with_other_transport(|_| transport)?
//!     .with_behaviour(|_| discovery)?
//!     .build();
//! # let _ = swarm;
//! # Ok(())
//! # }
//! ```

mod behaviour;
mod config;

pub use self::{
    behaviour::{Behaviour, Event},
    config::Config,
};
pub use crate::proto::MappingBehaviour;
