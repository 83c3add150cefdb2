//! One write of an application, for several sizes: ours, which combines small writes, and
//! libp2p-quic.
//!
//! The peer reads everything, in the same process and over loopback. So the figure is the time that
//! each of many consecutive writes takes, and not the time until a single write returns.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p_core::{
    Endpoint, StreamMuxer, Transport,
    muxing::StreamMuxerBox,
    transport::{Boxed, DialOpts, ListenerId, PortUse, TransportEvent},
};
use libp2p_identity::{Keypair, PeerId};
use tokio::{runtime::Runtime, sync::Mutex};

type Muxing = Boxed<(PeerId, StreamMuxerBox)>;
type Stream = <StreamMuxerBox as StreamMuxer>::Substream;

fn write(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let mut group = criterion.benchmark_group("write");
    group
        .sample_size(20)
        .measurement_time(Duration::from_secs(3));
    for size in [64, 256, 1024, 64 * 1024] {
        group.throughput(Throughput::Bytes(size as u64));
        for (name, transport) in [("ours", ours as fn() -> Muxing), ("libp2p-quic", official)] {
            let stream = Arc::new(Mutex::new(runtime.block_on(connect(transport))));
            group.bench_function(BenchmarkId::new(name, size), |bencher| {
                bencher.iter_custom(|writes| {
                    let stream = Arc::clone(&stream);
                    // On a worker thread of the runtime, where the tasks of a node run.
                    let task = runtime.spawn(async move {
                        let block = vec![0x5a; size];
                        let mut stream = stream.lock().await;
                        let began = Instant::now();
                        for _ in 0..writes {
                            stream.write_all(&block).await.expect("the peer reads on");
                        }
                        stream.flush().await.expect("the peer reads on");
                        began.elapsed()
                    });
                    runtime.block_on(task).expect("the task does not panic")
                });
            });
        }
    }
    group.finish();
}

fn ours() -> Muxing {
    let config = libp2p_quinn::Config::builder(&Keypair::generate_ed25519())
        .max_mtu_bytes(1452)
        .and_then(|builder| builder.build())
        .expect("a configuration that there may be");
    boxed(libp2p_quinn::Transport::new(config))
}

fn official() -> Muxing {
    let config = libp2p_quic::Config::new(&Keypair::generate_ed25519());
    boxed(libp2p_quic::tokio::Transport::new(config))
}

fn boxed<T, M>(transport: T) -> Muxing
where
    T: Transport<Output = (PeerId, M), Error: Send + Sync, Dial: Send, ListenerUpgrade: Send>
        + Send
        + Unpin
        + 'static,
    M: StreamMuxer<Substream: Send, Error: Send + Sync> + Send + 'static,
{
    transport
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
        .boxed()
}

/// Opens a stream whose peer reads everything.
async fn connect(transport: fn() -> Muxing) -> Stream {
    let mut listener = transport();
    let any = "/ip4/127.0.0.1/udp/0/quic-v1".parse().expect("an address");
    listener
        .listen_on(ListenerId::next(), any)
        .expect("it listens");
    let addr = poll_fn(|cx| Pin::new(&mut listener).poll(cx))
        .await
        .into_new_address()
        .expect("the first event of a listener is its address");
    tokio::spawn(serve(listener));

    let opts = DialOpts {
        role: Endpoint::Dialer,
        port_use: PortUse::New,
    };
    let mut dialer = transport();
    let dial = dialer.dial(addr, opts).expect("it dials");
    let (_, mut muxer) = dial.await.expect("it connects");
    let mut stream = poll_fn(|cx| Pin::new(&mut muxer).poll_outbound(cx))
        .await
        .expect("it opens a stream");
    // The listener only sees the stream when data arrives.
    stream.write_all(&[0]).await.expect("the peer reads");
    tokio::spawn(async move {
        let _transport = dialer;
        poll_fn(|cx| Pin::new(&mut muxer).poll(cx).map(|_| ())).await;
    });
    stream
}

/// Reads all of the first stream of the first connection.
async fn serve(mut listener: Muxing) {
    let upgrade = loop {
        let event = poll_fn(|cx| Pin::new(&mut listener).poll(cx)).await;
        if let TransportEvent::Incoming { upgrade, .. } = event {
            break upgrade;
        }
    };
    let (_, mut muxer) = upgrade.await.expect("it connects");
    let mut stream = poll_fn(|cx| {
        // A Swarm polls in this order.
        while Pin::new(&mut muxer).poll(cx)?.is_ready() {}
        Pin::new(&mut muxer).poll_inbound(cx)
    })
    .await
    .expect("a stream comes in");
    let mut buffer = vec![0; 64 * 1024];
    let read = async { while !matches!(stream.read(&mut buffer).await, Ok(0) | Err(_)) {} };
    let drive = poll_fn(|cx| {
        while Pin::new(&mut muxer).poll(cx).is_ready() {}
        Poll::<()>::Pending
    });
    futures::future::select(std::pin::pin!(read), drive).await;
}

criterion_group!(benches, write);
criterion_main!(benches);
