//! Handles incoming datagrams.

use std::{net::SocketAddr, time::Instant};

use bytes::BytesMut;
use quinn_proto::{ConnectionHandle, ConnectionId, DatagramEvent, Transmit};

use super::{Shard, slot_of};
use crate::{
    address,
    proto::{
        datagram::{Datagram, Output, Routed, SocketHandle, Unrouted, charge_of},
        reception::{FirstPacket, IncomingKey, MIN_INITIAL, Unwelcome},
        registry::Totals,
        router::{HeaderForm, Route, long_header_id, route, short_packet_offset},
        slot::InboxDatagram,
        work::Meter,
    },
    trace::dropped,
};

/// Longest connection ID in version 1 (RFC 9000 §17.2), in bytes.
const MAX_ID_LEN: usize = 20;

impl<S: SocketHandle> Shard<S> {
    /// Counts and routes a datagram that was read by this shard's driver, and handles it if it
    /// belongs to this shard: the first byte of its connection ID, modulo the number of shards, is
    /// the shard that owns it. With a meter, the time for routing is counted as well.
    pub(crate) fn route(
        &mut self,
        now: Instant,
        unrouted: Unrouted<S>,
        meter: Option<&impl Meter>,
        out: &mut impl Output<S>,
    ) -> Routed<S> {
        let began = meter.map(Meter::now);
        let route = route(&unrouted.contents, self.shards);
        let took = meter.zip(began).map(|(meter, began)| meter.now() - began);
        let Totals {
            registry,
            transport,
        } = &mut self.totals;
        if let Some(took) = took {
            registry.timed_datagrams += 1;
            registry.routing_time += took;
        }
        transport.datagrams_received += 1;
        transport.bytes_received += unrouted.contents.len() as u64;
        match route {
            Route::Quic { shard, header } => {
                let datagram = unrouted.to(shard, header);
                if shard != self.id {
                    registry.forwarded += 1;
                    return Routed::Forward(datagram);
                }
                self.handle(now, datagram, out);
                Routed::Done
            }
            Route::NonQuic => {
                dropped!(registry, non_quic, unrouted.remote_addr);
                self.note_unmatched_datagram(unrouted.remote_addr);
                Routed::NonQuic(unrouted.contents)
            }
            Route::Drop(_) => {
                dropped!(registry, malformed, unrouted.remote_addr);
                self.note_unmatched_datagram(unrouted.remote_addr);
                Routed::Done
            }
        }
    }

    /// Handles a datagram: puts it into the inbox of its connection, or begins a new connection
    /// with it.
    pub(crate) fn handle(
        &mut self,
        now: Instant,
        mut datagram: Datagram<S>,
        out: &mut impl Output<S>,
    ) {
        let Datagram {
            shard,
            header,
            remote_addr,
            local_ip,
            ..
        } = datagram;
        if !address::is_unicast(remote_addr)
            || local_ip.is_some_and(address::is_multicast_or_broadcast)
        {
            dropped!(self.totals.registry, martian, remote_addr);
            return;
        }
        if shard != self.id {
            // The datagram belongs to another shard. It gets no stateless reset and no answer, and
            // begins no connection.
            dropped!(self.totals.registry, foreign, remote_addr);
            return;
        }
        if header == HeaderForm::Short {
            self.handle_packets(now, datagram, out);
            return;
        }
        // The parts are copied: one that waits must not keep the memory of the other, or of a whole
        // slab.
        let offset = short_packet_offset(&datagram.contents);
        let short = offset.map(|offset| datagram.contents.split_off(offset));
        let own = |contents: BytesMut| BytesMut::from(&contents[..]);
        let behind = short.map(|short| Datagram {
            socket: datagram.socket.clone(),
            header: HeaderForm::Short,
            held: short.len(),
            contents: own(short),
            ..datagram
        });
        datagram.held = datagram.contents.len();
        datagram.contents = own(datagram.contents);
        let is_known = self.handle_packets(now, datagram, out);
        if let Some(behind) = behind.filter(|_| is_known) {
            self.handle_packets(now, behind, out);
        }
    }

    /// Handles packets of a datagram that all have the same header form. Returns whether they
    /// belong to a connection.
    fn handle_packets(
        &mut self,
        now: Instant,
        datagram: Datagram<S>,
        out: &mut impl Output<S>,
    ) -> bool {
        let Datagram {
            socket,
            header,
            remote_addr,
            local_ip,
            ecn,
            contents,
            held,
            ..
        } = datagram;
        let len = contents.len();
        let long_header = match header {
            HeaderForm::Short => {
                let may_reset = socket.is_listening()
                    && self.reception.may_reset()
                    && !self.reset_limits.refuses(now, remote_addr);
                self.reset_permit.set(may_reset);
                Some(LongHeader::default())
            }
            HeaderForm::Long => self.expect_long_header(&contents, remote_addr),
        };
        let Some(LongHeader {
            is_initial,
            initial_id,
            waiting,
        }) = long_header
        else {
            return false;
        };
        let buffered = self.endpoint.incoming_buffer_bytes();
        self.buf.clear();
        let event = self
            .endpoint
            .handle(now, remote_addr, local_ip, ecn, contents, &mut self.buf);
        let totals = &mut self.totals.registry;
        match event {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                let received = InboxDatagram {
                    event,
                    remote_addr,
                    local_ip,
                    len,
                    held,
                    socket,
                };
                self.put_into_inbox(now, handle, header, received, ecn.is_some(), out);
                true
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                self.reception.note_stranger();
                let Some(initial_id) = initial_id.filter(|_| socket.is_listening()) else {
                    dropped!(totals, unknown, remote_addr);
                    self.endpoint.ignore(incoming);
                    return false;
                };
                totals.routed_long += 1;
                let first = FirstPacket {
                    incoming,
                    initial_id,
                    len,
                    is_marked: ecn.is_some(),
                    socket,
                };
                self.admit(now, first, out);
                false
            }
            Some(DatagramEvent::Response(transmit)) => {
                let is_reset = header == HeaderForm::Short;
                self.answer_stranger(now, &socket, is_reset, transmit, out);
                false
            }
            None => {
                let has_grown = self.endpoint.incoming_buffer_bytes() > buffered;
                match waiting {
                    // Another datagram of an incoming connection that waits for its answer.
                    Some(key) if has_grown => {
                        totals.routed_long += 1;
                        self.reception.grow(key, len);
                        self.note_unfinished();
                    }
                    // quinn-proto dropped it before it derived any keys.
                    None if is_initial && self.reception.is_closed() => {
                        dropped!(totals, dropped_overload, remote_addr);
                    }
                    _ => {
                        dropped!(totals, unknown, remote_addr);
                        if is_initial && waiting.is_none() && len >= MIN_INITIAL {
                            // quinn-proto has derived its keys.
                            self.reception.note_stranger();
                        }
                        self.note_unmatched_datagram(remote_addr);
                    }
                }
                false
            }
        }
    }

    /// Comes before quinn-proto gets packets with long headers, and decides whether it may begin a
    /// connection with them. Returns `None` if they were dropped, because they belong to an
    /// incoming connection with which no more may wait.
    fn expect_long_header(
        &mut self,
        contents: &[u8],
        remote_addr: SocketAddr,
    ) -> Option<LongHeader> {
        let initial_id = long_header_id(contents).and_then(connection_id);
        let waiting = initial_id.and_then(|id| self.reception.find(&id));
        if let Some(key) = waiting
            && let Err(unwelcome) = self.reception.expect_more(key, remote_addr, contents.len())
        {
            let totals = &mut self.totals.registry;
            match unwelcome {
                Unwelcome::Overload => dropped!(totals, dropped_overload, remote_addr),
                Unwelcome::SourceFull => dropped!(totals, dropped_source_full, remote_addr),
                Unwelcome::TooShort => dropped!(totals, malformed, remote_addr),
                Unwelcome::OtherSource => dropped!(totals, unknown, remote_addr),
            }
            return None;
        }
        let has_ids = !self.has_no_ids();
        self.reception.open_or_close(&mut self.endpoint, has_ids);
        Some(LongHeader {
            is_initial: is_initial(contents),
            initial_id,
            waiting,
        })
    }

    /// Puts packets of a connection into its inbox, if it has one and there is room.
    fn put_into_inbox(
        &mut self,
        now: Instant,
        handle: ConnectionHandle,
        header: HeaderForm,
        received: InboxDatagram<S>,
        is_marked: bool,
        out: &mut impl Output<S>,
    ) {
        let (remote_addr, len) = (received.remote_addr, received.len);
        let is_long = header == HeaderForm::Long;
        let totals = &mut self.totals.registry;
        match header {
            HeaderForm::Long => totals.routed_long += 1,
            HeaderForm::Short => totals.routed_short += 1,
        }
        let Some(slot) = slot_of(&mut self.slots, handle) else {
            self.repeat_close(handle, remote_addr, len, out);
            return;
        };
        if is_long && slot.is_confirmed {
            dropped!(totals, dropped_late_handshake, remote_addr);
            return;
        }
        if is_long && !slot.handshake_bytes.take(len, &mut self.handshake_bytes) {
            dropped!(totals, dropped_handshake_full, remote_addr);
            return;
        }
        slot.heard_marked = Some(is_marked);
        slot.heard_at = now;
        let charge = charge_of(received.held);
        if (slot.inbox).push(received, charge, &mut self.inbox_bytes) {
            self.want_turn(handle);
        } else {
            dropped!(totals, dropped_inbox_full, remote_addr);
        }
    }

    /// Answers a datagram of no connection if it calls for that, and there is time.
    fn answer_stranger(
        &mut self,
        now: Instant,
        socket: &S,
        is_reset: bool,
        transmit: Transmit,
        out: &mut impl Output<S>,
    ) {
        let remote_addr = transmit.destination;
        dropped!(self.totals.registry, unknown, remote_addr);
        // quinn-proto has made the answer, whether or not it is sent.
        let may_send = if is_reset {
            // There is time, or it would not have been made.
            self.reception.note_reset();
            self.reset_limits.may_send(now, remote_addr)
        } else {
            self.reception.note_stranger()
        };
        if may_send && socket.is_listening() && out.is_ready(socket, remote_addr) {
            self.totals.registry.responses_sent += 1;
            tracing::trace!(%remote_addr, "answered a datagram of no connection");
            self.count_sent(&transmit);
            // If it is blocked, it is dropped: it is an answer to a stranger.
            let _ = out.send(socket, transmit, &self.buf);
        }
        self.note_unmatched_datagram(remote_addr);
    }

    /// Answers a datagram for a connection that has ended.
    fn repeat_close(
        &mut self,
        handle: ConnectionHandle,
        remote_addr: SocketAddr,
        len: usize,
        out: &mut impl Output<S>,
    ) {
        let answer = self.closing.answer(handle, remote_addr, len);
        if let Some((socket, transmit, contents)) = answer {
            let totals = &mut self.totals.transport;
            totals.closes_repeated += 1;
            totals.bytes_sent += transmit.size as u64;
            totals.datagrams_sent += 1;
            // If it is blocked, it is dropped: a later datagram may be answered as well.
            let _ = out.send(&socket, transmit, contents);
        }
    }
}

/// What the first long header of a datagram tells; the default if there is none.
#[derive(Default)]
struct LongHeader {
    is_initial: bool,
    /// Its destination connection ID, which may be the one that a client has chosen.
    initial_id: Option<ConnectionId>,
    /// The incoming connection that waits for packets with this ID.
    waiting: Option<IncomingKey>,
}

/// Whether it begins with an Initial packet, if it is of version 1 (RFC 9000 §17.2).
fn is_initial(contents: &[u8]) -> bool {
    contents.first().is_some_and(|first| first & 0xb0 == 0x80)
}

/// `None` if it is longer than version 1 permits.
fn connection_id(bytes: &[u8]) -> Option<ConnectionId> {
    (bytes.len() <= MAX_ID_LEN).then(|| ConnectionId::new(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_that_is_longer_than_version_1_permits_is_none() {
        for len in [0, 1, 8, 19, 20] {
            let id = vec![7; len];
            assert_eq!(connection_id(&id).as_deref(), Some(&id[..]));
        }
        for len in [21, 255] {
            assert_eq!(connection_id(&vec![7; len]), None);
        }
    }
}
