//! The test vectors of the libp2p TLS specification, and certificates by other implementations.

use std::path::Path;

use libp2p_identity::{Keypair, PeerId};
use libp2p_quinn::{CertificateError, verify_certificate};
use serde_json::Value;

mod support;

use support::certificates::today;

#[test]
fn vectors_of_the_specification() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors/tls.json");
    let Ok(file) = std::fs::read_to_string(&path) else {
        println!("not tested, because {} is absent", path.display());
        return;
    };
    let file: Value = serde_json::from_str(&file).unwrap();
    let vectors = file["vectors"].as_array().unwrap();
    assert!(!vectors.is_empty());
    for vector in vectors {
        let name = vector["name"].as_str().unwrap();
        let certificate = hex(vector["certificate_der_hex"].as_str().unwrap());
        let verified = verify_certificate(&certificate, None, today());
        if vector["valid"].as_bool().unwrap() {
            let expected: PeerId = vector["peer_id"].as_str().unwrap().parse().unwrap();
            assert_eq!(verified.unwrap().peer_id(), expected, "{name}");
        } else {
            // The certificate itself is valid: its self-signature was verified before this.
            assert_eq!(verified, Err(CertificateError::HostSignature), "{name}");
        }
    }
}

#[test]
fn certificates_of_the_official_implementation_are_accepted() {
    for host in support::certificates::hosts() {
        let (certificate, _) = libp2p_tls::certificate::generate(&host).unwrap();
        let peer_id = host.public().to_peer_id();
        let peer = verify_certificate(&certificate, Some(&peer_id), today()).unwrap();
        assert_eq!(peer.peer_id(), peer_id);
        assert_eq!(*peer.public_key(), host.public());

        let other = Keypair::generate_ed25519().public().to_peer_id();
        assert_eq!(
            verify_certificate(&certificate, Some(&other), today()),
            Err(CertificateError::PeerMismatch {
                expected: Box::new(other),
                actual: Box::new(peer_id),
            })
        );
    }
}

fn hex(digits: &str) -> Vec<u8> {
    digits
        .as_bytes()
        .chunks(2)
        .map(|pair| {
            let pair = std::str::from_utf8(pair).expect("hexadecimal digits");
            u8::from_str_radix(pair, 16).expect("hexadecimal digits")
        })
        .collect()
}
