//! Which RSA keys are accepted.

use std::{fmt, ops::RangeInclusive};

use super::der::{Malformed, RsaPublicKey};

/// The reason why an RSA key is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Malformed(&'static str),
    Bits(usize),
    Exponent,
}

/// Refuses a key, encoded as in PKCS#1, that is malformed, weak or slow to verify with.
pub(super) fn check(key: &[u8]) -> Result<(), Refusal> {
    let key = RsaPublicKey::parse(key).map_err(|Malformed(reason)| Refusal::Malformed(reason))?;
    if !BITS.contains(&key.modulus_bits) {
        return Err(Refusal::Bits(key.modulus_bits));
    }
    if key.exponent != EXPONENT {
        return Err(Refusal::Exponent);
    }
    Ok(())
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(reason) => f.write_str(reason),
            Self::Bits(bits) => write!(f, "RSA key has {bits} bits"),
            Self::Exponent => f.write_str("exponent of the RSA key is not 65537"),
        }
    }
}

/// Accepted sizes of the modulus. libp2p implementations generate 2048 bits by default and refuse
/// fewer; some operators have chosen 3072 or 4096. The time to verify a signature grows with the
/// square of the size.
const BITS: RangeInclusive<usize> = 2048..=4096;

/// 65537, with which all implementations of libp2p generate keys. The time to verify a signature
/// grows with the exponent's length: an exponent of 33 bits doubles it.
const EXPONENT: &[u8] = &[1, 0, 1];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_accepted_up_to_the_bit() {
        for (bits, is_good) in [
            (1024, false),
            (2040, false),
            (2047, false),
            (2048, true),
            (3072, true),
            (4095, true),
            (4096, true),
            (4097, false),
            (8192, false),
            (16_384, false),
        ] {
            let expected = if is_good {
                Ok(())
            } else {
                Err(Refusal::Bits(bits))
            };
            assert_eq!(check(&key(bits, &[1, 0, 1])), expected, "{bits}");
        }
    }

    #[test]
    fn one_exponent_is_accepted() {
        for exponent in [
            &[1][..],
            &[3],
            &[17],
            &[0x7f],
            // 2^16, 2^16 − 1, 2^16 + 3.
            &[1, 0, 0],
            &[0, 0xff, 0xff],
            &[1, 0, 3],
            // 2^31 − 1, 2^32 + 1 and 2^33 − 1.
            &[0x7f, 0xff, 0xff, 0xff],
            &[1, 0, 0, 0, 1],
            &[1, 0xff, 0xff, 0xff, 0xff],
            &[1, 0, 1, 0, 0, 0, 0, 0, 1],
        ] {
            assert_eq!(check(&key(2048, exponent)), Err(Refusal::Exponent));
        }
        for exponent in [&[][..], &[0], &[0xff], &[0, 1, 0, 1]] {
            let refusal = check(&key(2048, exponent));
            assert!(matches!(refusal, Err(Refusal::Malformed(_))), "{refusal:?}");
        }
    }

    /// A key with a modulus of this many bits.
    fn key(bits: usize, exponent: &[u8]) -> Vec<u8> {
        let mut modulus = vec![0xc5; bits.div_ceil(8)];
        let unused = modulus.len() * 8 - bits;
        modulus[0] >>= unused;
        if unused == 0 {
            modulus.insert(0, 0);
        }
        element(
            0x30,
            &[element(0x02, &modulus), element(0x02, exponent)].concat(),
        )
    }

    fn element(tag: u8, contents: &[u8]) -> Vec<u8> {
        let len = contents.len().to_be_bytes();
        let [.., high, low] = len;
        let head = match (high, low) {
            (0, 0..0x80) => vec![tag, low],
            (0, _) => vec![tag, 0x81, low],
            _ => vec![tag, 0x82, high, low],
        };
        [&head, contents].concat()
    }
}
