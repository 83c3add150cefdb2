//! [`libp2p_quinn`], a QUIC transport, for libp2p 0.56.
//!
//! libp2p-quinn implements the traits of libp2p-core 0.44, which belongs to libp2p 0.57. This crate
//! passes them on as those of libp2p-core 0.43, which have the same methods. It converts addresses,
//! peer IDs and the numbers of listeners; streams need no conversion.
//!
//! In a `SwarmBuilder` it takes the place of `.with_quic()`:
//!
//! ```
//! use libp2p::{noise, ping, tcp, yamux};
//! use libp2p_quinn_056::{Transport, libp2p_quinn::Config, newer};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut handle = None;
//! let mut swarm = libp2p::SwarmBuilder::with_new_identity()
//!     .with_tokio()
//!     .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)?
//!     .with_other_transport(|key| {
//!         let transport = Transport::new(Config::new(&newer::keypair(key)?));
//!         // For statistics, rebinding and a graceful end.
//!         handle = Some(transport.handle());
//!         Ok(transport)
//!     })?
//!     .with_behaviour(|_| ping::Behaviour::default())?
//!     .build();
//! swarm.listen_on("/ip4/127.0.0.1/udp/0/quic-v1".parse()?)?;
//! swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse()?)?;
//! # assert_eq!(handle.expect("a transport").transport_stats().dials, 0);
//! # Ok(())
//! # }
//! ```
//!
//! # What takes which version
//!
//! [`Config`](libp2p_quinn::Config), [`Handle`](libp2p_quinn::Handle) and the errors are those of
//! libp2p-quinn, so they use the peer IDs and addresses of libp2p 0.57. [`newer`] makes such
//! values, and [`older`] makes values of libp2p 0.56 from them:
//!
//! ```
//! use libp2p::identity::PeerId;
//! use libp2p_quinn_056::{libp2p_quinn::Handle, newer, older};
//!
//! /// Closes all QUIC connections to a peer of a Swarm.
//! fn close(handle: &Handle, peer_id: &PeerId) {
//!     for connection in handle.connections_with(&newer::peer_id(peer_id)) {
//!         assert_eq!(older::peer_id(&connection.peer_id()), *peer_id);
//!         connection.close(7, "no more of it");
//!     }
//! }
//! # let transport = libp2p_quinn_056::Transport::new(libp2p_quinn_056::libp2p_quinn::Config::new(
//! #     &newer::Keypair::generate_ed25519(),
//! # ));
//! # close(&transport.handle(), &PeerId::random());
//! ```
//!
//! # What does not work here
//!
//! - The feature `nat` of libp2p-quinn has a behaviour for the Swarm of libp2p 0.57.
//! - libp2p-quinn-metrics registers in a registry of prometheus-client 0.25. libp2p 0.56 uses 0.23,
//!   so the metrics of both need two registries.

#![warn(
    clippy::exhaustive_enums,
    clippy::exhaustive_structs,
    missing_docs,
    unnameable_types,
    unreachable_pub
)]

mod connecting;
mod connection;
pub mod newer;
pub mod older;
mod transport;

pub use libp2p_quinn;

pub use self::{connecting::Connecting, connection::Connection, transport::Transport};
