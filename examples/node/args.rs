//! The command line.

use libp2p::Multiaddr;

pub(crate) const HELP: &str = "\
Two libp2p nodes over QUIC: ping, and a verified transfer in each direction.

usage: node [--mib N]                    both nodes in this process, over loopback
       node [--mib N] dial MULTIADDR     dial a node that listens, and transfer
       node listen [MULTIADDR]           listen until Ctrl-C (default /ip4/0.0.0.0/udp/0/quic-v1)

  --mib N    size of each transfer in MiB (default 1024)
";

const MIB: u64 = 1024 * 1024;

const DEFAULT_MIB: u64 = 1024;

/// The parsed command line.
#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) command: Command,
    /// Size of each transfer.
    pub(crate) bytes: u64,
}

#[derive(Debug)]
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
        let mut args = args;
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "-h" | "--help" => words = vec!["help".to_owned()],
                "--mib" => mib = parse_mib(&args.next().unwrap_or_default())?,
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
        })
    }
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
