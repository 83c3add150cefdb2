use std::{future::poll_fn, pin::Pin, time::Duration};

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p_core::{
    Endpoint, Transport as _,
    muxing::StreamMuxerExt,
    transport::{DialOpts, ListenerId, PortUse, TransportEvent},
};
use libp2p_identity::Keypair;
use libp2p_quinn::{Config, Transport};

#[tokio::test(flavor = "multi_thread")]
async fn smoke() {
    let a = Keypair::generate_ed25519();
    let b = Keypair::generate_ed25519();
    let mut listener = Transport::new(Config::new(&a));
    let mut dialer = Transport::new(Config::new(&b));
    listener
        .listen_on(
            ListenerId::next(),
            "/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap(),
        )
        .unwrap();
    let addr = poll_fn(|cx| Pin::new(&mut listener).poll(cx))
        .await
        .into_new_address()
        .unwrap();
    println!("{addr}");
    let handle = listener.handle();
    let server = tokio::spawn(async move {
        let (upgrade, _) = poll_fn(|cx| Pin::new(&mut listener).poll(cx))
            .await
            .into_incoming()
            .unwrap();
        let (_peer, mut conn) = upgrade.await.unwrap();
        loop {
            let Ok(mut s) = poll_fn(|cx| conn.poll_inbound_unpin(cx)).await else {
                break;
            };
            tokio::spawn(async move {
                let mut v = vec![0; 65536];
                loop {
                    let n = s.read(&mut v).await.unwrap();
                    if n == 0 {
                        break;
                    }
                    s.write_all(&v[..n]).await.unwrap();
                }
                s.close().await.unwrap();
            });
        }
    });
    let (peer, mut conn) = dialer
        .dial(
            addr,
            DialOpts {
                role: Endpoint::Dialer,
                port_use: PortUse::Reuse,
            },
        )
        .unwrap()
        .await
        .unwrap();
    assert_eq!(peer, a.public().to_peer_id());
    for len in [10usize, 100_000, 100_000_000] {
        let s = poll_fn(|cx| conn.poll_outbound_unpin(cx)).await.unwrap();
        let (mut r, mut w) = s.split();
        let t = std::time::Instant::now();
        let writer = tokio::spawn(async move {
            let data = vec![7; 65536];
            let mut left = len;
            while left > 0 {
                let n = left.min(data.len());
                w.write_all(&data[..n]).await.unwrap();
                left -= n;
            }
            w.close().await.unwrap();
        });
        let mut v = vec![0; 65536];
        let mut total = 0;
        loop {
            let n = r.read(&mut v).await.unwrap();
            if n == 0 {
                break;
            }
            total += n
        }
        writer.await.unwrap();
        assert_eq!(total, len);
        println!("{len} in {:?}", t.elapsed());
    }
    println!("{:#?}", handle.stats());
    conn.close().await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), server)
        .await
        .unwrap()
        .unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    println!("{:#?}", handle.stats());
    println!("{:#?}", dialer.handle().stats());
}
