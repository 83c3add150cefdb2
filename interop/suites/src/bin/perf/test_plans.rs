//! The perf test of test-plans: arguments, a well-known identity, lines of JSON.

use std::{net::SocketAddr, pin::pin, str::FromStr, time::Duration};

use interop_suites::{error::Error, node, program};
use libp2p::{identity::Keypair, multiaddr::Protocol};
use serde_json::json;
use tokio::time::{Instant, interval_at};

use crate::{
    codec::{Codec, Header, Request},
    measure, serve,
};

pub async fn test(arguments: &[String], header: Header) -> Result<(), Error> {
    let arguments = Arguments::parse(arguments)?;
    if arguments.run_server {
        listen(arguments.server_addr, header).await
    } else {
        dial(arguments.server_addr, arguments.request, header).await
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

struct Arguments {
    run_server: bool,
    server_addr: SocketAddr,
    request: Request,
}

impl Arguments {
    fn parse(words: &[String]) -> Result<Self, Error> {
        let mut run_server = false;
        let mut server_addr = None;
        let mut request = Request {
            upload: 0,
            download: 0,
        };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(Error::Usage(USAGE));
            match word.as_str() {
                "--run-server" => run_server = true,
                "--server-address" => server_addr = Some(parse(value()?)?),
                "--transport" if value()? == "quic-v1" => {}
                "--upload-bytes" => request.upload = parse(value()?)?,
                "--download-bytes" => request.download = parse(value()?)?,
                _ => return Err(Error::Usage(USAGE)),
            }
        }
        Ok(Self {
            run_server,
            server_addr: server_addr.ok_or(Error::Usage(USAGE))?,
            request,
        })
    }
}

fn parse<T: FromStr>(value: &str) -> Result<T, Error> {
    value.parse().map_err(|_| Error::Usage(USAGE))
}

const USAGE: &str = "perf --run-server --server-address IP:PORT
perf --server-address IP:PORT [--transport quic-v1] [--upload-bytes N] [--download-bytes N]";

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
