//! Does what the application has requested: dials, accepted connections, and single packets.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use quinn_proto::{ConnectError, ConnectionHandle, Transmit};

use super::Driver;
use crate::{
    driver::{
        connection::{DrivenConnection, Handshake},
        requests::{Accept, DialRequest, HandshakeRequest, PacketRequest, Requests},
        socket_group::SocketGroup,
    },
    error::{DialError, HandshakeError},
    net::clock,
    proto::{DialDeadlines, Output as _, SharedConnection},
};

/// The most handshakes begun in one round. Each costs 100–200 µs of TLS work, during which all
/// other connections wait.
pub(in crate::driver) const HANDSHAKES_PER_ROUND: usize = 2;

/// After this time, a round takes no further request, and it begins no second handshake that would
/// end later. It begins one handshake in any case.
const REQUEST_TIME: Duration = Duration::from_micros(400);

/// The most requests in one round of each kind: first those that cost a packet, then dials that are
/// too late, then requests for handshakes, of which many may cost nothing because nobody waits for
/// them any more.
pub(in crate::driver) const REQUESTS_PER_ROUND: usize = 64;

impl Driver {
    /// Handles requests, after the first turns of this round. Returns whether there were any.
    ///
    /// First those that cost a packet, then dials that are too late, then handshakes.
    pub(super) fn take_requests(&mut self) -> bool {
        if !self.has_requests {
            return false;
        }
        let began = clock::now();
        let requests = self.send_requested(began) + self.fail_late_dials(began);
        let requests = requests + self.begin_handshakes(began);
        self.has_requests = self.mailbox().has_requests();
        requests > 0
    }

    /// Handles requests that cost a packet. Returns how many there were.
    fn send_requested(&mut self, began: Instant) -> usize {
        let mut now = began;
        for handled in 0..REQUESTS_PER_ROUND {
            if now - began > REQUEST_TIME {
                return handled;
            }
            let Some(request) = self.mailbox().take_request(Requests::next_packet) else {
                return handled;
            };
            match request {
                PacketRequest::Refuse { key } => self.shard.refuse(key, &mut self.outbound),
                PacketRequest::Punch {
                    remote_addr,
                    socket,
                    over,
                } => {
                    let key = self.shard.punch(now, remote_addr, socket);
                    self.punches.push((key, over));
                }
                PacketRequest::Send {
                    remote_addr,
                    socket,
                    contents,
                } => self.send(remote_addr, &socket, &contents),
            }
            now = clock::now();
        }
        REQUESTS_PER_ROUND
    }

    /// Makes dials fail whose time is over. Returns how many there were.
    fn fail_late_dials(&mut self, now: Instant) -> usize {
        let mailbox = Arc::clone(self.mailbox());
        let late = || mailbox.take_request(|requests| requests.next_expired(now));
        let late = std::iter::from_fn(late).take(REQUESTS_PER_ROUND);
        late.map(|dial| self.fail_late(dial)).count()
    }

    fn fail_late(&mut self, dial: DialRequest) {
        self.shard.totals().transport.dials_expired += 1;
        let remote_addr = dial.remote_addr;
        tracing::debug!(reason = "dials_expired", %remote_addr, "dropped a dial");
        dial.reply.send(Err(HandshakeError::TimedOut.into()));
    }

    /// Begins handshakes. Returns how many requests were taken for that.
    fn begin_handshakes(&mut self, began: Instant) -> usize {
        let mut now = clock::now();
        let mut begun = 0;
        for taken in 0..REQUESTS_PER_ROUND {
            let Some(request) = self.mailbox().take_request(Requests::next_handshake) else {
                return taken;
            };
            let has_begun = match request {
                HandshakeRequest::Accept(accept) => self.accept(now, accept),
                HandshakeRequest::Dial(dial) => self.begin_dial(now, dial),
            };
            if !has_begun {
                continue;
            }
            begun += 1;
            let last = std::mem::replace(&mut now, clock::now());
            // The next one is likely to take as long as this one.
            if begun == HANDSHAKES_PER_ROUND || now - began + (now - last) > REQUEST_TIME {
                return taken + 1;
            }
        }
        REQUESTS_PER_ROUND
    }

    /// Begins the handshake of an incoming connection, if its caller still waits for it.
    fn accept(&mut self, now: Instant, accept: Accept) -> bool {
        let Accept {
            key,
            max_payload,
            reply,
        } = accept;
        if reply.is_canceled() {
            self.shard.refuse(key, &mut self.outbound);
            return false;
        }
        if self.is_shut_down {
            // The shard has refused it already.
            reply.send(Err(HandshakeError::ShutDown));
            return false;
        }
        let accepted = self.shard.accept(now, key, max_payload, &mut self.outbound);
        // If the caller no longer waits, dropping the handshake abandons it.
        reply.send(accepted.map(|accepted| self.handshake(accepted)));
        true
    }

    /// Begins a dial, if its caller still waits for it.
    fn begin_dial(&mut self, now: Instant, dial: DialRequest) -> bool {
        if dial.reply.is_canceled() {
            return false;
        }
        if dial.deadline <= now {
            self.fail_late(dial);
            return false;
        }
        let DialRequest {
            config,
            max_payload,
            remote_addr,
            socket,
            deadline,
            silent_for,
            reply,
        } = dial;
        let deadlines = DialDeadlines {
            handshake: deadline,
            silent: silent_for.map(|silent| (now + silent).min(deadline)),
        };
        let dialled =
            (self.shard).connect(now, deadlines, *config, max_payload, remote_addr, socket);
        reply.send(match dialled {
            Ok(dialled) => Ok(self.handshake(dialled)),
            Err(ConnectError::CidsExhausted) => Err(DialError::OutOfConnectionIds.into()),
            Err(error) => Err(DialError::Refused(error.into()).into()),
        });
        true
    }

    /// Sends a datagram that is not QUIC. If the socket is blocked it may be lost; the client
    /// retransmits.
    fn send(&mut self, remote_addr: SocketAddr, socket: &Arc<SocketGroup>, contents: &[u8]) {
        let transmit = Transmit {
            destination: remote_addr,
            ecn: None,
            size: contents.len(),
            segment_size: None,
            src_ip: None,
        };
        let totals = &mut self.shard.totals().transport;
        totals.bytes_sent += transmit.size as u64;
        totals.datagrams_sent += 1;
        let _ = self.outbound.send(socket, transmit, contents);
    }

    fn handshake(&self, (handle, connection): (ConnectionHandle, SharedConnection)) -> Handshake {
        let doorbell = Arc::clone(self.mailbox().doorbell());
        Handshake::new(DrivenConnection::new(connection, handle, doorbell))
    }

    /// Ends hole punches whose callers are gone, and reports those whose time is over.
    pub(super) fn end_punches(&mut self) {
        let ended = self.punches.extract_if(.., |(key, over)| {
            if over.is_canceled() {
                self.shard.end_punch(*key);
            }
            !self.shard.is_punching(*key)
        });
        for (_, over) in ended {
            over.send(());
        }
    }
}
