//! Reads metrics as Prometheus does, by HTTP.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::failure::Failure;

/// The value of the first metric of this name. A name may include labels.
pub(crate) async fn scrape(addr: SocketAddr, name: &str) -> Result<u64, Failure> {
    let page = get(addr)
        .await
        .map_err(|error| Failure::new("cannot read the metrics", &error))?;
    page.lines()
        .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
        .ok_or_else(|| Failure::Other(format!("there is no metric {name} in: {page}")))
}

async fn get(addr: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(addr).await?;
    let request = format!("GET /metrics HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut page = String::new();
    stream.read_to_string(&mut page).await?;
    Ok(page)
}
