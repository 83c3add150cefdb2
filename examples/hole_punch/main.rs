//! Two nodes behind NATs that meet at a relay and get a direct connection, over `libp2p-quinn`.
//!
//! ```text
//! cargo run --release --example hole_punch -- relay                 # where both can reach it
//! cargo run --release --example hole_punch -- listen RELAY          # behind one NAT
//! cargo run --release --example hole_punch -- dial RELAY PEER_ID    # behind another one
//! ```
//!
//! The relay prints the address for the other two, and the listener prints the peer ID for the
//! dialer.
//!
//! Exit code: 0 for success, which for the dialer means a direct connection; 1 for a failure; 2 for
//! invalid arguments; 3 if the dialer has only the relayed connection.

mod args;
mod dialer;
mod event;
mod listener;
mod peer;
mod program;
mod relay;

use std::process::ExitCode;

use libp2p::{Transport as _, core::muxing::StreamMuxerBox, identity::Keypair};
use libp2p_quinn::{Config, Transport};

use args::Args;
use program::{AnyTransport, Failure};

#[tokio::main]
async fn main() -> ExitCode {
    program::run(transport).await
}

/// Boxed, because the same program also runs over another transport for comparison. Otherwise it
/// would be `.with_other_transport(|key| Transport::new(Config::new(key)))` in the SwarmBuilder.
fn transport(key: &Keypair, args: &Args) -> Result<AnyTransport, Failure> {
    let mut config = Config::builder(key);
    if let Some(timeout) = args.handshake_timeout {
        config = config.handshake_timeout(timeout)?;
    }
    Ok(Transport::new(config.build()?)
        .map(|(peer_id, connection), _| (peer_id, StreamMuxerBox::new(connection)))
        .boxed())
}
