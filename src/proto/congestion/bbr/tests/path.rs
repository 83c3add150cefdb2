//! A path for the model alone.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use quinn_proto::congestion::Controller as _;

use super::{
    super::{Bbr, State},
    INITIAL_WINDOW, PACKET, ms,
};

/// A path with a rate, a round trip and a queue. Packets are sent one by one, paced as the model
/// says, and each is acknowledged by itself.
pub(super) struct Path {
    pub(super) bbr: Bbr,
    began: Instant,
    pub(super) now: Instant,
    /// Bytes per second.
    pub(super) rate: f64,
    pub(super) rtt: Duration,
    pub(super) queue_bytes: f64,
    /// Of a thousand packets, how many are lost.
    pub(super) lost_of_1000: u64,
    /// Whether losses are told only when the test [says so](Self::tell_lost).
    pub(super) holds_losses: bool,
    /// Bytes per second that the application writes at most.
    pub(super) writes: f64,
    /// When the last packet has passed the bottleneck.
    pub(super) free: Instant,
    may_send: Instant,
    pub(super) has_data: Instant,
    sent: u64,
    pub(super) in_flight: VecDeque<Packet>,
    /// All states, in their order.
    pub(super) states: Vec<State>,
}

#[derive(Clone, Copy)]
pub(super) struct Packet {
    pub(super) sent: Instant,
    /// When its acknowledgement comes; `None` if it is lost.
    arrives: Option<Instant>,
}

impl Path {
    /// 12 MB/s and 50 ms: 500 packets in a round trip, and a queue for twice as many.
    pub(super) fn new() -> Self {
        let now = crate::net::clock::now();
        Self {
            bbr: Bbr::new(INITIAL_WINDOW, now, PACKET as u16),
            began: now,
            now,
            rate: 12e6,
            rtt: ms(50),
            queue_bytes: 1_200_000.0,
            lost_of_1000: 0,
            holds_losses: false,
            writes: f64::INFINITY,
            free: now,
            may_send: now,
            has_data: now,
            sent: 0,
            in_flight: VecDeque::new(),
            states: vec![State::Startup],
        }
    }

    pub(super) fn bdp(&self) -> f64 {
        self.rate * self.rtt.as_secs_f64()
    }

    /// Lets one thing happen: a packet is sent, or an acknowledgement comes.
    fn step(&mut self) {
        let bytes = self.in_flight.len() as u64 * PACKET;
        let may_send = bytes + PACKET < self.bbr.window as u64;
        let send_at = self.may_send.max(self.has_data).max(self.now);
        let arrival = self.in_flight.iter().find_map(|packet| packet.arrives);
        match arrival {
            Some(arrival) if !may_send || arrival <= send_at => self.acknowledge(arrival),
            None if !may_send => self.time_out(),
            _ => self.send(send_at),
        }
        if self.states.last() != Some(&self.bbr.state) {
            self.states.push(self.bbr.state);
        }
    }

    fn send(&mut self, at: Instant) {
        if self.has_data > self.now {
            // Until then there was nothing to send.
            self.bbr.shared.note_dry();
        }
        self.now = at;
        self.sent += 1;
        let interval = Duration::from_secs_f64(PACKET as f64 / self.bbr.pacing_rate);
        self.may_send = self.may_send.max(at) + interval;
        if self.writes.is_finite() {
            let interval = Duration::from_secs_f64(PACKET as f64 / self.writes);
            self.has_data = self.has_data.max(at) + interval;
        }
        let waits = self.free.saturating_duration_since(at);
        let is_full = waits.as_secs_f64() * self.rate > self.queue_bytes;
        let is_lost = self.sent * 7919 % 1000 < self.lost_of_1000;
        let arrives = (!is_full && !is_lost).then(|| {
            self.free = at.max(self.free) + Duration::from_secs_f64(PACKET as f64 / self.rate);
            self.free + self.rtt
        });
        self.in_flight.push_back(Packet { sent: at, arrives });
        self.bbr.on_sent(at, PACKET, self.sent);
    }

    fn acknowledge(&mut self, at: Instant) {
        self.now = at;
        let index = self.missing();
        let packet = self.in_flight.remove(index).unwrap();
        let left = self.in_flight.len() as u64 * PACKET;
        self.bbr.settle();
        self.bbr.sampler.note_acknowledged(at, packet.sent, PACKET);
        self.bbr.update(at, left);
        // Three later packets have arrived.
        if index > 0 && self.sent.is_multiple_of(3) && !self.holds_losses {
            self.tell_lost(index);
        }
    }

    /// Packets before the first one that arrives.
    pub(super) fn missing(&self) -> usize {
        let mut in_flight = self.in_flight.iter();
        in_flight
            .position(|packet| packet.arrives.is_some())
            .unwrap_or(self.in_flight.len())
    }

    /// Tells that the oldest packets in flight are lost.
    pub(super) fn tell_lost(&mut self, count: usize) {
        let newest = self.in_flight[count - 1].sent;
        self.in_flight.drain(..count);
        (self.bbr).on_congestion_event(self.now, newest, false, count as u64 * PACKET);
    }

    /// Loses the newest packets in flight.
    pub(super) fn lose(&mut self, count: usize) {
        for packet in self.in_flight.iter_mut().rev().take(count) {
            packet.arrives = None;
        }
    }

    /// All that is in flight is lost.
    fn time_out(&mut self) {
        self.now += ms(200);
        self.tell_lost(self.in_flight.len());
    }

    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
    }

    /// Until it is in that state, in a minute at most.
    pub(super) fn run_until(&mut self, state: State) {
        self.run_until_it(|bbr| bbr.state == state);
    }

    pub(super) fn run_until_it(&mut self, is_there: impl Fn(&Bbr) -> bool) {
        let end = self.now + Duration::from_secs(60);
        while !is_there(&self.bbr) {
            self.step();
            assert!(self.now < end, "{:?}", self.states);
        }
    }

    pub(super) fn age(&self) -> Duration {
        self.now - self.began
    }
}
