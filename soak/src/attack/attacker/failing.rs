//! Handshakes that fail at once, and an honest dial from the same address.

use std::{
    net::UdpSocket,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{
    OWN, Prepared, VICTIM,
    certificate::Certificate,
    large_keys::LargeKeys,
    peer::{Attempt, Introduction, Peer},
    run::Run,
    session::Found,
};
use crate::{
    attack::catalogue::Failing,
    flood::{dialer::Dialer, runtime},
};

pub fn failing(how: Failing, address: String) -> Result<Prepared> {
    let mut introduction = Introduction::with(VICTIM, Certificate::of_nobody()?)?;
    match how {
        Failing::Certificate => introduction = introduction.patient(),
        Failing::Protocol => {
            introduction = introduction.patient();
            introduction.protocol = b"h3";
        }
        // Without a pause, to get the places again.
        Failing::LargeKeys => introduction.resolver = Arc::new(LargeKeys::new()?),
    }
    let socket = Arc::new(UdpSocket::bind((OWN, 0))?);
    Ok(Box::new(move |run| {
        if how == Failing::LargeKeys {
            while run.goes_on() {
                fail(run, &socket, &introduction)?;
            }
            return Ok(Vec::new());
        }
        for _ in 0..HANDSHAKES {
            fail(run, &socket, &introduction)?;
        }
        // It leaves from the same address.
        let time = runtime()?.block_on(async {
            let dialer = Dialer::default();
            let address = address.parse()?;
            let ask = tokio::time::timeout(PATIENCE, dialer.ask(&address)).await;
            anyhow::Ok(ask.ok().and_then(Result::ok))
        })?;
        run.attacked.dial_ms = Some(time.unwrap_or(PATIENCE).as_secs_f64() * 1e3);
        Ok(Vec::<Peer>::new())
    }))
}

/// One handshake, which may also fail because it gets no answer.
fn fail(run: &mut Run<'_>, socket: &Arc<UdpSocket>, introduction: &Introduction) -> Result<()> {
    let found = Arc::new(Mutex::new(Found::default()));
    let mut attempt = Attempt::begin(socket, introduction, &found)?;
    let deadline = Instant::now() + HANDSHAKE;
    run.attacked.begun += 1;
    while let Ok(()) = attempt.go_on(deadline) {}
    run.attacked.ended += u64::from(Instant::now() < deadline);
    run.sent(3, DATAGRAMS);
    Ok(())
}

/// More than one address may have.
const HANDSHAKES: usize = 300;

/// Without an answer after this time, there is no place for it.
const HANDSHAKE: Duration = Duration::from_millis(20);

/// The longest that a dial may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// About the bytes that a handshake sends.
const DATAGRAMS: usize = 3000;
