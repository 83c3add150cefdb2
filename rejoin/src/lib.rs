//! A libp2p behaviour that remembers the peers that a node has dialled, and dials them again at its
//! next start, so that it joins its network without asking the bootstrap peers. It works with any
//! transport and any runtime.
//!
//! ```no_run
//! use futures::StreamExt;
//! use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
//! use libp2p_rejoin as rejoin;
//!
//! #[derive(NetworkBehaviour)]
//! struct Node {
//!     ping: libp2p::ping::Behaviour,
//!     rejoin: rejoin::Behaviour,
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let bootstrap = "/dns4/bootstrap.example/udp/4001/quic-v1".parse()?;
//!     let config = rejoin::Config::default()
//!         .with_bootstrap([bootstrap])
//!         .with_file("peers.json");
//!     let mut swarm = libp2p::SwarmBuilder::with_new_identity()
//!         .with_tokio()
//!         .with_other_transport(|key| {
//!             libp2p_quinn::Transport::new(libp2p_quinn::Config::new(key))
//!         })?
//!         .with_behaviour(|key| Node {
//!             ping: libp2p::ping::Behaviour::default(),
//!             rejoin: rejoin::Behaviour::new(key.public().to_peer_id(), config),
//!         })?
//!         .build();
//!     loop {
//!         match swarm.select_next_some().await {
//!             SwarmEvent::Behaviour(NodeEvent::Rejoin(
//!                 rejoin::Event::TargetReached { .. }
//!             )) => break,
//!             event => println!("{event:?}"),
//!         }
//!     }
//!     // The node works. At its end, the Swarm is no longer polled, and blocking is harmless.
//!     let rejoin = &swarm.behaviour().rejoin;
//!     let peers = rejoin.is_loaded().then(|| rejoin.snapshot());
//!     drop(swarm);
//!     if let Some(peers) = peers {
//!         peers.save("peers.json".as_ref())?;
//!     }
//!     Ok(())
//! }
//! ```
//!
//! Without a file, [`Behaviour::snapshot`] and [`Behaviour::restore`] let the application keep the
//! peers where it likes.
//!
//! # What is remembered
//!
//! A peer that this node has dialled, with up to 4 addresses at which that succeeded, when a
//! connection to it has lasted for 5 s, or was closed in good order before. Any dial counts, also
//! one of the application or of another behaviour. A peer that only dialled us is not remembered,
//! nor what others tell of addresses, so that nobody can put itself or others into the list. For
//! the same reason, these dials make no peer remembered:
//!
//! - through a relay: its reservation ends, and the relay would carry the load;
//! - to punch a hole, while a relayed connection to the peer exists;
//! - from a new port, which AutoNAT servers use to dial what a peer has asked them to.
//!
//! Private and loopback addresses are remembered like others: they were dialled with success, and
//! go in another network as all dead ones do. Addresses whose text has more than 512 bytes are not
//! remembered. The list is limited in [number](Config::with_capacity), also for each network.
//!
//! # When peers are dialled
//!
//! While fewer than the [target](Config::with_target) are connected, in rounds. Each dials a few
//! remembered peers at random; from the second round on, 2 s after the first, bootstrap addresses
//! as well. Rounds begin by the clock, not when dials end, so that dead peers with slow timeouts do
//! not delay bootstrap addresses: a stale list costs 2 s. A dial that hangs keeps another
//! remembered peer waiting for 30 s at most. The time between rounds doubles up to [5
//! minutes](Config::with_backoff), and starts over when a connection is lost that has lasted for 30
//! s.
//!
//! This node keeps its side of these connections open. The other side may close them when they are
//! idle for [its own timeout](libp2p_swarm::Config::with_idle_connection_timeout), unless a
//! protocol there keeps them.
//!
//! # When peers are forgotten
//!
//! - If none of its addresses can be reached, or if it closes within 5 s, it rests for the [longest
//!   backoff](Config::with_backoff), and goes with the [third failure](Config::with_max_failures)
//!   in a row. While no dial to anyone succeeds within a minute it only rests for the initial
//!   backoff, because our own network may be down; a dial in the local network says nothing about
//!   peers elsewhere.
//! - An address goes if it fails while another address of the peer works, and if it leads to
//!   another peer or to ourselves. A peer goes with its last address.
//! - If another behaviour denies the connection, or the dial is aborted, the peer rests, and stays:
//!   the reason is ours, and may pass. [`Behaviour::forget`] removes it.
//! - If the list is full, the peer goes that was reached least recently and is not connected.
//!
//! A restart ends all rests, because what kept a peer from answering may be over, and the time that
//! has passed is not known without trusting the clock of the host. Failures are in the snapshot: a
//! peer that has any is dialled after those that have none, and one more counts as before.
//!
//! # The file
//!
//! A thread reads and writes it, so the Swarm does not wait for the disk. It is replaced as a
//! whole. Of several processes with the same file, the last to write wins. A file that is torn, too
//! large or otherwise unusable is reported as [`Event::LoadFailed`] and set aside, and a disk that
//! cannot be written as [`Event::SaveFailed`]; the node goes on with what it knows. A file that the
//! system refuses to read is not replaced: it is read again before each write, and its peers are
//! kept.
//!
//! A writer that crashes may leave a new file beside it, `.libp2p-rejoin-…`. The next start removes
//! those that are older than an hour. No other decision depends on the clock of the host, which may
//! be wrong or go back.
//!
//! # What it does not protect from
//!
//! Anyone who can make this node dial, such as a peer that answers its lookups in a DHT, can have
//! itself remembered, from as many networks as it has addresses in. When most of the list is
//! theirs, so are the first connections after a start. Bootstrap peers that you trust, dialled by
//! the application as well, are the remedy.

#![warn(
    clippy::exhaustive_enums,
    clippy::exhaustive_structs,
    missing_docs,
    unnameable_types,
    unreachable_pub
)]
#![forbid(unsafe_code)]

mod address;
mod behaviour;
mod book;
mod clock;
mod config;
mod connections;
mod dials;
mod error;
mod event;
mod file;
mod handler;
mod rounds;
mod snapshot;

pub use self::{
    behaviour::Behaviour,
    config::Config,
    error::{LoadError, ParseError, SaveError},
    event::Event,
    handler::Handler,
    snapshot::{RememberedPeer, Snapshot},
};
