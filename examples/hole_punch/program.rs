//! The beginning and the end of the program.

use std::{error::Error, process::ExitCode};

use libp2p::{
    PeerId,
    core::{muxing::StreamMuxerBox, transport::Boxed},
    identity::Keypair,
};

use crate::{
    args::{Args, Command, HELP},
    dialer, listener, relay,
};

/// Any transport.
pub(crate) type AnyTransport = Boxed<(PeerId, StreamMuxerBox)>;

pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// The result of a run without errors.
pub(crate) enum End {
    Well,
    /// There is no direct connection, but the relayed one works.
    Relayed,
}

/// Runs the program over the transport that `transport` creates.
pub(crate) async fn run(
    transport: fn(&Keypair, &Args) -> Result<AnyTransport, Failure>,
) -> ExitCode {
    let args = match Args::parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(error) => {
            eprintln!("hole_punch: {error}; try --help");
            return ExitCode::from(2);
        }
    };
    if matches!(args.command, Command::Help) {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let work = async {
        let key = Keypair::generate_ed25519();
        let transport = transport(&key, &args)?;
        match &args.command {
            Command::Relay(addr) => relay::run(key, transport, addr.clone(), &args).await,
            Command::Listen(relay) => listener::run(key, transport, relay.clone(), &args).await,
            Command::Dial(relay, peer_id) => {
                dialer::run(key, transport, relay.clone(), *peer_id, &args).await
            }
            Command::Help => Ok(End::Well),
        }
    };
    let result = tokio::select! {
        result = work => result,
        () = interrupted() => Ok(End::Well),
    };
    match result {
        Ok(End::Well) => ExitCode::SUCCESS,
        Ok(End::Relayed) => ExitCode::from(3),
        Err(error) => {
            eprintln!("hole_punch: {}", chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// An error and its sources, without repetitions.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut line = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        // Wrappers often repeat what they wrap.
        let text = error.to_string();
        if !line.ends_with(&text) {
            if !line.is_empty() {
                line.push_str(": ");
            }
            line.push_str(&text);
        }
        next = error.source();
    }
    line
}

/// Resolves at Ctrl-C.
async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        // This system has no such signal.
        std::future::pending::<()>().await;
    }
}
