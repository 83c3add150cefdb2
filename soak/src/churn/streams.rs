//! The use of a stream at both ends.

use std::io;

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p_quinn::{Stream, StreamError};
use rand::{Rng, RngExt};

use super::tally::Outcome;

/// How its opener uses a stream.
#[derive(Clone, Copy, Debug)]
pub enum Use {
    /// Writes this many bytes, and reads them all back.
    Echo(usize),
    Reset,
    /// Drops it while writing.
    Leave,
}

/// How a listener serves a stream.
#[derive(Clone, Copy, Debug)]
pub enum Service {
    Echo,
    Reset,
    Leave,
}

impl Use {
    pub fn any(rng: &mut impl Rng) -> Self {
        match rng.random_range(0..100) {
            0..5 => Self::Reset,
            5..10 => Self::Leave,
            10 => Self::Echo(LARGE),
            _ => Self::Echo(rng.random_range(1..SMALL)),
        }
    }
}

impl Service {
    pub fn any(rng: &mut impl Rng) -> Self {
        match rng.random_range(0..100) {
            0..3 => Self::Reset,
            3..5 => Self::Leave,
            _ => Self::Echo,
        }
    }
}

/// Uses a stream and drops it.
pub async fn exchange(mut stream: Stream, usage: Use) -> Result<Outcome, String> {
    let length = match usage {
        Use::Echo(length) => length,
        Use::Reset | Use::Leave => SMALL,
    };
    let message = vec![length as u8; length];
    if let Err(error) = stream.write_all(&message).await {
        return ended(&error);
    }
    match usage {
        Use::Echo(_) => {}
        Use::Leave => return Ok(Outcome::StreamLeft),
        Use::Reset => {
            // Fails only if the connection or the listener was faster.
            let _ = stream.reset(CODE);
            let _ = stream.stop(CODE);
            return Ok(Outcome::StreamReset);
        }
    }
    if let Err(error) = stream.close().await {
        return ended(&error);
    }
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer).await {
        Err(error) => ended(&error),
        Ok(0) => Ok(Outcome::StreamLeftByListener),
        Ok(_) if answer == message => Ok(Outcome::StreamEchoed),
        Ok(read) => Err(format!("{read} bytes, or wrong ones, instead of {length}")),
    }
}

pub async fn serve(mut stream: Stream, service: Service) {
    match service {
        Service::Echo => {
            let mut message = Vec::new();
            // An error ends it, too.
            if stream.read_to_end(&mut message).await.is_ok()
                && stream.write_all(&message).await.is_ok()
            {
                let _ = stream.close().await;
            }
        }
        Service::Reset => {
            let _ = stream.reset(CODE);
            let _ = stream.stop(CODE);
        }
        Service::Leave => {}
    }
}

fn ended(error: &io::Error) -> Result<Outcome, String> {
    match error.get_ref().and_then(|error| error.downcast_ref()) {
        Some(StreamError::Reset(CODE) | StreamError::Stopped(CODE)) => {
            Ok(Outcome::StreamResetByListener)
        }
        Some(StreamError::Stopped(0)) => Ok(Outcome::StreamLeftByListener),
        // Reset if the connection goes on for other streams that were closed.
        Some(StreamError::Connection(_) | StreamError::Reset(0)) => Ok(Outcome::StreamCutOff),
        _ => Err(format!("a stream ended with {error:?}")),
    }
}

const CODE: u64 = 7;

/// Most bytes of most streams.
const SMALL: usize = 128;

/// Bytes of some streams.
const LARGE: usize = 20_000;
