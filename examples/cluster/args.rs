//! The command line.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use libp2p::Multiaddr;

pub(crate) const HELP: &str = "\
A cluster of libp2p nodes over QUIC.

usage: cluster [OPTIONS]             three nodes in this process, over loopback, and checks
       cluster --port N [OPTIONS]    one node until Ctrl-C; port 0 lets the system choose

  --peer ADDRESS      the address of another node, as that node prints it; may be repeated
  --file FILE         remember peers in this file, and dial them at the next start
  --mdns, --no-mdns   find nodes of the local network (default: only with --port)
  --limit BYTES       send and receive at most this number of bytes per second
  --metrics [ADDR]    serve the metrics of the node, or of the first of three, at
                      http://ADDR/metrics (default: a port of 127.0.0.1 that the system chooses)
  --verbose           print what happens at each of the three nodes
";

pub(crate) const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The parsed command line.
#[derive(Debug, Default)]
pub(crate) struct Args {
    pub(crate) help: bool,
    /// `None` for three nodes.
    pub(crate) port: Option<u16>,
    pub(crate) peers: Vec<Multiaddr>,
    pub(crate) file: Option<PathBuf>,
    /// `None` for the default of the form.
    pub(crate) mdns: Option<bool>,
    /// The limit on what is sent, and on what is received, in bytes per second.
    pub(crate) limit: Option<u64>,
    /// Where metrics are served.
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) verbose: bool,
}

impl Args {
    pub(crate) fn parse(args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut parsed = Self::default();
        let mut args = args.peekable();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "-h" | "--help" => parsed.help = true,
                "--port" => parsed.port = Some(value("--port", "a number", args.next())?),
                "--peer" => parsed
                    .peers
                    .push(value("--peer", "an address", args.next())?),
                "--file" => parsed.file = Some(value("--file", "a path", args.next())?),
                "--limit" => parsed.limit = Some(value("--limit", "a number", args.next())?),
                "--mdns" => parsed.mdns = Some(true),
                "--no-mdns" => parsed.mdns = Some(false),
                "--metrics" => {
                    let addr = args.next_if(|word| word.parse::<SocketAddr>().is_ok());
                    let addr = addr.and_then(|addr| addr.parse().ok());
                    parsed.metrics = addr.or(Some(ANY_PORT));
                }
                "--verbose" => parsed.verbose = true,
                _ => return Err(format!("cannot make sense of `{arg}`")),
            }
        }
        if parsed.port.is_none() && (parsed.file.is_some() || !parsed.peers.is_empty()) {
            return Err("--peer and --file need --port".to_owned());
        }
        Ok(parsed)
    }
}

fn value<T: std::str::FromStr>(
    option: &str,
    what: &str,
    word: Option<String>,
) -> Result<T, String> {
    let word = word.unwrap_or_default();
    match word.parse() {
        Ok(value) if !word.is_empty() => Ok(value),
        _ => Err(format!("{option} needs {what}, not `{word}`")),
    }
}
