//! Host keys: the libp2p identities that certificates prove.
//!
//! A peer id is derived from the bytes of its key. If one key had two encodings, one peer would
//! have two ids, so only the encoding that the [peer id specification] prescribes is accepted.
//!
//! [peer id specification]: https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md

use libp2p_identity::{KeyType, PublicKey};

use super::{error::CertificateError, rsa};

/// Decodes the protobuf of a host key.
pub(super) fn decode(protobuf: &[u8]) -> Result<PublicKey, CertificateError> {
    let key =
        PublicKey::try_decode_protobuf(protobuf).map_err(|error| refuse(error.to_string()))?;
    // Protobuf tolerates unknown, repeated and reordered fields and padded numbers, and libp2p's
    // key types tolerate other forms of points. A round trip reveals all of them.
    if key.encode_protobuf() != protobuf {
        return Err(refuse("encoding is not canonical"));
    }
    match key.key_type() {
        KeyType::Ed25519 => ed25519(&key)?,
        KeyType::RSA => check_rsa(&key)?,
        _ => {}
    }
    Ok(key)
}

/// Refuses points of small order, for which anyone can make signatures, and second encodings of a
/// point ([RFC 8032 §5.1.3](https://www.rfc-editor.org/rfc/rfc8032#section-5.1.3)).
fn ed25519(key: &PublicKey) -> Result<(), CertificateError> {
    let key = key
        .clone()
        .try_into_ed25519()
        .map_err(|error| refuse(error.to_string()))?;
    let mut y = key.to_bytes();
    y[31] &= 0x7f; // The top bit is the sign of x.
    if y.iter().rev().cmp(FIELD_PRIME.iter().rev()).is_ge() {
        return Err(refuse("encoding is not canonical"));
    }
    if SMALL_ORDER.contains(&y) {
        return Err(refuse("point is of small order"));
    }
    Ok(())
}

/// Refuses lax DER inside the key, which a round trip does not reveal, and sizes and exponents that
/// peers do not use.
fn check_rsa(key: &PublicKey) -> Result<(), CertificateError> {
    let key = key
        .clone()
        .try_into_rsa()
        .map_err(|error| refuse(error.to_string()))?;
    rsa::check(&key.encode_pkcs1()).map_err(|refusal| refuse(refusal.to_string()))
}

fn refuse(reason: impl Into<String>) -> CertificateError {
    CertificateError::HostKey {
        reason: reason.into(),
    }
}

/// 2^255 − 19, in little-endian order like all numbers here.
const FIELD_PRIME: [u8; 32] = {
    let mut prime = [0xff; 32];
    prime[0] = 0xed;
    prime[31] = 0x7f;
    prime
};

/// The y coordinates of the eight points of small order. The two of order 8 stand for two points
/// each, as does 0, of order 4; 1 is the neutral element and −1 the point of order 2.
const SMALL_ORDER: [[u8; 32]; 5] = [
    [0; 32],
    {
        let mut one = [0; 32];
        one[0] = 1;
        one
    },
    {
        let mut minus_one = FIELD_PRIME;
        minus_one[0] = 0xec;
        minus_one
    },
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98,
        0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53,
        0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67,
        0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac,
        0x03, 0x7a,
    ],
];

#[cfg(test)]
mod tests {
    use super::*;

    fn protobuf(point: [u8; 32]) -> Vec<u8> {
        let mut protobuf = vec![0x08, 0x01, 0x12, 0x20];
        protobuf.extend(point);
        protobuf
    }

    #[test]
    fn small_order_table_agrees_with_the_curve() {
        let mut weak = 0;
        for mut point in SMALL_ORDER {
            for sign in [0, 0x80] {
                point[31] = point[31] & 0x7f | sign;
                if let Ok(key) = ed25519_dalek::VerifyingKey::from_bytes(&point) {
                    assert!(key.is_weak(), "{point:02x?}");
                    weak += 1;
                }
                assert!(decode(&protobuf(point)).is_err(), "{point:02x?}");
            }
        }
        assert!(weak >= 8, "the points are on the curve");
        // −y is of small order if y is, so the two of order 8 must add up to the prime.
        let mut carry = 0;
        let sum: Vec<u8> = SMALL_ORDER[3]
            .iter()
            .zip(SMALL_ORDER[4])
            .map(|(left, right)| {
                let sum = u16::from(*left) + u16::from(right) + carry;
                carry = sum >> 8;
                sum as u8
            })
            .collect();
        assert_eq!(sum, FIELD_PRIME);
    }

    #[test]
    fn second_encodings_of_points_are_refused() {
        // y from the prime on up to 2^255 − 1 repeats 0 to 18.
        for low in 0xed..=0xff {
            let mut point = FIELD_PRIME;
            point[0] = low;
            for sign in [0, 0x80] {
                point[31] = 0x7f | sign;
                assert!(decode(&protobuf(point)).is_err(), "{point:02x?}");
            }
        }
    }

    #[test]
    fn ordinary_keys_are_accepted() {
        for _ in 0..64 {
            let key = libp2p_identity::Keypair::generate_ed25519().public();
            assert_eq!(decode(&key.encode_protobuf()), Ok(key));
        }
    }
}
