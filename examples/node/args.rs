//! The command line.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use libp2p::Multiaddr;

pub(crate) const HELP: &str = "\
Two libp2p nodes over QUIC: ping, and a verified transfer in each direction.

usage: node [OPTIONS]                    both nodes in this process, over loopback
       node [OPTIONS] dial MULTIADDR     dial a node that listens, and transfer
       node [OPTIONS] listen [MULTIADDR] listen until Ctrl-C (default /ip4/0.0.0.0/udp/0/quic-v1)

  --mib N             size of each transfer in MiB (default 1024)
  --metrics [ADDR]    serve the metrics of the node at http://ADDR/metrics, of the listener if both
                      are here (default: a port of 127.0.0.1 that the system chooses)
  --keylog FILE       append the TLS secrets of all connections to a file, for Wireshark
  --qlog DIRECTORY    write a qlog file for each connection (needs `--features qlog`)
";

const MIB: u64 = 1024 * 1024;

const DEFAULT_MIB: u64 = 1024;

const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The parsed command line.
#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) command: Command,
    /// Size of each transfer.
    pub(crate) bytes: u64,
    /// Where metrics are served.
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) logs: Logs,
}

/// What nodes write down, and where.
#[derive(Clone, Debug, Default)]
pub(crate) struct Logs {
    /// The file for TLS secrets.
    pub(crate) secrets: Option<PathBuf>,
    /// The directory for qlog files.
    pub(crate) qlog: Option<PathBuf>,
}

#[derive(Clone, Debug)]
pub(crate) enum Command {
    Both,
    Dial(Multiaddr),
    Help,
    Listen(Multiaddr),
}

impl Args {
    pub(crate) fn parse(args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut mib = DEFAULT_MIB;
        let mut words = Vec::new();
        let mut metrics = None;
        let mut logs = Logs::default();
        let mut args = args.peekable();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "-h" | "--help" => words = vec!["help".to_owned()],
                "--mib" => mib = parse_mib(&args.next().unwrap_or_default())?,
                "--metrics" => {
                    let addr = args.next_if(|word| word.parse::<SocketAddr>().is_ok());
                    metrics = addr.and_then(|addr| addr.parse().ok()).or(Some(ANY_PORT));
                }
                "--keylog" => logs.secrets = Some(parse_path(args.next(), "--keylog")?),
                "--qlog" if !cfg!(feature = "qlog") => {
                    return Err("--qlog needs `cargo run --features qlog`".to_owned());
                }
                "--qlog" => logs.qlog = Some(parse_path(args.next(), "--qlog")?),
                option if option.starts_with('-') => {
                    return Err(format!("there is no option {option}"));
                }
                _ => words.push(arg),
            }
            if words == ["help"] {
                break;
            }
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let command = match words[..] {
            [] => Command::Both,
            ["help"] => Command::Help,
            ["listen"] => Command::Listen(parse_addr("/ip4/0.0.0.0/udp/0/quic-v1")?),
            ["listen", addr] => Command::Listen(parse_addr(addr)?),
            ["dial", addr] => Command::Dial(parse_addr(addr)?),
            ["dial"] => return Err("dial needs the address that the other node printed".into()),
            _ => return Err(format!("cannot make sense of `{}`", words.join(" "))),
        };
        Ok(Self {
            command,
            bytes: mib * MIB,
            metrics,
            logs,
        })
    }
}

fn parse_path(word: Option<String>, option: &str) -> Result<PathBuf, String> {
    word.map(PathBuf::from)
        .ok_or_else(|| format!("{option} needs a path"))
}

fn parse_mib(text: &str) -> Result<u64, String> {
    text.parse()
        .ok()
        .filter(|mib| (1..=super::transfer::MAX_BYTES / MIB).contains(mib))
        .ok_or_else(|| {
            let max = super::transfer::MAX_BYTES / MIB;
            format!("--mib takes a number from 1 to {max}, not `{text}`")
        })
}

fn parse_addr(text: &str) -> Result<Multiaddr, String> {
    text.parse()
        .map_err(|error| format!("`{text}` is not a multiaddr ({error})"))
}
