//! A hostile peer that sends arbitrary frames, and an honest peer.

use std::{
    collections::VecDeque,
    iter,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::BytesMut;
use futures::FutureExt;
use quinn_proto::{TransportErrorCode, VarInt};

use super::{
    mangle::{self, Parsed},
    network::Network,
    node::{Outgoing, Setup},
    peer::Peer,
};
use crate::{
    error::ConnectionError,
    proto::StreamId,
    simulation::{
        frame::{self, Frame, Number},
        rewrite::{Changes, Level},
    },
};

/// First stream of the dialer, and of the listener (RFC 9000 §2.1).
pub(super) const DIALERS_STREAM: u64 = 0;
pub(super) const LISTENERS_STREAM: u64 = 1;

/// The role of the hostile peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hostile {
    Dials,
    Listens,
}

pub(super) const SIDES: [Hostile; 2] = [Hostile::Dials, Hostile::Listens];

/// A node of one shard with two connections: to an honest peer, and to a hostile peer that sends
/// given frames.
pub(super) struct Scene {
    pub(super) network: Network,
    side: Hostile,
    script: Arc<Mutex<Script>>,
    /// The hostile peer's end of its connection, and the victim's.
    pub(super) hostile: Peer,
    pub(super) victim: Peer,
    honest: (Peer, Peer),
    /// A stream whose data makes the hostile peer send packets. The data never arrives.
    carrier: StreamId,
}

pub(super) const VICTIM: usize = 0;
const HONEST: usize = 1;
pub(super) const HOSTILE: usize = 2;

impl Scene {
    pub(super) fn new(side: Hostile) -> Self {
        Self::with(side, Setup::default())
    }

    /// With such a victim.
    pub(super) fn with(side: Hostile, victim: Setup) -> Self {
        let script = Arc::new(Mutex::new(Script::default()));
        let mut network = Network::new(1);
        network.add(victim);
        network.add(Setup::default());
        network.add(Setup {
            changes: Script::changes(&script),
            ..Setup::default()
        });
        let honest = network.connect(HONEST, VICTIM);
        let (hostile, victim) = match side {
            Hostile::Dials => network.connect(HOSTILE, VICTIM),
            Hostile::Listens => {
                let (victim, hostile) = network.connect(VICTIM, HOSTILE);
                (hostile, victim)
            }
        };
        network.run_for(Duration::from_secs(1));
        let carrier = hostile.open().now_or_never().unwrap().unwrap();
        script.lock().unwrap().carrier = Some(carrier.into());
        Self {
            network,
            side,
            script,
            hostile,
            victim,
            honest,
            carrier,
        }
    }

    /// A stream that the hostile peer may open.
    pub(super) fn stream(&self) -> u64 {
        match self.side {
            Hostile::Dials => DIALERS_STREAM,
            Hostile::Listens => LISTENERS_STREAM,
        }
    }

    /// From now on the hostile peer sends what it is made to in place of data of this stream, which
    /// thus has a final size as large.
    pub(super) fn carry_by(&mut self, stream: u64) {
        self.script.lock().unwrap().carrier = Some(stream);
        self.carrier = StreamId::from(VarInt::from_u64(stream).unwrap());
    }

    /// Keeps the hostile peer's next packet, such as an answer to STOP_SENDING, from the victim.
    pub(super) fn withhold_next(&mut self) {
        let nothing = frame::encode(&[Frame::Ping]);
        self.script.lock().unwrap().packets.push_back(nothing);
    }

    /// Makes the hostile peer send these frames in its next packet, and waits for the effects.
    pub(super) fn say(&mut self, frames: &[Frame]) {
        self.say_at_once([frames].into_iter());
    }

    /// The same with several packets, which arrive together.
    pub(super) fn say_at_once<'a>(&mut self, packets: impl Iterator<Item = &'a [Frame]>) {
        self.begin_to_say(packets);
        self.network.settle();
        assert!(self.has_said_all());
        self.network.run_for(Duration::from_millis(45));
    }

    pub(super) fn begin_to_say<'a>(&mut self, packets: impl Iterator<Item = &'a [Frame]>) {
        for packet in packets {
            let said = frame::encode(packet);
            assert!(said.len() <= CARRIER, "{} bytes do not fit", said.len());
            self.script.lock().unwrap().packets.push_back(said);
            let data = [0; LARGEST_PAYLOAD];
            assert_eq!(self.hostile.write_now(self.carrier, &data), data.len());
        }
    }

    /// Makes the hostile peer send many packets, as fast as it may.
    pub(super) fn flood(&mut self, packets: impl Iterator<Item = Vec<Frame>>) {
        let mut packets = packets.peekable();
        while packets.peek().is_some() && self.is_open() {
            let some: Vec<_> = packets.by_ref().take(AT_ONCE).collect();
            self.begin_to_say(some.iter().map(Vec::as_slice));
            while !self.has_said_all() && self.is_open() {
                self.network.run_for(Duration::from_millis(5));
            }
        }
        self.network.run_for(Duration::from_millis(45));
    }

    /// Opens streams of the hostile peer without sending on them.
    pub(super) fn open(&mut self, count: usize) -> Vec<u64> {
        (0..count)
            .map(|_| {
                let opened = self.hostile.open().now_or_never();
                opened.expect("no more streams are let").unwrap().into()
            })
            .collect()
    }

    /// Opens streams of the hostile peer and sends the first byte of each.
    pub(super) fn begin(&mut self, count: usize) -> Vec<u64> {
        let mut streams: Vec<u64> = Vec::new();
        while streams.len() < count {
            let hostile = self.hostile.clone();
            let opened = iter::from_fn(|| hostile.open().now_or_never())
                .take(count - streams.len())
                .map(|stream| stream.unwrap().into());
            let opened: Vec<u64> = opened.collect();
            assert!(!opened.is_empty(), "no more than {} are let", streams.len());
            let first = |&stream| Frame::stream(stream, 0, b"x");
            let packets = (opened.chunks(50)).map(|some| some.iter().map(first).collect());
            self.flood(packets);
            streams.extend(opened);
        }
        streams
    }

    /// Makes the victim's application accept all open streams. Returns them without the carrier.
    pub(super) fn accept_all(&mut self) -> Vec<StreamId> {
        let victim = self.victim.clone();
        iter::from_fn(|| victim.accept().now_or_never())
            .map(Result::unwrap)
            .filter(|&stream| stream != self.carrier)
            .collect()
    }

    /// Makes the hostile peer send this frame in a small packet, which does not arrive.
    pub(super) fn say_little(&mut self, frame: &Frame) -> Vec<Outgoing> {
        let said = frame::encode(std::slice::from_ref(frame));
        let data = vec![0; said.len().max(20)];
        self.script.lock().unwrap().packets.push_back(said);
        assert_eq!(self.hostile.write_now(self.carrier, &data), data.len());
        self.network.settle();
        assert!(self.has_said_all());
        self.network.intercept()
    }

    /// Makes the hostile peer send this frame in a small packet. Returns the packet's length.
    pub(super) fn whisper(&mut self, frame: &Frame) -> u64 {
        let datagrams = self.say_little(frame);
        let (now, from) = (self.network.now, self.network.nodes[HOSTILE].addr());
        for datagram in &datagrams {
            self.network.nodes[VICTIM].receive(now, from, &datagram.contents);
        }
        self.network.settle();
        let lengths = datagrams.iter().map(|datagram| datagram.contents.len());
        lengths.max().unwrap() as u64
    }

    pub(super) fn has_said_all(&self) -> bool {
        self.script.lock().unwrap().packets.is_empty()
    }

    /// Enlarges the hostile peer's congestion window, so that it can send many packets at once.
    pub(super) fn open_the_congestion_window(&mut self) {
        let mut rest = 1_000_000;
        while rest > 0 {
            rest -= self.hostile.write_now(self.carrier, &vec![0; rest]);
            self.network.run_for(Duration::from_millis(45));
        }
        self.network.run_for(Duration::from_secs(1));
    }

    pub(super) fn is_open(&self) -> bool {
        self.hostile.loss().is_none()
    }

    /// Asserts that the hostile connection continues.
    pub(super) fn assert_open(&mut self) {
        assert_eq!((self.victim.loss(), self.hostile.loss()), (None, None));
        self.assert_honest_goes_on();
    }

    /// Asserts that the hostile connection has ended, and that the hostile peer was told why.
    pub(super) fn assert_closed(&mut self, code: TransportErrorCode) {
        self.assert_ended(code);
        // Nothing is left of it.
        self.network.run_for(Duration::from_secs(5));
        assert_eq!(self.network.nodes[VICTIM].stats().0.connections, 1);
        self.network.nodes[HOSTILE].assert_empty();
    }

    /// Asserts that the victim has ended the connection for this reason, and said so.
    pub(super) fn assert_ended(&mut self, code: TransportErrorCode) {
        self.assert_violation(code);
        let told = self.hostile.loss();
        assert!(
            matches!(&told, Some(ConnectionError::AbortedByPeer { code: told, .. }) if *told == u64::from(code)),
            "{told:?} instead of {code:?}"
        );
        self.assert_honest_goes_on();
    }

    pub(super) fn assert_violation(&self, code: TransportErrorCode) {
        let seen = self.victim.loss();
        assert!(
            matches!(&seen, Some(ConnectionError::Violation { code: seen, .. }) if *seen == u64::from(code)),
            "{seen:?} instead of {code:?}"
        );
    }

    pub(super) fn assert_honest_goes_on(&mut self) {
        let (dialer, listener) = self.honest.clone();
        let received = self.network.block_on(async move {
            let stream = dialer.open().await.unwrap();
            dialer.write_all(stream, b"still here").await.unwrap();
            dialer.finish(stream).unwrap();
            let accepted = listener.accept().await.unwrap();
            let received = listener.read_to_end(accepted).await;
            listener.drop_stream(accepted);
            dialer.drop_stream(stream);
            received
        });
        assert_eq!(received.as_deref(), Ok(&b"still here"[..]));
    }
}

/// The frames that the hostile peer sends.
#[derive(Default)]
struct Script {
    packets: VecDeque<Vec<u8>>,
    carrier: Option<u64>,
}

impl Script {
    fn changes(script: &Arc<Mutex<Self>>) -> Changes {
        let [saying, hearing] = [(); 2].map(|()| Arc::clone(script));
        Changes {
            said: Some(Arc::new(Mutex::new(move |level, payload: &mut [u8]| {
                if level == Level::OneRtt {
                    saying.lock().unwrap().say(payload);
                }
            }))),
            heard: Some(Arc::new(Mutex::new(
                move |level, payload: &mut BytesMut| {
                    if level == Level::OneRtt {
                        hearing.lock().unwrap().hear(payload);
                    }
                },
            ))),
        }
    }

    fn say(&mut self, payload: &mut [u8]) {
        if (self.packets.front()).is_some_and(|said| said.len() <= payload.len())
            && let Some(said) = self.packets.pop_front()
        {
            frame::overwrite(payload, &said);
            return;
        }
        let Some(Parsed {
            others: mut said,
            streams,
        }) = mangle::parse(payload)
        else {
            return;
        };
        for (stream, piece) in streams {
            if Some(stream) != self.carrier {
                piece.frame(stream).encode(&mut said);
            }
        }
        if said.len() < payload.len() {
            Frame::Ping.encode(&mut said);
            frame::overwrite(payload, &said);
        }
    }

    /// Removes the carrier's data on arrival, so that there can be any amount of it.
    fn hear(&self, payload: &mut BytesMut) {
        let Some(carrier) = self.carrier else {
            return;
        };
        let limit = Number(1 << 40);
        let stream = Number(carrier);
        payload.extend_from_slice(&frame::encode(&[
            Frame::MaxData(limit),
            Frame::MaxStreamData { stream, limit },
        ]));
    }
}

/// Bytes that fit into a packet on any path.
const CARRIER: usize = 1150;

/// Data that fills a packet of its own on this path.
const LARGEST_PAYLOAD: usize = 1472;

/// The number of packets that a flood queues at a time.
const AT_ONCE: usize = 64;
