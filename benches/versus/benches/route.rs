//! Finding the shard of a datagram: our router, and the parser of quinn-proto that it replaces.

use std::hint::black_box;

use bytes::BytesMut;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use quinn_proto::{FixedLengthConnectionIdParser, PartialDecode};

use self::{connection_id::ShardCount, router::route};

// The transport does not export these modules, so this includes their files.
#[path = "../../../src/proto/connection_id.rs"]
#[expect(
    dead_code,
    unused_imports,
    reason = "the router needs less than the transport does, and the tests are not run here"
)]
mod connection_id;
#[path = "../../../src/proto/router.rs"]
#[expect(dead_code, unused_imports, reason = "the tests are not run here")]
mod router;

fn route_datagrams(criterion: &mut Criterion) {
    let shards = ShardCount::new(4).expect("a number of shards that there may be");
    let mut group = criterion.benchmark_group("route");
    for (name, datagram) in [("short header", short()), ("long header", long())] {
        group.bench_function(BenchmarkId::new("ours", name), |bencher| {
            bencher.iter(|| route(black_box(&datagram), shards));
        });
        group.bench_function(BenchmarkId::new("quinn-proto", name), |bencher| {
            let parser = FixedLengthConnectionIdParser::new(connection_id::CONNECTION_ID_LEN);
            bencher.iter_batched(
                || BytesMut::from(&datagram[..]),
                |datagram| PartialDecode::new(black_box(datagram), &parser, &[1], false).is_ok(),
                criterion::BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// A 1-RTT packet as large as Ethernet takes (RFC 9000 §17.3.1).
fn short() -> Vec<u8> {
    let mut datagram = vec![0xa7; 1452];
    datagram[0] = 0x40;
    datagram
}

/// A Handshake packet with IDs of eight bytes (RFC 9000 §17.2.4).
fn long() -> Vec<u8> {
    let ids = [&[8][..], &[1; 8], &[8], &[2; 8]].concat();
    let length = [0x44, 0x9a];
    let header = [&[0xe0, 0, 0, 0, 1][..], &ids, &length].concat();
    let payload = vec![0xa7; 0x49a];
    [header, payload].concat()
}

criterion_group!(benches, route_datagrams);
criterion_main!(benches);
