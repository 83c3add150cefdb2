//! The Redis server with which the programs of one test find each other.

use std::{str::FromStr, time::Duration};

use redis::{AsyncCommands, AsyncConnectionConfig, Client, aio::MultiplexedConnection};
use tokio::time::{Instant, sleep};

use crate::error::Error;

/// A connection to the Redis server.
pub struct Rendezvous(MultiplexedConnection);

impl Rendezvous {
    /// Connects to the server at `addr`, a host and a port. The server may still be starting.
    pub async fn connect(addr: &str) -> Result<Self, Error> {
        let client = Client::open(format!("redis://{addr}/"))?;
        // A BLPOP is answered when there is a value, not within the usual half second.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(POLL))
            .set_response_timeout(None);
        let deadline = Instant::now() + START;
        loop {
            match client
                .get_multiplexed_async_connection_with_config(&config)
                .await
            {
                Ok(connection) => return Ok(Self(connection)),
                Err(error) if Instant::now() > deadline => return Err(error.into()),
                Err(error) => {
                    tracing::debug!(%error, addr, "no connection to redis yet");
                    sleep(POLL).await;
                }
            }
        }
    }

    /// Appends to the list at `key`.
    pub async fn push(&mut self, key: &str, value: &str) -> Result<(), Error> {
        let () = self.0.rpush(key, value).await?;
        tracing::info!(key, value, "published");
        Ok(())
    }

    /// Waits for a value in the list at `key`, and takes the first one.
    pub async fn pop<T: FromStr>(
        &mut self,
        key: &str,
        expected: &'static str,
        limit: Duration,
    ) -> Result<T, Error> {
        let popped: Option<(String, String)> = self.0.blpop(key, limit.as_secs_f64()).await?;
        let (_, value) = popped.ok_or_else(|| Error::Unpublished {
            key: key.to_owned(),
            limit,
        })?;
        parse(key, expected, value)
    }

    /// Sets the value at `key`.
    pub async fn set(&mut self, key: &str, value: &str) -> Result<(), Error> {
        let () = self.0.set(key, value).await?;
        tracing::info!(key, value, "published");
        Ok(())
    }

    /// Waits for a value at `key`, and reads it.
    pub async fn get<T: FromStr>(
        &mut self,
        key: &str,
        expected: &'static str,
        limit: Duration,
    ) -> Result<T, Error> {
        let deadline = Instant::now() + limit;
        loop {
            let value: Option<String> = self.0.get(key).await?;
            if let Some(value) = value {
                return parse(key, expected, value);
            }
            if Instant::now() > deadline {
                return Err(Error::Unpublished {
                    key: key.to_owned(),
                    limit,
                });
            }
            sleep(POLL).await;
        }
    }
}

fn parse<T: FromStr>(key: &str, expected: &'static str, value: String) -> Result<T, Error> {
    tracing::info!(key, value, "found");
    value.parse().map_err(|_| Error::Malformed {
        key: key.to_owned(),
        expected,
        value,
    })
}

/// How long the server may take to start.
const START: Duration = Duration::from_secs(10);

/// Interval of queries to the server.
const POLL: Duration = Duration::from_millis(200);
