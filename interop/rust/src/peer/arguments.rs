//! The command line.

use std::time::Duration;

use libp2p::Multiaddr;

/// The command of a peer.
pub enum Command {
    Listen {
        addr: Multiaddr,
        options: Options,
    },
    Dial {
        addr: Multiaddr,
        operation: String,
        options: Options,
    },
}

/// Options, with the defaults of the README.
pub struct Options {
    pub code: u64,
    pub count: u64,
    pub duration: Duration,
    pub in_flight: u64,
    pub key: String,
    pub parallel: usize,
    /// For a listener: whether every client has to prove its address.
    pub retry: bool,
    /// The seed of the host key, if it should be the same in another run.
    pub seed: Option<u8>,
    pub size: u64,
    pub timeout: Duration,
}

pub const USAGE: &str = "peer listen MULTIADDR [--OPTION VALUE]…
peer dial MULTIADDR OPERATION [--OPTION VALUE]…";

/// Parses the arguments after the program's name.
pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Command, String> {
    let mut options = Options::default();
    let mut words = Vec::new();
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let Some(name) = argument.strip_prefix("--") else {
            words.push(argument);
            continue;
        };
        if name == "retry" {
            options.retry = true;
            continue;
        }
        let value = arguments
            .next()
            .ok_or_else(|| format!("--{name} has no value"))?;
        options.set(name, value)?;
    }
    match words.as_slice() {
        [command, addr] if command == "listen" => Ok(Command::Listen {
            addr: multiaddr(addr)?,
            options,
        }),
        [command, addr, operation] if command == "dial" => Ok(Command::Dial {
            addr: multiaddr(addr)?,
            operation: operation.clone(),
            options,
        }),
        _ => Err(USAGE.to_owned()),
    }
}

impl Options {
    fn set(&mut self, name: &str, value: String) -> Result<(), String> {
        let number = || {
            value
                .parse::<u64>()
                .map_err(|_| format!("--{name} is no number: {value}"))
        };
        match name {
            "code" => self.code = number()?,
            "count" => self.count = number()?,
            "in-flight" => self.in_flight = number()?.max(1),
            "key" => self.key = value,
            "parallel" => self.parallel = usize::try_from(number()?).unwrap_or(usize::MAX),
            "seconds" => self.duration = Duration::from_secs(number()?),
            "seed" => self.seed = Some(number()? as u8),
            "size" => self.size = number()?,
            "timeout" => self.timeout = Duration::from_secs(number()?),
            _ => return Err(format!("no option --{name}")),
        }
        Ok(())
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            code: 42,
            count: 100,
            duration: Duration::from_secs(5),
            in_flight: u64::MAX,
            key: "ed25519".to_owned(),
            parallel: 100,
            retry: false,
            seed: None,
            size: 1 << 20,
            timeout: Duration::from_secs(60),
        }
    }
}

fn multiaddr(text: &str) -> Result<Multiaddr, String> {
    text.parse()
        .map_err(|error| format!("{text} is no multiaddress: {error}"))
}
