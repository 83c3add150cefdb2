//! The perf test of test-plans: arguments, a well-known identity, lines of JSON.

use std::{net::SocketAddr, pin::pin, time::Duration};

use clap::Parser;
use harness::command_line::parse;
use interop_suites::{error::Error, node, program};
use libp2p::{identity::Keypair, multiaddr::Protocol};
use serde_json::json;
use tokio::time::{Instant, interval_at};

use crate::{
    codec::{Codec, Header, Request},
    measure, serve,
};

pub async fn test(header: Header) -> Result<(), Error> {
    let arguments: Arguments = parse().map_err(Error::Usage)?;
    if arguments.run_server {
        listen(arguments.server_address, header).await
    } else {
        let request = Request {
            upload: arguments.upload_bytes,
            download: arguments.download_bytes,
        };
        dial(arguments.server_address, request, header).await
    }
}

async fn listen(addr: SocketAddr, header: Header) -> Result<(), Error> {
    let mut swarm = crate::swarm(server_key(), Codec::new(header));
    let addr = node::listen(&mut swarm, addr.ip(), addr.port()).await?;
    program::print(&addr.to_string())?;
    serve(&mut swarm).await
}

/// Prints every second the amount of data since the last line, and at the end the total time.
async fn dial(addr: SocketAddr, request: Request, header: Header) -> Result<(), Error> {
    let codec = Codec::new(header);
    let progress = codec.progress();
    let mut swarm = crate::swarm(Keypair::generate_ed25519(), codec);
    let addr = node::quic_addr(addr.ip(), addr.port())
        .with(Protocol::P2p(server_key().public().to_peer_id()));
    let start = Instant::now();
    let mut transfer = pin!(async {
        let (peer_id, _) = node::dial(&mut swarm, addr).await?;
        measure(&mut swarm, peer_id, request).await?;
        let took = start.elapsed();
        node::close(&mut swarm, peer_id).await;
        Ok::<_, Error>(took)
    });
    let mut ticks = interval_at(start + TICK, TICK);
    let mut last = (start, 0, 0);
    let took = loop {
        tokio::select! {
            took = &mut transfer => break took?,
            now = ticks.tick() => {
                let (uploaded, downloaded) = progress.bytes();
                let (before, uploaded_before, downloaded_before) = last;
                program::print(&line(
                    "intermediary",
                    now - before,
                    uploaded - uploaded_before,
                    downloaded - downloaded_before,
                ))?;
                last = (now, uploaded, downloaded);
            }
        }
    };
    program::print(&line("final", took, request.upload, request.download))
}

fn line(kind: &str, took: Duration, uploaded: u64, downloaded: u64) -> String {
    json!({
        "type": kind,
        "timeSeconds": took.as_secs_f64(),
        "uploadBytes": uploaded,
        "downloadBytes": downloaded,
    })
    .to_string()
}

/// A key of 32 zero bytes, so that a dialer need not be told the peer ID.
fn server_key() -> Keypair {
    Keypair::ed25519_from_bytes([0; 32]).expect("32 bytes are a key")
}

#[derive(Parser)]
#[command(name = "perf")]
struct Arguments {
    /// Serves, instead of dialling.
    #[arg(long)]
    run_server: bool,
    #[arg(long)]
    server_address: SocketAddr,
    #[arg(long = "transport", value_parser = ["quic-v1"])]
    _transport: Option<String>,
    #[arg(long, default_value_t = 0)]
    upload_bytes: u64,
    #[arg(long, default_value_t = 0)]
    download_bytes: u64,
}

/// Interval of progress lines.
const TICK: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_who_other_dialers_expect() {
        // As in the Go implementation's main.go.
        assert_eq!(
            server_key().public().to_peer_id().to_string(),
            "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
        );
    }
}
