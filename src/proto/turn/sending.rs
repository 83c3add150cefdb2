//! Sends what a connection has to send, as far as its path and its socket let it.

use std::{mem, net::SocketAddr};

use quinn_proto::Transmit;

use super::Turn;
use crate::{
    address::Host,
    error::HandshakeError,
    packets::Challenge,
    proto::{
        closing::ClosePacket,
        datagram::{Output, Sent, SocketHandle, datagrams},
        path_doubts::Acknowledged,
    },
    trace::dropped,
};

/// Features of the operating system and of routers to use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offload {
    /// Mark packets for ECN, so that routers mark them again before they have to drop any.
    pub(crate) ecn: bool,
    /// Let the kernel or the interface cut batches into datagrams.
    pub(crate) segmentation: bool,
}

/// The result of sending in a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proto) enum Sending {
    /// The socket is not writable.
    Blocked,
    /// Everything was sent that congestion control permits.
    Done,
    /// There is more to send in the next turn.
    Unfinished,
}

/// The most turns in a row in which a connection only receives, because more has arrived than one
/// turn handles.
///
/// It would send mostly acknowledgements, and one acknowledges all of it.
const TURNS_WITHOUT_SENDING: u8 = 3;

/// The most batches of datagrams that one connection sends in one turn.
pub(in crate::proto) const BATCHES_PER_TURN: usize = 2;

/// The most datagrams of a batch with CONNECTION_CLOSE: one for each packet number space.
///
/// quinn-proto closes in all spaces that have keys. If the packets do not fit into what it may send
/// at once, it begins again with the first space. A long Retry token may leave no room for another
/// packet beside it.
const CLOSE_DATAGRAMS: usize = 3;

/// The most datagrams in a batch for segmentation offload (Linux permits 64).
const MAX_SEGMENTS: usize = 44;

/// Largest UDP payload that IPv4 carries, in bytes; a batch must not be larger.
const MAX_BATCH: usize = 65_507;

impl<S: SocketHandle> Turn<'_, S> {
    pub(super) fn send(&mut self, out: &mut impl Output<S>, buf: &mut Vec<u8>) -> Sending {
        // The end is told to the peer before the application, because the application may stop
        // running.
        let may_wait = self.connection.loss().is_none();
        if may_wait
            && !self.slot.inbox.is_empty()
            && self.slot.turns_without_sending < TURNS_WITHOUT_SENDING
        {
            self.slot.turns_without_sending += 1;
            return Sending::Unfinished;
        }
        self.slot.turns_without_sending = 0;
        if self.connection.is_over() {
            self.connection.lift_congestion_control();
        }
        self.doubt_path();
        let remote_addr = self.connection.remote_addr();
        if !out.is_ready(&self.slot.socket, remote_addr) {
            return Sending::Blocked;
        }
        self.watch_delivery(&*out);
        for _ in 0..BATCHES_PER_TURN {
            // A challenge to a new path is not held back, because no timer is served before.
            let is_probe = mem::take(&mut self.slot.ignores_window) || self.slot.untried_path;
            buf.clear();
            let asks = self.slot.silence.owes_nothing()
                || self.slot.doubter.wants_to_know()
                || self.slot.delivery.wants_to_know();
            let elicited = asks.then(|| self.connection.elicited());
            let transmit = if is_probe {
                self.connection.poll_probe(self.now, buf)
            } else {
                let max_segments = self.max_segments(&*out, remote_addr);
                self.connection.poll_transmit(self.now, max_segments, buf)
            };
            let Some(mut transmit) = transmit else {
                self.slot.untried_path = false;
                return Sending::Done;
            };
            // quinn-proto sets no source address for connections that we dialled, and keeps the
            // first one of others. A challenge to the peer's previous address leaves from the
            // source that the peer knows.
            let left = self.slot.previous_path.as_ref();
            let left = left.filter(|left| left.remote_addr == transmit.destination);
            let left_socket = left.map(|left| left.socket.clone());
            transmit.src_ip = left.map_or(self.slot.local_ip, |left| left.local_ip);
            // A peer that sends no marks may have found that marked packets do not arrive.
            let doubts = self.slot.doubter.doubts();
            let may_mark = self.slot.heard_marked.unwrap_or(true) && doubts.may_mark(self.now);
            if !(self.offload.ecn && may_mark) {
                transmit.ecn = None;
            }
            if elicited.is_some_and(|elicited| self.connection.elicited() > elicited) {
                self.slot.silence.note_sent(self.now);
                self.slot.doubter.note_sent(self.now);
                self.slot.delivery.note_sent(self.now);
            }
            // The packet may also go to the peer's previous address, to check whether it still
            // answers there.
            if transmit.destination == self.connection.remote_addr() {
                self.slot.untried_path = false;
            }
            if mem::take(&mut self.slot.nothing_sent_since) {
                self.slot.idle_since = self.now;
            }
            let Some(transmit) = self.credited(transmit, buf) else {
                continue;
            };
            let count = datagrams(&transmit);
            let totals = &mut self.totals.transport;
            totals.bytes_sent += transmit.size as u64;
            totals.datagrams_sent += count;
            // They will be acknowledged, which takes time as well.
            self.slot.account.earn(count, transmit.size);
            self.moved += transmit.size;
            // What goes to another address than the peer's is about the path there.
            let is_elsewhere = transmit.destination != remote_addr;
            let is_over = self.connection.is_over();
            if is_over && !is_elsewhere && !self.connection.was_ended_by_peer() {
                self.keep_close_packet(&transmit, buf);
            }
            let from_anywhere = Transmit {
                src_ip: None,
                ..transmit
            };
            let socket = left_socket.as_ref().unwrap_or(&self.slot.socket);
            match out.send(socket, transmit, buf) {
                Sent::Ready => {}
                Sent::SourceGone if is_over => {
                    // A closed connection retransmits nothing, and needs no new connection ID, so
                    // any source address will do.
                    let _ = out.send(socket, from_anywhere, buf);
                }
                Sent::Forbidden => self.note_forbidden(),
                // It was to leave from the previous source, which is not the current one.
                Sent::SourceGone if left_socket.is_some() => {}
                // QUIC retransmits what was lost.
                Sent::SourceGone => self.leave_source(&*out, true),
                // It waits there, and the peer need not wait for it.
                Sent::Blocked if is_elsewhere => {}
                Sent::Blocked => return Sending::Blocked,
            }
        }
        if self.connection.is_over() {
            // The CONNECTION_CLOSE is among them. Nothing else would limit how often quinn-proto
            // repeats it if it does not fit into one batch.
            Sending::Done
        } else {
            Sending::Unfinished
        }
    }

    /// The most datagrams of the next batch, unless it is a probe.
    fn max_segments(&self, out: &impl Output<S>, remote_addr: SocketAddr) -> usize {
        let mtu = usize::from(self.connection.current_mtu());
        // Without validation one datagram at a time, so that at most one exceeds the
        // anti-amplification limit.
        let is_validated = self.slot.amplification.is_validated(remote_addr);
        // In the handshake also one at a time, because it would not progress on a path that drops
        // batches.
        let is_established = self.connection.authenticated().is_some();
        let may_batch = self.offload.segmentation && self.slot.doubter.doubts().may_batch(self.now);
        let most = if self.connection.is_over() && may_batch {
            CLOSE_DATAGRAMS
        } else if is_validated && is_established && may_batch {
            MAX_SEGMENTS
        } else {
            1
        };
        out.max_segments(&self.slot.socket, remote_addr)
            .min(most)
            .min(MAX_BATCH / mtu.max(1))
            .max(1)
    }

    /// Returns the part of a batch, whose contents are in `buf`, that may be sent to an address
    /// that may not be validated.
    fn credited(&mut self, transmit: Transmit, buf: &mut Vec<u8>) -> Option<Transmit> {
        // Taken even if the address is validated: the challenge must not be attributed to the next
        // packet.
        let challenge = self.connection.take_path_challenge();
        let addresses = &mut self.slot.amplification;
        let destination = transmit.destination;
        if addresses.is_validated(destination) {
            return Some(transmit);
        }
        if let Some(challenge) = &challenge {
            addresses.note_challenge(destination, challenge.token);
        }
        if addresses.may_send(destination, transmit.size) {
            return Some(transmit);
        }
        if let Some(Challenge { unpadded, .. }) = challenge
            && transmit.segment_size.is_none()
        {
            let size = unpadded.len();
            if addresses.may_send(destination, size) || addresses.may_ask(self.now, destination) {
                // RFC 9000 §8.2.1: a datagram with PATH_CHALLENGE is not padded if the limit
                // forbids it. The padded packet with the same number is dropped.
                *buf = unpadded;
                return Some(Transmit { size, ..transmit });
            }
        }
        // quinn-proto will regard it as lost.
        let held_back = datagrams(&transmit);
        dropped!(self.totals.transport, sends_not_credited += held_back);
        None
    }

    /// Checks whether the path drops marked packets or batches.
    fn doubt_path(&mut self) {
        let control = self.connection.path_control();
        let acknowledged = Acknowledged {
            bytes: control.acknowledged(),
            is_all: !control.was_in_flight(),
            is_late: control.found_late(),
        };
        let host = Host::of(self.connection.remote_addr().ip());
        let doubter = &mut self.slot.doubter;
        if let Some(doubts) = doubter.note_acknowledged(self.now, acknowledged) {
            self.totals.transport.path_doubts += 1;
            tracing::debug!(?doubts, "the path may drop marked packets or batches");
            self.doubtful_hosts.note(self.now, host, doubts);
        }
        if doubter.begins(self.now, self.connection.rtt()) {
            self.connection.path_control().look_for_late(self.now);
        }
    }

    /// Ends a dial whose packets the operating system refuses twice, so that it need not wait for
    /// its timeout. A rate-limiting firewall may let the second packet pass.
    fn note_forbidden(&mut self) {
        if self.slot.unanswered_dial.is_none() {
            return;
        }
        if mem::replace(&mut self.slot.was_forbidden, true) {
            self.connection.abandon(HandshakeError::NotPermitted);
        }
    }

    /// Keeps the packet with CONNECTION_CLOSE, the last one of the batch.
    fn keep_close_packet(&mut self, transmit: &Transmit, contents: &[u8]) {
        let size = transmit.segment_size.unwrap_or(transmit.size);
        self.slot.close_packet = contents.chunks(size).last().map(|contents| ClosePacket {
            socket: self.slot.socket.clone(),
            destination: transmit.destination,
            src_ip: transmit.src_ip,
            contents: contents.into(),
        });
    }
}
