//! Cases that the libp2p extension decides.

use aws_lc_rs::digest::{SHA256, digest};
use libp2p_identity::{Keypair, PeerId};

use super::{
    Case, CertificateError, Expected, Forger,
    der::{
        EC_KEY, NULL, OCTET_STRING, P256, SEQUENCE, SET, bit_string, contents, element, hex,
        integer, object_identifier, sequence,
    },
    hosts, refuse,
    signer::{Signer, rsa_spki},
    template::{Template, message, signed_key, signed_key_of},
    x509::P256_ORDER,
};

impl Forger {
    pub(super) fn signed_keys(&self) -> Vec<Case> {
        let good = signed_key(&self.host, &self.signer.spki);
        let fields = contents(&good);
        let key = element(OCTET_STRING, &self.host.public().encode_protobuf());
        let signature = &fields[key.len()..];
        let case = |number, name, value: Vec<u8>| {
            let certificate = Template::with_signed_key(&value, &self.signer).sign(&self.signer);
            self.case(number, name, certificate, refuse!(ExtensionEncoding))
        };
        let mut non_minimal = vec![SEQUENCE, 0x81, fields.len() as u8];
        non_minimal.extend(fields);
        let mut indefinite = vec![SEQUENCE, 0x80];
        indefinite.extend(fields);
        indefinite.extend([0, 0]);

        vec![
            case(40, "bytes after the signed key", [&good[..], NULL].concat()),
            case(40, "bytes after the signature", sequence(&[fields, NULL])),
            case(41, "non-minimal length", non_minimal),
            case(41, "indefinite length", indefinite),
            case(
                41,
                "constructed key",
                sequence(&[&element(0x24, &key), signature]),
            ),
            case(
                41,
                "wrong type",
                sequence(&[&element(0x0c, contents(&key)), signature]),
            ),
            case(41, "set", element(SET, fields)),
            case(
                42,
                "length of 2^64 - 1",
                vec![SEQUENCE, 0x88, 255, 255, 255, 255, 255, 255, 255, 255],
            ),
            case(
                42,
                "key of 2^64 - 1 bytes",
                sequence(&[&[OCTET_STRING, 0x88, 255, 255, 255, 255, 255, 255, 255, 255]]),
            ),
            case(43, "length of 2 GB", vec![SEQUENCE, 0x84, 0x80, 0, 0, 0]),
            case(44, "empty", Vec::new()),
            case(44, "empty sequence", sequence(&[])),
            case(44, "no signature", sequence(&[&key])),
        ]
    }

    pub(super) fn host_keys(&self) -> Vec<Case> {
        // The signature is valid, so that only the key decides.
        let case = |number, name, host: &Keypair, key: Vec<u8>| {
            let signature = host.sign(&message(&self.signer.spki)).unwrap();
            let certificate =
                Template::with_signed_key(&signed_key_of(&key, &signature), &self.signer)
                    .sign(&self.signer);
            self.case(number, name, certificate, refuse!(HostKey))
                .claiming(host.public().to_peer_id())
        };
        let ed25519 = self.host.public().encode_protobuf();
        let point = &ed25519[4..];
        let protobuf = |kind: u8, data: &[u8]| {
            let mut protobuf = vec![0x08, kind, 0x12];
            let mut length = data.len();
            while length >= 0x80 {
                protobuf.push(length as u8 | 0x80);
                length >>= 7;
            }
            protobuf.push(length as u8);
            protobuf.extend(data);
            protobuf
        };
        let [_, secp256k1, ecdsa, rsa] = hosts();
        let uncompressed = |host: &Keypair| {
            let key = host.public().try_into_secp256k1().unwrap();
            key.to_bytes_uncompressed()
        };
        let compressed = {
            let spki = ecdsa.public().try_into_ecdsa().unwrap().encode_der();
            let point = &spki[spki.len() - 64..];
            let compressed = [&[2 + (point[63] & 1)], &point[..32]].concat();
            let algorithm = sequence(&[&object_identifier(EC_KEY), &object_identifier(P256)]);
            sequence(&[&algorithm, &bit_string(&compressed)])
        };
        // The neutral element signs everything: R = [S]B − [k]A is itself with S = 0.
        let neutral = [&[1][..], &[0; 31]].concat();
        let small_order = {
            let value = signed_key_of(&protobuf(1, &neutral), &[&neutral[..], &[0; 32]].concat());
            Template::with_signed_key(&value, &self.signer).sign(&self.signer)
        };
        let p384_host = Signer::p384_sha256();
        let p384_key = protobuf(3, &p384_host.spki);
        let p384 = {
            let signature = (p384_host.sign)(&message(&self.signer.spki));
            let value = signed_key_of(&p384_key, &signature);
            Template::with_signed_key(&value, &self.signer).sign(&self.signer)
        };
        let rsa_key = rsa.public().try_into_rsa().unwrap().encode_pkcs1();
        let rsa_spki = rsa_spki(&rsa_key);
        let rsa_key_fields = contents(&rsa_key);
        let rsa_padded = {
            // The exponent 010001, with a zero before it.
            let modulus = &rsa_key_fields[..rsa_key_fields.len() - 5];
            sequence(&[modulus, &integer(&[0, 1, 0, 1])])
        };
        let spki_of_rsa = |key: &[u8]| protobuf(0, &self::rsa_spki(key));
        let rsa_with = |bytes: usize, exponent: &[u8]| {
            let modulus = [&[0][..], &vec![0xc5; bytes]].concat();
            spki_of_rsa(&sequence(&[&integer(&modulus), &integer(exponent)]))
        };

        vec![
            case(45, "unknown type", &self.host, protobuf(4, point)),
            case(45, "type of another key", &self.host, protobuf(2, point)),
            case(45, "no type", &self.host, ed25519[2..].to_vec()),
            case(45, "no key", &self.host, ed25519[..2].to_vec()),
            case(45, "empty", &self.host, Vec::new()),
            case(
                46,
                "extra field",
                &self.host,
                [&ed25519[..], &[0x18, 1]].concat(),
            ),
            case(
                46,
                "reordered fields",
                &self.host,
                [&ed25519[2..], &ed25519[..2]].concat(),
            ),
            case(
                46,
                "repeated type",
                &self.host,
                [&ed25519[..2], &ed25519[..]].concat(),
            ),
            case(
                46,
                "repeated key",
                &self.host,
                [&ed25519[..], &ed25519[2..]].concat(),
            ),
            case(
                46,
                "padded type",
                &self.host,
                [&[0x08, 0x81, 0x00], &ed25519[2..]].concat(),
            ),
            case(
                46,
                "padded length",
                &self.host,
                [&[0x08, 0x01, 0x12, 0xa0, 0x00], point].concat(),
            ),
            case(
                47,
                "Ed25519 of 31 bytes",
                &self.host,
                protobuf(1, &point[..31]),
            ),
            case(
                47,
                "Ed25519 of 33 bytes",
                &self.host,
                protobuf(1, &[point, &[0]].concat()),
            ),
            self.case(48, "point of small order", small_order, refuse!(HostKey))
                .claiming(peer_id(&protobuf(1, &neutral))),
            case(
                49,
                "uncompressed secp256k1",
                &secp256k1,
                protobuf(2, &uncompressed(&secp256k1)),
            ),
            self.case(50, "ECDSA P-384", p384, refuse!(HostKey))
                .claiming(peer_id(&p384_key)),
            case(50, "compressed ECDSA", &ecdsa, protobuf(3, &compressed)),
            case(
                50,
                "bytes after the ECDSA key",
                &ecdsa,
                protobuf(
                    3,
                    &[&ecdsa.public().try_into_ecdsa().unwrap().encode_der(), NULL].concat(),
                ),
            ),
            case(
                51,
                "bytes after the RSA key",
                &rsa,
                protobuf(0, &[&rsa_spki[..], NULL].concat()),
            ),
            case(
                51,
                "bytes inside the RSA key",
                &rsa,
                protobuf(0, &sequence(&[contents(&rsa_spki), NULL])),
            ),
            case(51, "padded RSA exponent", &rsa, spki_of_rsa(&rsa_padded)),
            case(
                51,
                "bytes after the RSA exponent",
                &rsa,
                spki_of_rsa(&sequence(&[rsa_key_fields, NULL])),
            ),
            case(51, "RSA of 1024 bits", &rsa, rsa_with(128, &[1, 0, 1])).unsigned(),
            case(51, "RSA of 2040 bits", &rsa, rsa_with(255, &[1, 0, 1])).unsigned(),
            case(51, "RSA of 4104 bits", &rsa, rsa_with(513, &[1, 0, 1])).unsigned(),
            case(51, "RSA of 8192 bits", &rsa, rsa_with(1024, &[1, 0, 1])).unsigned(),
            case(51, "RSA of 8200 bits", &rsa, rsa_with(1025, &[1, 0, 1])).unsigned(),
            case(51, "RSA with the exponent 3", &rsa, rsa_with(256, &[3])).unsigned(),
            case(
                51,
                "RSA with the exponent 65536",
                &rsa,
                rsa_with(256, &[1, 0, 0]),
            )
            .unsigned(),
            case(
                51,
                "RSA with the exponent 2^33 − 1",
                &rsa,
                rsa_with(256, &[1, 0xff, 0xff, 0xff, 0xff]),
            )
            .unsigned(),
        ]
    }

    pub(super) fn host_signatures(&self) -> Vec<Case> {
        let spki = &self.signer.spki;
        let case = |number, name, host: &Keypair, signature: Vec<u8>, expected| {
            let value = signed_key_of(&host.public().encode_protobuf(), &signature);
            let certificate = Template::with_signed_key(&value, &self.signer).sign(&self.signer);
            self.case(number, name, certificate, expected)
                .claiming(host.public().to_peer_id())
        };
        let sign = |host: &Keypair, message: &[u8]| host.sign(message).unwrap();
        let good = sign(&self.host, &message(spki));
        let [_, secp256k1, ecdsa, _] = hosts();
        let high_scalar = {
            let (point, scalar) = good.split_at(32);
            let mut carry = 0;
            let scalar = scalar.iter().zip(hex(ED25519_ORDER)).map(|(left, right)| {
                let sum = u16::from(*left) + u16::from(right) + carry;
                carry = sum >> 8;
                sum as u8
            });
            let scalar: Vec<u8> = scalar.collect();
            [point, &scalar].concat()
        };
        let high_s = |host: &Keypair, order: &str| {
            let signature = sign(host, &message(spki));
            with_high_s(&signature, &hex(order))
        };
        let mut flipped = good.clone();
        flipped[20] ^= 1;
        let transplant = {
            // A certificate of this host for a key of ours, presented with theirs.
            let stolen = signed_key(&self.host, &self.other.spki);
            Template::with_signed_key(&stolen, &self.signer).sign(&self.signer)
        };

        vec![
            case(
                52,
                "no prefix",
                &self.host,
                sign(&self.host, spki),
                refuse!(HostSignature),
            ),
            self.case(
                53,
                "extension of another certificate",
                transplant,
                refuse!(HostSignature),
            ),
            case(
                53,
                "signed bits only",
                &self.host,
                sign(&self.host, &message(contents(spki))),
                refuse!(HostSignature),
            ),
            case(
                54,
                "Ed25519 with high S",
                &self.host,
                high_scalar,
                refuse!(HostSignature),
            ),
            case(
                54,
                "secp256k1 with high S",
                &secp256k1,
                high_s(&secp256k1, SECP256K1_ORDER),
                refuse!(HostSignature),
            ),
            // Half of all signatures by Go are like this, and no standard forbids them.
            case(
                54,
                "ECDSA with high S",
                &ecdsa,
                high_s(&ecdsa, P256_ORDER),
                Expected::Accept,
            ),
            case(
                55,
                "flipped bit",
                &self.host,
                flipped,
                refuse!(HostSignature),
            ),
            case(
                55,
                "empty signature",
                &self.host,
                Vec::new(),
                refuse!(HostSignature),
            ),
            case(
                55,
                "signed by another host",
                &self.host,
                sign(&Keypair::generate_ed25519(), &message(spki)),
                refuse!(HostSignature),
            ),
            Case {
                expected_peer: Some(Keypair::generate_ed25519().public().to_peer_id()),
                ..self.case(
                    56,
                    "another peer",
                    self.good.sign(&self.signer),
                    refuse!(PeerMismatch),
                )
            },
        ]
    }
}

/// Every change of one byte of the host signature of an otherwise valid certificate.
pub(crate) fn broken_host_signatures() -> impl Iterator<Item = Vec<u8>> {
    let host = Keypair::generate_ed25519();
    let signer = Signer::p256();
    let signature = host.sign(&message(&signer.spki)).unwrap();
    (0..signature.len()).map(move |index| {
        let mut signature = signature.clone();
        signature[index] ^= 1 << (index % 8);
        let value = signed_key_of(&host.public().encode_protobuf(), &signature);
        Template::with_signed_key(&value, &signer).sign(&signer)
    })
}

/// The peer ID of a host key, which libp2p-identity may not accept.
fn peer_id(key: &[u8]) -> PeerId {
    let multihash = match u8::try_from(key.len()) {
        Ok(length @ ..=42) => [&[0x00, length], key].concat(),
        _ => [&[0x12, 0x20], digest(&SHA256, key).as_ref()].concat(),
    };
    PeerId::from_bytes(&multihash).unwrap()
}

/// Replaces a low S of an ECDSA signature by its negative, which is equally valid.
fn with_high_s(signature: &[u8], order: &[u8]) -> Vec<u8> {
    let fields = contents(signature);
    let (r, s) = fields.split_at(2 + usize::from(fields[1]));
    let number = |element: &[u8]| {
        let mut number = vec![0; 33];
        let contents = contents(element);
        number[33 - contents.len()..].copy_from_slice(contents);
        number
    };
    let s = number(s);
    let mut borrow = 0;
    let mut negative = vec![0; 33];
    for index in (0..33).rev() {
        let order = if index == 0 { 0 } else { order[index - 1] };
        let difference = i16::from(order) - i16::from(s[index]) - borrow;
        borrow = i16::from(difference < 0);
        negative[index] = difference.rem_euclid(256) as u8;
    }
    let high = s.max(negative);
    let start = high.iter().position(|byte| *byte != 0).unwrap();
    let start = start - usize::from(high[start] >= 0x80);
    sequence(&[r, &integer(&high[start..])])
}

const SECP256K1_ORDER: &str = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141";
/// In little-endian order.
const ED25519_ORDER: &str = "edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010";
