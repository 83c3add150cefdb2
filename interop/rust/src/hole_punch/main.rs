//! The example `hole_punch`, over our transport or the official one.

#[path = "../../../../examples/hole_punch/args.rs"]
mod args;
#[path = "../../../../examples/hole_punch/dialer.rs"]
mod dialer;
#[path = "../../../../examples/hole_punch/event.rs"]
mod event;
#[path = "../../../../examples/hole_punch/listener.rs"]
mod listener;
#[path = "../../../../examples/hole_punch/peer.rs"]
mod peer;
#[path = "../../../../examples/hole_punch/program.rs"]
mod program;
#[path = "../../../../examples/hole_punch/relay.rs"]
mod relay;

use std::{env, process::ExitCode};

use libp2p::{Transport as _, core::muxing::StreamMuxerBox, identity::Keypair, quic};
use libp2p_quinn::{Config, Transport};

use crate::{
    args::Args,
    program::{AnyTransport, Failure},
};

#[tokio::main]
async fn main() -> ExitCode {
    program::run(transport).await
}

fn transport(key: &Keypair, args: &Args) -> Result<AnyTransport, Failure> {
    match env::var("INTEROP_TRANSPORT").as_deref() {
        Ok("official") => {
            let mut config = quic::Config::new(key);
            if let Some(timeout) = args.handshake_timeout {
                config.handshake_timeout = timeout;
            }
            Ok(quic::tokio::Transport::new(config)
                .map(|(peer_id, connection), _| (peer_id, StreamMuxerBox::new(connection)))
                .boxed())
        }
        Ok("ours") | Err(_) => {
            let mut config = Config::builder(key);
            if let Some(timeout) = args.handshake_timeout {
                config = config.handshake_timeout(timeout)?;
            }
            Ok(Transport::new(config.build()?)
                .map(|(peer_id, connection), _| (peer_id, StreamMuxerBox::new(connection)))
                .boxed())
        }
        Ok(other) => Err(format!("INTEROP_TRANSPORT is neither ours nor official: {other}").into()),
    }
}
