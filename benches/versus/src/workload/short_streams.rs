//! Streams with a request and a reply, many at a time.

use anyhow::{Result, ensure};
use futures::{AsyncReadExt, AsyncWriteExt, future::try_join_all};

use super::{Effort, client};
use crate::{
    control::Checkpoint,
    metric::Metrics,
    service::Request,
    stack::{Address, Connection, Endpoint, Facts, Setup},
};

pub async fn run<E: Endpoint>(
    setup: Setup,
    server: Address,
    effort: Effort,
) -> Result<(Metrics, Facts)> {
    let endpoint = client::<E>(setup).await?;
    let connection = endpoint.connect(&server).await?;
    let each = effort.streams().div_ceil(AT_ONCE);
    ask(&connection, each.div_ceil(10)).await?;
    let start = Checkpoint::reach().await?;
    ask(&connection, each).await?;
    let end = Checkpoint::reach().await?;
    let facts = endpoint.facts(&connection);
    Ok((start.until(&end).per_operation(each * AT_ONCE), facts))
}

/// Starts many tasks, each of which opens `each` streams, one after the other.
async fn ask(connection: &impl Connection, each: usize) -> Result<()> {
    let tasks = (0..AT_ONCE).map(|_| {
        let connection = connection.clone();
        tokio::spawn(async move {
            let mut reply = Vec::with_capacity(REPLY);
            for _ in 0..each {
                let mut stream = connection.open().await?;
                Request::Reply { bytes: REPLY }.send(&mut stream).await?;
                stream.close().await?;
                reply.clear();
                stream.read_to_end(&mut reply).await?;
                ensure!(reply.len() == REPLY, "{} bytes of reply", reply.len());
            }
            Ok(())
        })
    });
    for done in try_join_all(tasks).await? {
        done?;
    }
    Ok(())
}

/// Streams at a time: fewer than the limit of any stack.
const AT_ONCE: usize = 100;

const REPLY: usize = 100;
