//! The ends of connections: the peer receives the close, and can be dialled again at once.

use std::{
    io,
    time::{Duration, Instant},
};

use futures::{AsyncReadExt, AsyncWriteExt, future::join};
use libp2p::Stream;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use super::{BLOCK_BYTES, Remote, STREAM_BYTES, milliseconds, object, ping_once};
use crate::{Failure, arguments::Options, protocols};

impl Remote<'_> {
    /// Either side closes, normally and with a code, while a stream is open.
    pub(super) async fn close_hears(
        &self,
        options: &Options,
    ) -> Result<Map<String, Value>, Failure> {
        let (mut closed, mut heard) = (Vec::new(), Vec::new());
        for code in [0, options.code] {
            let mut stream = self.open(protocols::ECHO).await?;
            exchange(&mut stream).await?;
            closed.push(self.node.close(code).await?);
            self.node.ended().await?;
            self.redial().await?;

            let mut stream = self.open(protocols::ECHO).await?;
            exchange(&mut stream).await?;
            let _asked = self.ask_to_close(code, 0).await?;
            heard.push(self.node.ended().await?);
            self.redial().await?;
        }
        Ok(self.ends(closed, heard))
    }

    /// Closes during an upload that nothing acknowledges any more.
    pub(super) async fn close_mid_upload(&self) -> Result<Map<String, Value>, Failure> {
        let mut stream = self.open(protocols::PERF).await?;
        stream.write_all(&0_u64.to_be_bytes()).await?;
        stream.write_all(&[0; BLOCK_BYTES]).await?;
        stream.flush().await?;
        crate::print(&json!({ "transferring": true }));
        let upload = protocols::write_zeros(&mut stream, u64::MAX);
        if let Ok(end) = tokio::time::timeout(UPLOAD, upload).await {
            return Err(format!("the upload has ended: {end:?}").into());
        }
        let closed = self.node.close(0).await?;
        self.node.ended().await?;
        Ok(self.ends(vec![closed], Vec::new()))
    }

    /// Dials again as soon as one of the two has closed, many times.
    pub(super) async fn close_redial(&self) -> Result<Map<String, Value>, Failure> {
        let (mut closed, mut heard) = (Vec::new(), Vec::new());
        for turn in 0..CONNECTIONS {
            if turn > 0 {
                let redialled = self.redial().await;
                redialled.map_err(|error| error.after(&format!("close {turn}")))?;
            }
            let mut stream = self.open(protocols::PING).await?;
            ping_once(&mut stream).await?;
            if turn % 2 == 0 {
                // Without waiting until the connection is drained.
                closed.push(self.node.close(0).await?);
            } else {
                let _asked = self.ask_to_close(0, 0).await?;
                heard.push(self.node.ended().await?);
            }
        }
        Ok(self.ends(closed, heard))
    }

    /// Writes, ends the stream, and closes the connection right after that.
    pub(super) async fn close_delivers(
        &self,
        options: &Options,
    ) -> Result<Map<String, Value>, Failure> {
        let mut stream = self.open(protocols::SINK).await?;
        protocols::write_zeros(&mut stream, options.size).await?;
        stream.close().await?;
        let closed = self.node.close(0).await?;
        self.node.ended().await?;
        // The end of this process would discard data that is still being delivered.
        self.node.facts.closed().await;
        let mut result = self.ends(vec![closed], Vec::new());
        result.insert("bytes".to_owned(), json!(options.size));
        Ok(result)
    }

    /// Makes the peer do what [`close_delivers`](Self::close_delivers) does.
    pub(super) async fn close_fetches(
        &self,
        options: &Options,
    ) -> Result<Map<String, Value>, Failure> {
        let mut stream = self.ask_to_close(0, options.size).await?;
        let mut received = 0;
        let end = protocols::read_to_end(&mut stream, |bytes| received += bytes.len()).await;
        if let Err(error) = end {
            let size = options.size;
            return Err(format!("{received} bytes of {size}, and then: {error}").into());
        }
        if received as u64 != options.size {
            return Err(format!("the end after {received} bytes of {}", options.size).into());
        }
        let heard = self.node.ended().await?;
        let mut result = self.ends(Vec::new(), vec![heard]);
        result.insert("bytes".to_owned(), json!(options.size));
        Ok(result)
    }

    /// Dials the listener again after it was killed. A line on standard input tells that it was
    /// restarted.
    pub(super) async fn restarted(&self) -> Result<Map<String, Value>, Failure> {
        let stream = self.open(protocols::ECHO).await?;
        let mut transfer = tokio::spawn(transfer_until_error(stream));
        let mut line = String::new();
        let mut input = BufReader::new(tokio::io::stdin());
        input.read_line(&mut line).await?;
        let start = Instant::now();
        self.redial().await?;
        let mut stream = self.open(protocols::ECHO).await?;
        exchange(&mut stream).await?;
        let redial_ms = milliseconds(start);
        let old = tokio::select! {
            biased;
            error = &mut transfer => match error {
                Ok(error) => format!("{error:?}"),
                Err(error) => error.to_string(),
            },
            () = std::future::ready(()) => "still waits for the peer".to_owned(),
        };
        Ok(object(json!({ "redial_ms": redial_ms, "old": old })))
    }

    async fn redial(&self) -> Result<(), Failure> {
        let peer_id = self.node.dial(self.addr.clone()).await?;
        if peer_id != self.peer_id {
            return Err(format!("connected to {peer_id}").into());
        }
        Ok(())
    }

    /// Asks the peer to send this many bytes, and then to close the connection with this code, or
    /// with 0.
    async fn ask_to_close(&self, code: u64, size: u64) -> Result<Stream, Failure> {
        let mut stream = self.open(protocols::CLOSE).await?;
        let mut header = [0; 16];
        header[..8].copy_from_slice(&code.to_be_bytes());
        header[8..].copy_from_slice(&size.to_be_bytes());
        stream.write_all(&header).await?;
        stream.flush().await?;
        Ok(stream)
    }

    fn ends(&self, closed: Vec<Value>, heard: Vec<Value>) -> Map<String, Value> {
        object(json!({
            "closed": closed,
            "heard": heard,
            "peer_id": self.node.peer_id.to_string(),
        }))
    }
}

/// Sends data, reads the echo, and leaves the stream open.
async fn exchange(stream: &mut Stream) -> Result<(), Failure> {
    let sent = [7; STREAM_BYTES as usize];
    stream.write_all(&sent).await?;
    stream.flush().await?;
    let mut echoed = [0; STREAM_BYTES as usize];
    stream.read_exact(&mut echoed).await?;
    if echoed != sent {
        return Err("what came back is not what was sent".into());
    }
    Ok(())
}

/// Runs an echo, reports that, and continues until it fails.
pub(super) async fn transfer_until_error(stream: Stream) -> (io::Error, io::Error) {
    let (mut reader, mut writer) = stream.split();
    let write = async {
        let block = vec![0; BLOCK_BYTES];
        loop {
            if let Err(error) = writer.write_all(&block).await {
                return error;
            }
        }
    };
    let read = async {
        let mut block = vec![0; BLOCK_BYTES];
        let mut announced = false;
        loop {
            match reader.read(&mut block).await {
                Ok(0) => return io::ErrorKind::UnexpectedEof.into(),
                Ok(_) if announced => {}
                Ok(_) => {
                    crate::print(&json!({ "transferring": true }));
                    announced = true;
                }
                Err(error) => return error,
            }
        }
    };
    join(write, read).await
}

/// How long an upload runs before the end of the connection interrupts it.
const UPLOAD: Duration = Duration::from_millis(500);

/// The number of connections made one after another.
const CONNECTIONS: usize = 10;
