//! Errors in one line.

use std::{error::Error, fmt, io};

use libp2p::{TransportError, swarm::DialError};

/// The reason why the program fails.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Ctrl-C.
    Interrupted,
    /// Anything else, in one line.
    Other(String),
}

impl Failure {
    pub(crate) fn new(what: &str, error: &(dyn Error + 'static)) -> Self {
        Self::Other(format!("{what}: {}", chain(error)))
    }

    pub(crate) fn listen(error: &TransportError<io::Error>) -> Self {
        Self::Other(match error {
            TransportError::MultiaddrNotSupported(addr) => {
                format!("cannot listen at {addr}: {UNSUPPORTED}")
            }
            TransportError::Other(error) => format!("cannot listen: {}", chain(error)),
        })
    }

    pub(crate) fn dial(error: &DialError) -> Self {
        Self::Other(match error {
            DialError::LocalPeerId { .. } => "cannot dial: that is this node itself".to_owned(),
            DialError::Transport(attempts) => attempts
                .iter()
                .map(|(addr, error)| match error {
                    TransportError::MultiaddrNotSupported(_) => {
                        format!("cannot dial {addr}: {UNSUPPORTED}")
                    }
                    TransportError::Other(error) => format!("cannot dial {addr}: {}", chain(error)),
                })
                .collect::<Vec<_>>()
                .join("; "),
            DialError::WrongPeerId { obtained, address } => {
                format!("cannot dial {address}: {obtained} answers there")
            }
            _ => format!("cannot dial: {}", chain(error)),
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interrupted => f.write_str("interrupted"),
            Self::Other(reason) => f.write_str(reason),
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

const UNSUPPORTED: &str = "only /ip4|ip6/ADDRESS/udp/PORT/quic-v1[/p2p/PEER] is possible";
