//! The transport under test, ours or the official one, in libp2p's boxes; and the information that
//! only ours provides.

use std::{
    cell::Cell,
    env, io,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll, Waker},
};

use futures::{AsyncRead, AsyncWrite};
use libp2p::{
    PeerId, Stream, Transport as _,
    core::{
        muxing::{StreamMuxer, StreamMuxerBox, StreamMuxerEvent},
        transport::Boxed,
    },
    identity::Keypair,
    quic, swarm,
};
use libp2p_quinn::{
    Config, Connection, ConnectionError, Handle, RetryPolicy, StreamError, Transport,
};
use serde_json::{Value, json};

use crate::Failure;

/// The variable that selects the transport: `ours`, which is the default, or `official`.
const VARIABLE: &str = "INTEROP_TRANSPORT";

/// A transport for a Swarm.
pub struct Chosen {
    pub transport: Boxed<(PeerId, StreamMuxerBox)>,
    pub facts: Facts,
    /// Name and version, as reported by identify.
    pub agent: String,
}

/// The transport's information about its connections. The official one provides none.
#[derive(Clone)]
pub struct Facts(Option<Handle>);

/// Builds the transport that the environment selects. With `retry` it validates every client's
/// address.
pub fn choose(keypair: &Keypair, retry: bool) -> Result<Chosen, Failure> {
    match env::var(VARIABLE).as_deref() {
        Ok("official") if retry => Err(Failure::Unsupported("no Retry".to_owned())),
        Ok("official") => Ok(Chosen {
            transport: quic::tokio::Transport::new(quic::Config::new(keypair))
                .map(|(peer_id, connection), _| (peer_id, StreamMuxerBox::new(connection)))
                .boxed(),
            facts: Facts(None),
            agent: "rust-libp2p-quic".to_owned(),
        }),
        Ok("ours") | Err(_) => {
            let mut config = Config::builder(keypair);
            if retry {
                config = config.retry_policy(RetryPolicy::Always);
            }
            let config = config.build().map_err(|error| error.to_string())?;
            let transport = Transport::new(config);
            let facts = Facts(Some(transport.handle()));
            Ok(Chosen {
                transport: transport
                    .map(|(peer_id, connection), _| {
                        (peer_id, StreamMuxerBox::new(Muxer(connection)))
                    })
                    .boxed(),
                facts,
                agent: "libp2p-quinn".to_owned(),
            })
        }
        Ok(other) => Err(format!("{VARIABLE} is neither ours nor official: {other}").into()),
    }
}

impl Facts {
    /// Information about the connection with `peer_id`; null if not available.
    pub fn of(&self, peer_id: PeerId) -> Value {
        let Some(handle) = &self.0 else {
            return Value::Null;
        };
        let stats = handle.stats();
        stats
            .connections
            .iter()
            .find(|connection| connection.peer_id == Some(peer_id))
            .map_or(Value::Null, |connection| {
                json!({
                    "cipher_suite": connection.cipher_suite,
                    "key_exchange_group": connection.key_exchange_group,
                    "lost_packets": connection.packets.lost_packets,
                    "mtu_bytes": connection.mtu_bytes,
                    "remote_addr": connection.remote_addr.to_string(),
                    "retries_sent": stats.transport.retries_sent,
                    "retired_ids": stats.registry.retired_ids,
                    "rtt_us": u64::try_from(connection.rtt.as_micros()).unwrap_or(u64::MAX),
                    "unknown": stats.registry.unknown,
                })
            })
    }
}

impl Facts {
    /// Resolves when closed connections are finished: their data is delivered, and their peers are
    /// told. For the official transport, that is unknown.
    pub async fn closed(&self) {
        if let Some(handle) = &self.0 {
            handle.closed().await;
        }
    }

    /// Makes the next close use `code`, if the transport supports that, because libp2p's boxes do
    /// not. Returns the code that will be used.
    pub fn prepare_close(&self, code: u64) -> u64 {
        let code = if self.0.is_some() { code } else { 0 };
        CLOSE_CODE.store(code, Ordering::Relaxed);
        code
    }
}

/// The code of the next close.
static CLOSE_CODE: AtomicU64 = AtomicU64::new(0);

/// The way in which a stream ends early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abort {
    Reset(u64),
    Stop(u64),
}

thread_local! {
    /// What the next flush on this thread does instead, if it reaches a stream of ours.
    static ABORT: Cell<Option<Abort>> = const { Cell::new(None) };
}

/// Ends one half of a stream with a code, through libp2p's boxes, which do not support that.
///
/// Returns whether the transport supports it.
pub fn abort(stream: &mut Stream, abort: Abort) -> bool {
    ABORT.set(Some(abort));
    // It is ready at once if it reaches our stream. If it does not, there is no written data that
    // needs a flush.
    let _ = Pin::new(stream).poll_flush(&mut Context::from_waker(Waker::noop()));
    ABORT.take().is_none()
}

/// The code of the RESET_STREAM or STOP_SENDING that caused an error.
pub fn code_of(error: &io::Error) -> Option<u64> {
    let cause = error.get_ref()?;
    if let Some(error) = cause.downcast_ref::<StreamError>() {
        return match error {
            StreamError::Reset(code) | StreamError::Stopped(code) => Some(*code),
            _ => None,
        };
    }
    if let Some(quinn::ReadError::Reset(code)) = cause.downcast_ref() {
        return Some(code.into_inner());
    }
    if let Some(quinn::WriteError::Stopped(code)) = cause.downcast_ref() {
        return Some(code.into_inner());
    }
    None
}

/// The code with which the peer has closed a connection, if it did.
pub fn close_code_of(error: &swarm::ConnectionError) -> Option<u64> {
    let swarm::ConnectionError::IO(error) = error else {
        return None;
    };
    if let Some(ConnectionError::ClosedByPeer { code, .. }) = error.get_ref()?.downcast_ref() {
        return Some(*code);
    }
    // The official transport wraps it in its own type, which shows it only in this way.
    let text = format!("{error:?}");
    let (_, code) = text.split_once("ApplicationClose { error_code: ")?;
    code.split(',').next()?.parse().ok()
}

/// A transport's description of the end of a connection.
pub fn describe_end(error: &swarm::ConnectionError) -> String {
    match error {
        swarm::ConnectionError::IO(error) => error.to_string(),
        other => other.to_string(),
    }
}

/// Our connection, with direct access to its streams.
struct Muxer(Connection);

impl StreamMuxer for Muxer {
    type Substream = BackDoor;
    type Error = ConnectionError;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<BackDoor, ConnectionError>> {
        Pin::new(&mut self.0).poll_inbound(cx).map_ok(BackDoor)
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<BackDoor, ConnectionError>> {
        Pin::new(&mut self.0).poll_outbound(cx).map_ok(BackDoor)
    }

    fn poll_close(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), ConnectionError>> {
        let code = CLOSE_CODE.swap(0, Ordering::Relaxed);
        if code > 0 {
            self.0.close_with(code, "as planned");
        }
        Pin::new(&mut self.0).poll_close(cx)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, ConnectionError>> {
        Pin::new(&mut self.0).poll(cx)
    }
}

/// A stream of ours that checks [`ABORT`] when it is flushed.
struct BackDoor(libp2p_quinn::Stream);

impl AsyncRead for BackDoor {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for BackDoor {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ABORT.take() {
            Some(Abort::Reset(code)) => Poll::Ready(self.0.reset(code).map_err(io::Error::from)),
            Some(Abort::Stop(code)) => Poll::Ready(self.0.stop(code).map_err(io::Error::from)),
            None => Pin::new(&mut self.0).poll_flush(cx),
        }
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(cx)
    }
}
