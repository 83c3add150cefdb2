//! The command line.

use std::time::Duration;

use libp2p::{Multiaddr, PeerId};

pub(crate) const HELP: &str = "\
Two nodes behind NATs meet at a relay and end up on a direct connection.

usage: hole_punch relay [MULTIADDR]      relay for others (default /ip4/0.0.0.0/udp/4001/quic-v1)
       hole_punch listen RELAY           wait at a relay until Ctrl-C
       hole_punch dial RELAY PEER_ID     reach a peer that waits at the relay, then directly

  --json                     one JSON object a line
  --upnp                     ask the router for a port (UPnP)
  --handshake-timeout SECS   how long a handshake, and so an attempt to punch a hole, may take (default 5)
";

/// The parsed command line.
#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) command: Command,
    /// `None` for the transport's default.
    pub(crate) handshake_timeout: Option<Duration>,
    pub(crate) json: bool,
    pub(crate) upnp: bool,
}

#[derive(Debug)]
pub(crate) enum Command {
    Dial(Multiaddr, PeerId),
    Help,
    Listen(Multiaddr),
    Relay(Multiaddr),
}

impl Args {
    pub(crate) fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut parsed = Self {
            command: Command::Help,
            handshake_timeout: None,
            json: false,
            upnp: false,
        };
        let mut words = Vec::new();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "-h" | "--help" => return Ok(parsed),
                "--handshake-timeout" => {
                    parsed.handshake_timeout = Some(seconds(&args.next().unwrap_or_default())?);
                }
                "--json" => parsed.json = true,
                "--upnp" => parsed.upnp = true,
                option if option.starts_with('-') => {
                    return Err(format!("there is no option {option}"));
                }
                _ => words.push(arg),
            }
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        parsed.command = match words[..] {
            ["dial", relay, peer_id] => Command::Dial(multiaddr(relay)?, peer(peer_id)?),
            ["dial" | "listen"] => return Err("it needs the address that the relay printed".into()),
            ["dial", _] => return Err("dial needs the peer ID that the listener printed".into()),
            ["listen", relay] => Command::Listen(multiaddr(relay)?),
            ["relay"] => Command::Relay(multiaddr("/ip4/0.0.0.0/udp/4001/quic-v1")?),
            ["relay", addr] => Command::Relay(multiaddr(addr)?),
            _ => return Err(format!("cannot make sense of `{}`", words.join(" "))),
        };
        Ok(parsed)
    }
}

fn multiaddr(text: &str) -> Result<Multiaddr, String> {
    text.parse()
        .map_err(|error| format!("`{text}` is not a multiaddr ({error})"))
}

fn peer(text: &str) -> Result<PeerId, String> {
    text.parse()
        .map_err(|error| format!("`{text}` is not a peer ID ({error})"))
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .filter(|seconds| *seconds > 0.0)
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| format!("--handshake-timeout takes seconds, not `{text}`"))
}
