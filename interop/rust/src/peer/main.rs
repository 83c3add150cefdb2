//! The Rust peers of the interoperability matrix: our transport or the official one, with the same
//! Swarm.

mod arguments;
mod moves;
mod node;
mod operations;
mod protocols;
mod streams;
mod transport;

use std::{
    io,
    io::Write,
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{encoding::AsDer, rsa};
use harness::command_line::parse;
use libp2p::{Multiaddr, identity::Keypair, multiaddr::Protocol};
use serde_json::{Value, json};
use tokio::{
    io::AsyncReadExt,
    signal::unix::{SignalKind, signal},
};

use crate::{
    arguments::{Command, Options},
    node::{Node, Role},
};

/// The reason why an operation has no result.
pub enum Failure {
    Failed(String),
    TimedOut,
    Unsupported(String),
}

impl Failure {
    /// Adds the step in which it occurred.
    pub fn after(self, what: &str) -> Self {
        match self {
            Self::Failed(error) => Self::Failed(format!("after {what}: {error}")),
            other => other,
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let (code, error) = match failure {
                Failure::Failed(error) => (1, error),
                Failure::TimedOut => (2, "timed out".to_owned()),
                Failure::Unsupported(error) => (3, error),
            };
            print(&json!({ "ok": false, "error": error }));
            ExitCode::from(code)
        }
    }
}

async fn run() -> Result<(), Failure> {
    match parse::<Command>()? {
        Command::Listen { addr, options } => listen(addr, &options).await,
        Command::Dial {
            addr,
            operation,
            options,
        } => {
            let dial = dial(addr, &operation, &options);
            tokio::time::timeout(options.timeout, dial)
                .await
                .unwrap_or(Err(Failure::TimedOut))
        }
    }
}

async fn listen(addr: Multiaddr, options: &Options) -> Result<(), Failure> {
    let retry = options.retry;
    let (node, bound) = Node::start(keypair(options)?, Role::Listener { addr, retry }).await?;
    let bound = bound.ok_or("no address")?.with(Protocol::P2p(node.peer_id));
    print(&json!({ "listen": bound.to_string() }));
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminated.recv() => {}
        () = end_of_input() => {}
    }
    Ok(())
}

async fn dial(addr: Multiaddr, operation: &str, options: &Options) -> Result<(), Failure> {
    let role = match operation {
        // A node that is to be dialled back has to listen.
        "autonat" => Role::Tested(operations::beside(&addr)),
        _ => Role::Dialer,
    };
    let (node, _) = Node::start(keypair(options)?, role).await?;
    let mut result = operations::run(&node, addr, operation, options).await?;
    result.insert("ok".to_owned(), json!(true));
    print(&Value::Object(result));
    Ok(())
}

async fn end_of_input() {
    let mut input = tokio::io::stdin();
    let mut block = [0; 64];
    while input.read(&mut block).await.is_ok_and(|length| length > 0) {}
}

fn keypair(options: &Options) -> Result<Keypair, Failure> {
    if let Some(seed) = options.seed {
        let key = Keypair::ed25519_from_bytes([seed; 32]);
        return key.map_err(|error| error.to_string().into());
    }
    let kind = options.key.as_str();
    match kind {
        "ecdsa" => Ok(Keypair::generate_ecdsa()),
        "ed25519" => Ok(Keypair::generate_ed25519()),
        "rsa" => {
            let key = rsa::KeyPair::generate(rsa::KeySize::Rsa2048)
                .map_err(|_| "no RSA key".to_owned())?;
            let mut der = key
                .as_der()
                .map_err(|_| "no encoding of the RSA key".to_owned())?
                .as_ref()
                .to_vec();
            Keypair::rsa_from_pkcs8(&mut der).map_err(|error| error.to_string().into())
        }
        "secp256k1" => Ok(Keypair::generate_secp256k1()),
        _ => Err(Failure::Unsupported(format!("no key of type {kind}"))),
    }
}

/// Prints a line of JSON. Errors are ignored: they mean that the reader is gone.
pub fn print(value: &Value) {
    let _ = writeln!(io::stdout(), "{value}");
}

/// Milliseconds since 1970, the common clock of all peers on this machine.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

impl From<String> for Failure {
    fn from(error: String) -> Self {
        Self::Failed(error)
    }
}

impl From<&str> for Failure {
    fn from(error: &str) -> Self {
        Self::Failed(error.to_owned())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}
