//! UDP with segmentation offload and AES-128-GCM for each datagram, without a protocol: the limit.
//!
//! It has no handshake, no acknowledgements and no retransmission. The receiver gives credit, so
//! that its socket buffer does not overflow. If a datagram is lost nevertheless, the measurement
//! fails. The key is public: the encryption only costs its CPU time and protects nothing.

use std::{
    future::{Ready, ready},
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use anyhow::{Context as _, Result};
use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use futures::{AsyncRead, AsyncWrite};
use libp2p_identity::Keypair;
use quinn_udp::Transmit;

use super::{Address, Connection, Endpoint, Facts, Setup, equalised};
use crate::udp::Udp;

pub struct Bare {
    link: Link,
    address: Address,
}

impl Endpoint for Bare {
    type Connection = Link;
    type Incoming = Ready<Result<Link>>;

    const ONE_AT_A_TIME: bool = true;

    async fn bind(identity: &Keypair, setup: Setup) -> Result<Self> {
        let socket = Udp::bind(setup.ip)?;
        let key = UnboundKey::new(&AES_128_GCM, &[7; 16])?;
        Ok(Self {
            address: Address {
                socket: socket.local_addr()?,
                peer: identity.public().to_peer_id(),
            },
            link: Link(Arc::new(Mutex::new(Inner {
                window: socket.receive_buffer()? as u64 / 8,
                socket,
                key: LessSafeKey::new(key),
                remote: None,
                batch: Vec::with_capacity(BATCH),
                sealed: 0,
                opened: 0,
                sent: 0,
                acknowledged: 0,
                received: 0,
                credited: 0,
                contents: Vec::new(),
                taken: 0,
                ended: false,
            }))),
        })
    }

    fn address(&self) -> Address {
        self.address.clone()
    }

    async fn connect(&self, to: &Address) -> Result<Link> {
        self.link.lock().remote = Some(to.socket);
        Ok(self.link.clone())
    }

    async fn accept(&self) -> Result<Self::Incoming> {
        let mut inner = self.link.lock();
        while inner.remote.is_none() {
            inner.receive()?;
        }
        Ok(ready(Ok(self.link.clone())))
    }

    fn facts(&self, _: &Link) -> Facts {
        Facts {
            suite: "AES-128-GCM".to_owned(),
            group: "none".to_owned(),
            mtu: equalised::MTU.to_string(),
            windows: format!("{} bytes", self.link.lock().window),
            segments: format!("up to {SEGMENTS}"),
        }
    }
}

/// A connection with one stream at a time.
#[derive(Clone)]
pub struct Link(Arc<Mutex<Inner>>);

impl Link {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection for Link {
    type Stream = Stream;

    async fn open(&self) -> Result<Stream> {
        self.lock().ended = false;
        Ok(Stream(self.clone()))
    }

    async fn accept(&self) -> Result<Stream> {
        let mut inner = self.lock();
        inner.ended = false;
        while inner.contents.is_empty() {
            inner.receive()?;
        }
        Ok(Stream(self.clone()))
    }
}

struct Inner {
    socket: Udp,
    key: LessSafeKey,
    remote: Option<SocketAddr>,
    /// The most bytes in flight.
    window: u64,
    /// Encrypted datagrams that the next system call sends.
    batch: Vec<u8>,
    /// The numbers of encrypted and of decrypted datagrams, which are their nonces.
    sealed: u64,
    opened: u64,
    /// Bytes sent, and how many of them the peer has credited.
    sent: u64,
    acknowledged: u64,
    /// Bytes received, and how many of them we have credited.
    received: u64,
    credited: u64,
    /// Received data, and how much of it was read.
    contents: Vec<u8>,
    taken: usize,
    ended: bool,
}

impl Inner {
    fn seal(&mut self, kind: u8, payload: &[u8]) -> Result<()> {
        let start = self.batch.len();
        self.batch.push(kind);
        self.batch.extend_from_slice(payload);
        let body = &mut self.batch[start + 1..];
        let nonce = nonce(self.sealed);
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::from([kind]), body)?;
        self.batch.extend_from_slice(tag.as_ref());
        self.sealed += 1;
        // GSO allows only the last datagram of a batch to be shorter.
        if self.batch.len() + DATAGRAM > BATCH || payload.len() < PAYLOAD {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let destination = self.remote.context("nobody to send to")?;
        if !self.batch.is_empty() {
            self.socket.send(&Transmit {
                destination,
                ecn: None,
                contents: &self.batch,
                segment_size: Some(DATAGRAM),
                src_ip: None,
            })?;
            self.batch.clear();
        }
        Ok(())
    }

    /// Receives a batch, and gives credit for the one before it.
    fn receive(&mut self) -> Result<()> {
        if self.taken == self.contents.len() {
            self.contents.clear();
            self.taken = 0;
        }
        if self.received - self.credited > self.window / 4 {
            self.credited = self.received;
            self.flush()?;
            self.seal(CREDIT, &self.credited.to_be_bytes())?;
        }
        for (meta, message) in self.socket.receive(None)? {
            self.remote = Some(meta.addr);
            for datagram in message.chunks(meta.stride) {
                let [kind, sealed @ ..] = datagram else {
                    continue;
                };
                let (body, tag) = sealed
                    .split_last_chunk::<TAG>()
                    .context("a datagram without a tag")?;
                let start = self.contents.len();
                self.contents.resize(start + body.len(), 0);
                let opened = &mut self.contents[start..];
                // The nonce is the datagram's number, so decryption fails after a loss.
                self.key
                    .open_separate_gather(nonce(self.opened), Aad::from([*kind]), body, tag, opened)
                    .with_context(|| format!("datagram {} was lost", self.opened))?;
                self.opened += 1;
                match *kind {
                    DATA => self.received += body.len() as u64,
                    END => self.ended = true,
                    _ => {
                        let credit = opened.first_chunk().context("a credit of no size")?;
                        self.acknowledged = u64::from_be_bytes(*credit);
                        self.contents.truncate(start);
                    }
                }
            }
        }
        Ok(())
    }

    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        while self.taken == self.contents.len() && !self.ended {
            self.receive()?;
        }
        let length = buf.len().min(self.contents.len() - self.taken);
        buf[..length].copy_from_slice(&self.contents[self.taken..][..length]);
        self.taken += length;
        Ok(length)
    }

    fn write(&mut self, buf: &[u8]) -> Result<usize> {
        while self.sent - self.acknowledged > self.window {
            self.flush()?;
            self.receive()?;
        }
        for payload in buf.chunks(PAYLOAD) {
            self.seal(DATA, payload)?;
        }
        self.sent += buf.len() as u64;
        Ok(buf.len())
    }

    fn close(&mut self) -> Result<()> {
        self.flush()?;
        self.seal(END, &[])
    }
}

/// The stream. Each call blocks until it has sent or received.
pub struct Stream(Link);

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(self.0.lock().read(buf).map_err(io::Error::other))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(self.0.lock().write(buf).map_err(io::Error::other))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.lock().flush().map_err(io::Error::other))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.lock().close().map_err(io::Error::other))
    }
}

fn nonce(number: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// The first byte of a datagram, which says what it carries.
const DATA: u8 = 0;
const END: u8 = 1;
const CREDIT: u8 = 2;

const DATAGRAM: usize = equalised::MTU as usize;
const TAG: usize = 16;
const PAYLOAD: usize = DATAGRAM - 1 - TAG;

/// The most segments of a GSO batch, as in our transport.
const SEGMENTS: usize = 44;
const BATCH: usize = SEGMENTS * DATAGRAM;
