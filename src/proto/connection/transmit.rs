//! What a connection sends in a turn, and its timers.

use std::time::Instant;

use quinn_proto::{Transmit, TransportErrorCode};

use super::{Connection, Direction};
use crate::proto::congestion::PathControl;

impl Connection {
    /// Begins a turn: applies what the application did since the last one.
    ///
    /// Returns `true` if the connection is to be discarded once this turn's datagrams are sent.
    pub(in crate::proto) fn apply_changes(&mut self, now: Instant) -> bool {
        self.signals.begin_turn();
        // A handshake of an incoming connection ends with its timeout. Until then its place stays
        // taken, so a client that sends too much does not get another place instead.
        let is_incoming = self.direction == Direction::Inbound && self.authenticated.is_none();
        if self.exceeded_crypto() && !is_incoming {
            self.give_up(
                TransportErrorCode::CRYPTO_BUFFER_EXCEEDED,
                "too much CRYPTO",
            );
        }
        self.linger(now);
        self.fit_path();
        self.grant_bandwidth(now);
        let is_unsent = self.authenticated.is_some() && !self.has_sent_handshake;
        if !self.lingers()
            && !is_unsent
            && let Some(closing) = self.closing.take()
        {
            self.streams.stop_sending();
            self.lift_congestion_control();
            self.quic.close(now, closing.code, closing.reason);
            self.signals.fulfil();
            return closing.abandoned;
        }
        self.streams().begin_writing(now);
        self.streams().flush_gathered();
        // Flushing asks for a turn too, and this is the turn.
        self.signals.fulfil();
        false
    }

    fn grant_bandwidth(&mut self, now: Instant) {
        let peer_id = self.authenticated.as_ref().map(|peer| peer.peer_id);
        self.streams().grant_bandwidth(peer_id.as_ref(), now);
    }

    /// To a peer on this host, limits what is written ahead to twice what may be in flight: more
    /// would only take memory. With less, a message beside a transfer would wait for
    /// acknowledgements before it is written.
    fn fit_path(&mut self) {
        let window = self.path_control.same_host_window();
        self.streams().set_path_limit(window.map(|bytes| 2 * bytes));
    }

    /// Lets the CONNECTION_CLOSE pass a full congestion window, if it was not sent yet.
    pub(in crate::proto) fn lift_congestion_control(&self) {
        PathControl::of(&self.quic).lift(true);
    }

    pub(in crate::proto) fn poll_transmit(
        &mut self,
        now: Instant,
        max_datagrams: usize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        let paced = self.path_control.paced();
        let transmit = match paced.filter(|_| self.has_sent_handshake) {
            Some(paced) => {
                let pacer = self.pacer.get_or_insert_default();
                let writers = self.streams.writers();
                pacer.poll_transmit(&mut self.quic, paced, writers, now, max_datagrams, buf)
            }
            None => self.quic.poll_transmit(now, max_datagrams, buf),
        };
        self.note_sent(transmit.as_ref());
        if transmit.is_none() && self.authenticated.is_some() && !self.has_sent_handshake {
            self.has_sent_handshake = true;
            if self.closing.is_some() {
                self.signals.want_turn();
            }
        }
        transmit
    }

    /// Produces one datagram regardless of the congestion window. If nothing is acknowledged any
    /// more, congestion control would hold it back for ever.
    pub(in crate::proto) fn poll_probe(
        &mut self,
        now: Instant,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        let paced = self.path_control.paced();
        self.path_control.lift(true);
        let transmit = match (paced, &mut self.pacer) {
            (Some(paced), Some(pacer)) => pacer.poll_probe(&mut self.quic, paced, now, buf),
            _ => self.quic.poll_transmit(now, 1, buf),
        };
        self.path_control.lift(false);
        self.note_sent(transmit.as_ref());
        transmit
    }

    fn note_sent(&mut self, transmit: Option<&Transmit>) {
        if let Some(transmit) = transmit {
            self.streams.note_sent(transmit.size);
        }
    }

    /// Sends a PING. Its acknowledgement also reveals earlier losses, which would otherwise be
    /// retransmitted only after a timeout.
    pub(in crate::proto) fn ping(&mut self) {
        self.quic.ping();
    }

    /// The number of ack-eliciting frames sent, of the types that matter here.
    pub(in crate::proto) fn elicited(&self) -> u64 {
        let sent = self.quic.stats().frame_tx;
        sent.crypto + sent.stream + sent.ping + sent.reset_stream
    }

    pub(in crate::proto) fn poll_timeout(&mut self) -> Option<Instant> {
        let paced = (self.pacer.as_ref()).and_then(|pacer| pacer.next_timeout());
        let deadlines = [
            self.quic.poll_timeout(),
            paced,
            self.streams.next_grant(),
            self.streams.next_call(),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Returns whether quinn-proto [has returned](Self::note_return) to the previous path.
    pub(in crate::proto) fn handle_timeout(&mut self, now: Instant) -> bool {
        self.quic.handle_timeout(now);
        if let Some(pacer) = &mut self.pacer {
            pacer.handle_timeout(now);
        }
        self.has_returned()
    }
}
