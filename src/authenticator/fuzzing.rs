//! Fuzz targets: arbitrary certificates and signed keys.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::Ed25519KeyPair;
use libp2p_identity::{Keypair, PeerId};

use super::{
    CertificateError,
    certificate::generate,
    der::Layout,
    deterministic::{certificate_key, certificate_seed},
    host_key,
    signed_key::{self, SignedKey},
    verify_certificate,
};

/// Verifies a certificate. If the first byte is odd, the input is only the signed part of one, and
/// gets a correct signature.
pub fn certificate(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else {
        return;
    };
    let certificate = match mode % 2 {
        0 => rest.to_vec(),
        _ => signed(rest),
    };
    check(&certificate);
}

/// Decodes a `SignedKey`. An accepted one has only one encoding.
pub fn signed_key(data: &[u8]) {
    let Ok(signed_key) = SignedKey::decode(data) else {
        return;
    };
    let encoded = signed_key.encode();
    assert_eq!(encoded.ok().as_deref(), Some(data));
    if let Ok(key) = host_key::decode(signed_key.public_key) {
        assert_eq!(key.encode_protobuf(), signed_key.public_key);
        // The result is arbitrary, but there must be no panic.
        let _ = key.verify(&signed_key::message(&[7; 91]), signed_key.signature);
    }
}

fn check(certificate: &[u8]) {
    let verify = |certificate: &[u8], expected: Option<&PeerId>| {
        verify_certificate(certificate, expected, today())
    };
    let verdict = verify(certificate, None);
    assert_eq!(verify(certificate, None), verdict);
    let Ok(peer) = verdict else {
        return;
    };
    let peer_id = peer.peer_id();
    assert_eq!(peer.public_key().to_peer_id(), peer_id);
    assert_eq!(verify(certificate, Some(&peer_id)).as_ref(), Ok(&peer));
    let stranger = PeerId::from_public_key(&host(2).public());
    assert!(matches!(
        verify(certificate, Some(&stranger)),
        Err(CertificateError::PeerMismatch { .. })
    ));
    // An accepted certificate contains the only encoding of the host key, and no byte may be
    // missing or follow.
    let key = peer.public_key().encode_protobuf();
    assert!(certificate.windows(key.len()).any(|window| window == key));
    let (_, shorter) = certificate.split_last().expect("it was accepted");
    assert!(verify(shorter, None).is_err());
    assert!(verify(&[certificate, &[0]].concat(), None).is_err());
    assert_eq!(
        verify_certificate(certificate, None, UNIX_EPOCH - Duration::from_secs(1 << 40)),
        Err(CertificateError::NotYetValid)
    );
}

/// A certificate of `part`, signed by the key of [`certificates`].
pub fn signed(part: &[u8]) -> Vec<u8> {
    const ED25519: [u8; 7] = [0x30, 5, 6, 3, 0x2b, 0x65, 0x70];

    let key = Ed25519KeyPair::from_seed_unchecked(&certificate_seed(SEED));
    let signature = key.expect("32 bytes are a seed").sign(part);
    let mut signed = part.to_vec();
    signed.extend(ED25519);
    signed.extend([3, 1 + 64, 0]);
    signed.extend(signature.as_ref());
    sequence(&signed)
}

/// A SEQUENCE in DER.
fn sequence(contents: &[u8]) -> Vec<u8> {
    let len = contents.len().to_be_bytes();
    let significant = &len[len.iter().position(|&byte| byte != 0).unwrap_or(len.len())..];
    let mut sequence = vec![0x30];
    match *significant {
        [] => sequence.push(0),
        [len] if len < 0x80 => sequence.push(len),
        _ => {
            sequence.push(0x80 | significant.len() as u8);
            sequence.extend(significant);
        }
    }
    sequence.extend(contents);
    sequence
}

/// Valid certificates for each type of host key, whole and as their signed part.
pub(crate) fn certificates() -> Vec<Vec<u8>> {
    hosts()
        .iter()
        .flat_map(|host| {
            let certificate = generate(host, &certificate_key(SEED));
            let der = certificate.expect("it can be made").der;
            let layout = Layout::parse(&der).expect("it is good");
            [[&[0], &der[..]].concat(), [&[1], layout.signed].concat()]
        })
        .collect()
}

/// The values of libp2p extensions, and the same values with bytes appended.
pub(crate) fn signed_keys() -> Vec<Vec<u8>> {
    hosts()
        .iter()
        .flat_map(|host| {
            let message = signed_key::message(&[7; 91]);
            let signed_key = SignedKey {
                public_key: &host.public().encode_protobuf(),
                signature: &host.sign(&message).expect("a host key signs"),
            };
            let value = signed_key.encode();
            let value = value.expect("bytes in memory can be encoded");
            let longer = [&value[..], &[0]].concat();
            let mut longer_inside = longer.clone();
            longer_inside[1] += 1;
            [value, longer, longer_inside]
        })
        .collect()
}

fn hosts() -> [Keypair; 3] {
    [
        host(1),
        Keypair::generate_secp256k1(),
        Keypair::generate_ecdsa(),
    ]
}

fn host(number: u8) -> Keypair {
    Keypair::ed25519_from_bytes([number; 32]).expect("32 bytes are a key")
}

/// A date in January 2027.
fn today() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// The seed of the certificate's key.
const SEED: u64 = 1;
