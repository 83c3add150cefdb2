//! Verifying one libp2p certificate, for each type of host key: ours and libp2p-tls.

use std::{hint::black_box, time::SystemTime};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use libp2p_identity::Keypair;
use libp2p_quinn::verify_certificate;

fn verify(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("verify");
    for (name, keypair) in [
        ("ecdsa", Keypair::generate_ecdsa()),
        ("ed25519", Keypair::generate_ed25519()),
        ("secp256k1", Keypair::generate_secp256k1()),
    ] {
        let peer = keypair.public().to_peer_id();
        let (certificate, _) =
            libp2p_tls::certificate::generate(&keypair).expect("a key in memory signs");
        group.bench_function(BenchmarkId::new("ours", name), |bencher| {
            bencher.iter(|| {
                let now = SystemTime::now();
                verify_certificate(black_box(&certificate), Some(&peer), now)
                    .expect("it was made for this peer")
            });
        });
        group.bench_function(BenchmarkId::new("libp2p-tls", name), |bencher| {
            bencher.iter(|| {
                let parsed = libp2p_tls::certificate::parse(black_box(&certificate));
                parsed.expect("it is valid").peer_id()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, verify);
criterion_main!(benches);
