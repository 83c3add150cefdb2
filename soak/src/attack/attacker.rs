//! The attacking process. It can reach only the victim, over a virtual cable.

mod certificate;
mod ending;
mod failing;
mod forger;
mod frames;
mod holding;
mod initial;
mod large_keys;
mod noise;
mod paths;
mod peer;
mod pieces;
mod run;
mod session;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use anyhow::{Result, bail};
use harness::process::{answer, limit_time, listen};
use serde::{Deserialize, Serialize};

use self::{peer::Peer, run::Run};
use super::{
    catalogue::Kind,
    lines::{Line, Order},
};
use crate::{
    LONGEST,
    flood::{SERVER, network},
};

/// The result of an attack, as the attacker saw it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Attacked {
    pub datagrams: u64,
    /// UDP payload sent.
    pub bytes: u64,
    pub seconds: f64,
    /// Connections or handshakes that were begun.
    pub begun: u64,
    /// Those that the victim ended.
    pub ended: u64,
    /// Amplification towards unproven addresses, if it was measured.
    pub amplified: Option<Amplified>,
    /// The time of a dial from the attacker's address; the timeout if it failed.
    pub dial_ms: Option<f64>,
    /// Streams that were opened, if the attack is about streams.
    pub streams: Option<u64>,
}

/// UDP payload for each byte that came from an address.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Amplified {
    pub worst: f64,
    pub mean: f64,
    pub addresses: u64,
    /// IP packets that were captured, and that the interface counted in the same time.
    pub seen: u64,
    pub counted: u64,
}

/// The part of an attack that runs once everything is ready. It returns peers that must stay alive
/// until the attack ends.
type Prepared = Box<dyn FnOnce(&mut Run<'_>) -> Result<Vec<Peer>>>;

/// The process of the attacker.
pub fn run(victim: u32) -> Result<()> {
    limit_time(LONGEST);
    network::leave()?;
    network::ATTACKER.lay(victim)?;
    answer(&Line::Ready)?;
    let Order::Prepare {
        kind,
        seconds,
        address,
    } = listen()?
    else {
        bail!("attackers prepare");
    };
    let prepared = prepare(kind, seconds, address)?;
    answer(&Line::Ready)?;
    let Order::Begin = listen()? else {
        bail!("attackers begin");
    };
    let stop = Arc::new(AtomicBool::new(false));
    let owner = thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let order = listen::<Order>();
            stop.store(true, Relaxed);
            order
        }
    });
    let megabits = if kind.is_finite() {
        FILLING_MEGABITS
    } else {
        MEGABITS
    };
    let linger = if seconds < super::LONG_SECONDS {
        BRIEFLY
    } else {
        LINGER
    };
    let mut run = Run::begin(&stop, megabits, linger);
    answer(&Line::Ready)?;
    let _kept = prepared(&mut run)?;
    let attacked = run.end();
    if kind.is_finite() {
        answer(&Line::Ready)?;
    }
    let Ok(Ok(Order::Stop)) = owner.join() else {
        bail!("attackers stop");
    };
    answer(&Line::Attacked(attacked))
}

fn prepare(kind: Kind, seconds: u64, address: String) -> Result<Prepared> {
    Ok(match kind {
        Kind::Nothing => Box::new(|run: &mut Run<'_>| {
            run.wait();
            Ok(Vec::new())
        }),
        Kind::InitialPieces {
            handshakes,
            size,
            datagrams_each,
        } => pieces::before_tls(handshakes, size, datagrams_each)?,
        Kind::Pieces {
            of,
            connections,
            size,
            beside,
        } => pieces::after_tls(of, connections, size, beside)?,
        Kind::InitialHolding {
            handshakes,
            size,
            proves,
        } => holding::before_tls(handshakes, size, proves, bytes_in(seconds))?,
        Kind::Holding(how) => holding::after_tls(how, bytes_in(seconds))?,
        Kind::Windows { connections } => holding::windows(few(connections, seconds))?,
        Kind::Answers { connections } => holding::answers(few(connections, seconds))?,
        Kind::Ending { connections, bytes } => ending::ended(few(connections, seconds), bytes)?,
        Kind::Silent { idle_timeout } => ending::silent(idle_timeout)?,
        Kind::Amplifying(how) => paths::amplifying(how)?,
        Kind::Failing(how) => failing::failing(how, address)?,
        Kind::Garbage => noise::garbage()?,
        Kind::Resets => noise::resets()?,
        Kind::UnknownIds => noise::unknown_ids()?,
    })
}

/// The bytes that an attack on memory sends.
fn bytes_in(seconds: u64) -> usize {
    let seconds = seconds.clamp(1, LONGEST_FILLING) as usize;
    seconds * FILLING_MEGABITS as usize * 1_000_000 / 8
}

/// Fewer connections if there is little time.
fn few(connections: usize, seconds: u64) -> usize {
    if seconds < super::LONG_SECONDS {
        (connections / 5).max(8)
    } else {
        connections
    }
}

/// A rate that most attackers have, and far less than a flood.
pub const MEGABITS: u64 = 45;

/// The rate for filling memory. How much is held does not depend on it; it only makes the attack
/// take seconds and not minutes.
pub const FILLING_MEGABITS: u64 = 800;

/// Time for the last answers, and a retransmission or two.
const BRIEFLY: Duration = Duration::from_millis(200);
const LINGER: Duration = Duration::from_secs(2);

/// Longest filling in seconds.
const LONGEST_FILLING: u64 = 4;

const OWN: Ipv4Addr = network::ATTACKER.other;

const VICTIM: SocketAddr = SocketAddr::V4(SERVER);
