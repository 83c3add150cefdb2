//! A link between two network namespaces with delay, loss and a rate.
//!
//! A TUN device in each namespace hands the relay every IP packet that leaves it, so all protocols
//! pass the same link. A seeded generator decides which packets are lost, so two measurements with
//! the same arrivals lose the same packets. In front of the link is a queue of one bandwidth-delay
//! product, as in a good router. The link drops packets that find the queue full.

use std::{
    collections::VecDeque,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Args;
use harness::process::{Process, answer, limit_time, wait_for_end};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use serde::{Deserialize, Serialize};

use crate::{
    limits::LONGEST,
    network::{self, Places},
    tun::Tun,
};

/// The parameters of a link.
#[derive(Args, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    /// Milliseconds of delay, there and back together.
    #[arg(long, value_parser = clap::value_parser!(u16).range(0..=2000))]
    pub round_trip: u16,
    /// Packets out of a thousand that are lost in each direction.
    #[arg(long, value_parser = clap::value_parser!(u16).range(0..=500))]
    pub loss: u16,
    /// Mbit/s of IP packets in each direction.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub rate: u16,
}

#[derive(Args)]
pub struct Options {
    /// The processes in whose network namespaces the two ends of the link are.
    #[arg(num_args = 2)]
    ends: Vec<u32>,
    #[arg(long)]
    seed: u64,
    #[command(flatten)]
    link: Link,
}

impl Link {
    /// The command-line arguments of the process.
    fn arguments(&self) -> [String; 3] {
        [
            format!("--round-trip={}", self.round_trip),
            format!("--loss={}", self.loss),
            format!("--rate={}", self.rate),
        ]
    }
}

/// A running link. Dropping it ends the process.
pub struct Relay {
    _process: Process,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    /// The link is up.
    Up,
}

impl Relay {
    /// Connects the namespaces of the server and the client.
    pub fn start(places: &Places, link: Link, seed: u64) -> Result<Self> {
        let mut arguments = vec!["relay".to_owned(), format!("--seed={seed}")];
        arguments.extend(places.namespaces().map(|process| process.to_string()));
        arguments.extend(link.arguments());
        let process = Process::start(arguments, LONGEST)?;
        let Line::Up = process.hear()?;
        Ok(Self { _process: process })
    }
}

/// The process of a relay. It runs until standard input ends.
pub fn run(options: &Options) -> Result<()> {
    let ends = options.ends.iter().map(|process| {
        network::enter(*process)?;
        Ok(Arc::new(Tun::attach(network::TUN)?))
    });
    let ends: Vec<_> = ends.collect::<Result<_>>()?;
    limit_time(LONGEST);
    for (salt, (from, to)) in [(0, 1), (1, 0)].into_iter().enumerate() {
        let direction = Direction {
            random: SmallRng::seed_from_u64(options.seed.wrapping_mul(2) + salt as u64),
            link: options.link,
            free_at: Instant::now(),
            queue: VecDeque::new(),
        };
        let (from, to) = (Arc::clone(&ends[from]), Arc::clone(&ends[to]));
        thread::spawn(move || {
            if let Err(error) = direction.pass(&from, &to) {
                eprintln!("the link is down: {error:#}");
            }
        });
    }
    answer(&Line::Up)?;
    wait_for_end();
    Ok(())
}

/// One direction of the link.
struct Direction {
    random: SmallRng,
    link: Link,
    /// When the link will have sent the whole queue.
    free_at: Instant,
    /// The packets in flight, in order of arrival.
    queue: VecDeque<Packet>,
}

struct Packet {
    arrives: Instant,
    contents: Vec<u8>,
}

impl Direction {
    fn pass(mut self, from: &Tun, to: &Tun) -> Result<()> {
        let mut buffer = [0; network::MTU];
        loop {
            while let Some(packet) = self.arrived(Instant::now()) {
                // A packet that the kernel rejects is lost.
                let _ = to.send(&packet.contents);
            }
            let wait = self
                .queue
                .front()
                .map(|next| next.arrives.saturating_duration_since(Instant::now()));
            from.wait(wait)?;
            let now = Instant::now();
            for _ in 0..BATCH {
                let Some(contents) = from.receive(&mut buffer)? else {
                    break;
                };
                self.enter(now, contents);
            }
        }
    }

    /// Takes the next packet that has arrived by now.
    fn arrived(&mut self, now: Instant) -> Option<Packet> {
        if self.queue.front()?.arrives > now {
            return None;
        }
        self.queue.pop_front()
    }

    fn enter(&mut self, now: Instant, contents: &[u8]) {
        if self.random.random_range(0..1000) < self.link.loss {
            return;
        }
        let start = self.free_at.max(now);
        if start - now > self.longest_wait() {
            return;
        }
        let bits = contents.len() as u64 * 8;
        self.free_at = start + Duration::from_nanos(bits * 1000 / u64::from(self.link.rate));
        self.queue.push_back(Packet {
            arrives: self.free_at + self.round_trip() / 2,
            contents: contents.to_vec(),
        });
    }

    /// The longest time that a packet may spend in the queue.
    fn longest_wait(&self) -> Duration {
        self.round_trip().max(SHORTEST_QUEUE)
    }

    fn round_trip(&self) -> Duration {
        Duration::from_millis(self.link.round_trip.into())
    }
}

/// The length of the queue of a link without delay.
const SHORTEST_QUEUE: Duration = Duration::from_millis(5);

/// Packets that the relay takes at once, before it looks which of the others have arrived.
const BATCH: usize = 64;

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
    fn packets_arrive_after_half_a_round_trip_at_the_rate_of_the_link() {
        let link = Link {
            round_trip: 100,
            loss: 0,
            rate: 8,
        };
        let mut direction = direction(link, 0);
        let now = Instant::now();
        direction.enter(now, &[0; 1000]);
        direction.enter(now, &[0; 1000]);
        // At this rate a thousand bytes take a millisecond.
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
            direction.enter(now, &[0; 1000]);
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
                direction.enter(now, &number.to_be_bytes());
                passed.extend(direction.arrived(now + Duration::from_millis(1)));
            }
            let contents = passed.into_iter().map(|packet| packet.contents);
            contents.collect::<Vec<_>>()
        };
        let (one, same, other) = (passed(1), passed(1), passed(2));
        assert_eq!(one, same);
        assert_ne!(one, other);
        assert!((19_700..=19_900).contains(&one.len()), "{}", one.len());
    }
}
