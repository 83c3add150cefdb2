//! A link between two sockets: delay, loss and rate, for one client at a time.
//!
//! What it drops is decided by a seeded generator, so that each measurement loses the same datagrams of those
//! that come. Before the link there is a queue of one bandwidth-delay product, as a good router has it; what
//! does not fit is dropped.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use clap::Args;
use quinn_udp::{EcnCodepoint, Transmit};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use crate::{
    control::{self, ServerLine, say},
    network::Place,
    process::{self, Process},
    stack::Address,
    udp::Udp,
};

/// What a link is like.
#[derive(Args, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    /// Milliseconds of delay, there and back together.
    #[arg(long, value_parser = clap::value_parser!(u16).range(0..=2000))]
    pub round_trip: u16,
    /// Datagrams of a thousand that are lost in each direction.
    #[arg(long, value_parser = clap::value_parser!(u16).range(0..=500))]
    pub loss: u16,
    /// Mbit/s in each direction.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub rate: u16,
}

#[derive(Args)]
pub struct Options {
    server: Address,
    seed: u64,
    #[command(flatten)]
    link: Link,
    #[command(flatten)]
    place: Place,
}

impl Link {
    /// The arguments of the process.
    fn arguments(&self) -> [String; 3] {
        [
            format!("--round-trip={}", self.round_trip),
            format!("--loss={}", self.loss),
            format!("--rate={}", self.rate),
        ]
    }
}

/// A link that is there until this is dropped.
pub struct Relay {
    _process: Process,
    /// What to dial instead of the server.
    pub address: Address,
}

impl Relay {
    pub fn start(server: &Address, link: Link, seed: u64, place: &Place) -> Result<Self> {
        let mut arguments = vec!["relay".to_owned(), server.to_string(), seed.to_string()];
        arguments.extend(link.arguments());
        arguments.extend(place.arguments());
        let process = Process::start(&arguments)?;
        let ServerLine::Listening(address) = process.hear()? else {
            bail!("the relay says something else than its address");
        };
        Ok(Self {
            _process: process,
            address: address.parse()?,
        })
    }
}

/// The process of a relay; ends when standard input does.
pub fn run(options: &Options) -> Result<()> {
    options.place.enter()?;
    process::limit_time();
    let front = Udp::bind(options.place.ip)?;
    let back = Udp::bind(Ipv4Addr::UNSPECIFIED)?;
    let address = Address {
        socket: front.local_addr()?,
        peer: options.server.peer,
    };
    let client = Arc::new(Mutex::new(None));
    let direction = |salt| Direction {
        random: SmallRng::seed_from_u64(options.seed.wrapping_mul(2) + salt),
        link: options.link,
        free_at: Instant::now(),
        queue: VecDeque::new(),
    };
    let (up, down) = (direction(0), direction(1));

    let (from, to) = (front.try_clone()?, back.try_clone()?);
    let (server, sender) = (options.server.socket, Arc::clone(&client));
    thread::spawn(move || {
        let note = |addr| *lock(&sender) = Some(addr);
        up.pass(from, &to, note, || Some(server))
    });
    thread::spawn(move || down.pass(back, &front, |_| (), || *lock(&client)));
    say(&ServerLine::Listening(address.to_string()))?;
    control::wait_for_end();
    Ok(())
}

/// One direction of the link.
struct Direction {
    random: SmallRng,
    link: Link,
    /// When the link has sent everything that waits for it.
    free_at: Instant,
    /// What is under way, by the time of its arrival.
    queue: VecDeque<Datagram>,
}

struct Datagram {
    arrives: Instant,
    ecn: Option<EcnCodepoint>,
    contents: Vec<u8>,
}

impl Direction {
    fn pass(
        mut self,
        mut from: Udp,
        to: &Udp,
        note_sender: impl Fn(SocketAddr),
        destination: impl Fn() -> Option<SocketAddr>,
    ) -> Result<()> {
        loop {
            while let Some(datagram) = self.arrived(Instant::now()) {
                if let Some(destination) = destination() {
                    // One that the kernel does not take is lost.
                    let _ = to.send(&Transmit {
                        destination,
                        ecn: datagram.ecn,
                        contents: &datagram.contents,
                        segment_size: None,
                        src_ip: None,
                    });
                }
            }
            let wait = self
                .queue
                .front()
                .map(|next| next.arrives.saturating_duration_since(Instant::now()));
            for (meta, message) in from.receive(wait)? {
                let now = Instant::now();
                note_sender(meta.addr);
                for contents in message.chunks(meta.stride.max(1)) {
                    self.enter(now, meta.ecn, contents);
                }
            }
        }
    }

    /// The next one that has come through the link by now.
    fn arrived(&mut self, now: Instant) -> Option<Datagram> {
        if self.queue.front()?.arrives > now {
            return None;
        }
        self.queue.pop_front()
    }

    fn enter(&mut self, now: Instant, ecn: Option<EcnCodepoint>, contents: &[u8]) {
        if self.random.random_range(0..1000) < self.link.loss {
            return;
        }
        let start = self.free_at.max(now);
        if start - now > self.longest_wait() {
            return;
        }
        let bits = contents.len() as u64 * 8;
        self.free_at = start + Duration::from_nanos(bits * 1000 / u64::from(self.link.rate));
        self.queue.push_back(Datagram {
            arrives: self.free_at + self.round_trip() / 2,
            ecn,
            contents: contents.to_vec(),
        });
    }

    /// How long the queue before the link may take.
    fn longest_wait(&self) -> Duration {
        self.round_trip().max(SHORTEST_QUEUE)
    }

    fn round_trip(&self) -> Duration {
        Duration::from_millis(self.link.round_trip.into())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Even a link without delay has a queue.
const SHORTEST_QUEUE: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn direction(link: Link, seed: u64) -> Direction {
        Direction {
            random: SmallRng::seed_from_u64(seed),
            link,
            free_at: Instant::now(),
            queue: VecDeque::new(),
        }
    }

    #[test]
    fn datagrams_arrive_after_half_a_round_trip_at_the_rate_of_the_link() {
        let link = Link {
            round_trip: 100,
            loss: 0,
            rate: 8,
        };
        let mut direction = direction(link, 0);
        let now = Instant::now();
        direction.enter(now, None, &[0; 1000]);
        direction.enter(now, None, &[0; 1000]);
        // A thousand bytes take a millisecond.
        let ms = |ms| now + Duration::from_millis(ms);
        assert!(direction.arrived(ms(50)).is_none());
        assert!(direction.arrived(ms(51)).is_some());
        assert!(direction.arrived(ms(51)).is_none());
        assert!(direction.arrived(ms(52)).is_some());
    }

    #[test]
    fn queue_holds_one_bandwidth_delay_product() {
        let link = Link {
            round_trip: 100,
            loss: 0,
            rate: 8,
        };
        let mut direction = direction(link, 0);
        let now = Instant::now();
        for _ in 0..1000 {
            direction.enter(now, None, &[0; 1000]);
        }
        assert_eq!(direction.queue.len(), 101);
    }

    #[test]
    fn same_seed_loses_the_same_share() {
        let link = Link {
            round_trip: 0,
            loss: 10,
            rate: 10_000,
        };
        let passed = |seed| {
            let mut direction = direction(link, seed);
            let mut passed = Vec::new();
            let mut now = Instant::now();
            for number in 0..20_000_u32 {
                now += Duration::from_millis(1);
                direction.enter(now, None, &number.to_be_bytes());
                passed.extend(direction.arrived(now + Duration::from_millis(1)));
            }
            let contents = passed.into_iter().map(|datagram| datagram.contents);
            contents.collect::<Vec<_>>()
        };
        let (one, same, other) = (passed(1), passed(1), passed(2));
        assert_eq!(one, same);
        assert_ne!(one, other);
        assert!((19_700..=19_900).contains(&one.len()), "{}", one.len());
    }
}
