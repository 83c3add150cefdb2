//! Cases that X.509 decides.

use libp2p_identity::Keypair;

use super::{
    Case, CertificateError, Expected, Forger, KEY_USAGE, UNKNOWN,
    der::{
        EC_KEY, NULL, OCTET_STRING, PKCS1, SEQUENCE, bit_string, contents, element,
        generalized_time, hex, integer, object_identifier, sequence, utc_time, validity,
    },
    refuse,
    signer::{Hash, Signer, rsa_algorithm, rsa_spki},
    template::{LIBP2P, Template, extension, signed_key},
};

impl Forger {
    pub(super) fn encoding(&self) -> Vec<Case> {
        let good = self.good.sign(&self.signer);
        let body = contents(&good);
        let mut non_minimal = vec![SEQUENCE, 0x83, 0];
        non_minimal.extend((body.len() as u16).to_be_bytes());
        non_minimal.extend(body);
        let mut indefinite = vec![SEQUENCE, 0x80];
        indefinite.extend(body);
        indefinite.extend([0, 0]);

        let critical = |value: u8| {
            sequence(&[
                &object_identifier(UNKNOWN),
                &element(0x01, &[value]),
                &element(OCTET_STRING, b""),
            ])
        };
        let not_after = generalized_time(b"21200101000000Z");
        let not_before = |time: Vec<u8>| validity(&time, &not_after);
        let spki_trailer = {
            let mut spki = contents(&self.signer.spki).to_vec();
            spki.extend(NULL);
            sequence(&[&spki])
        };
        let nested = |depth: usize| (0..depth).fold(Vec::new(), |inside, _| sequence(&[&inside]));

        vec![
            self.case(
                1,
                "trailing bytes after the certificate",
                [&good[..], NULL].concat(),
                refuse!(BadEncoding),
            ),
            self.case(
                2,
                "trailing bytes inside the certificate",
                sequence(&[body, NULL]),
                refuse!(BadEncoding),
            ),
            self.changed(
                3,
                "trailing bytes inside the signed part",
                |template| template.trailer = NULL.to_vec(),
                refuse!(BadEncoding),
            ),
            self.case(4, "nothing", Vec::new(), refuse!(BadEncoding)),
            self.case(
                4,
                "cut in half",
                good[..good.len() / 2].to_vec(),
                refuse!(BadEncoding),
            ),
            self.case(
                4,
                "cut by a byte",
                good[..good.len() - 1].to_vec(),
                refuse!(BadEncoding),
            ),
            self.case(
                5,
                "non-minimal outer length",
                non_minimal,
                refuse!(BadEncoding),
            ),
            self.case(
                6,
                "indefinite outer length",
                indefinite,
                refuse!(BadEncoding),
            ),
            self.changed(
                7,
                "non-minimal serial number",
                |template| template.serial = integer(&[0, 1]),
                refuse!(BadEncoding),
            ),
            self.changed(
                7,
                "empty serial number",
                |template| template.serial = integer(&[]),
                refuse!(BadEncoding),
            ),
            self.vouched_spki(
                8,
                "trailing bytes in the key",
                spki_trailer,
                refuse!(BadEncoding),
            ),
            self.changed(
                9,
                "critical is 01",
                |template| template.extensions.push(critical(1)),
                refuse!(BadEncoding),
            ),
            self.changed(
                10,
                "critical is explicitly false",
                |template| template.extensions.push(critical(0)),
                refuse!(BadEncoding),
            ),
            self.changed(
                11,
                "fraction of a second",
                |template| template.validity = not_before(generalized_time(b"20200101000000.5Z")),
                refuse!(BadEncoding),
            ),
            self.changed(
                11,
                "no seconds",
                |template| template.validity = not_before(generalized_time(b"202001010000Z")),
                refuse!(BadEncoding),
            ),
            self.changed(
                11,
                "no seconds in a short year",
                |template| template.validity = not_before(utc_time("2001010000Z")),
                refuse!(BadEncoding),
            ),
            self.changed(
                11,
                "offset from UTC",
                |template| template.validity = not_before(utc_time("200101000000+0100")),
                refuse!(BadEncoding),
            ),
            self.changed(
                11,
                "no such day",
                |template| template.validity = not_before(utc_time("200230000000Z")),
                refuse!(BadEncoding),
            ),
            self.changed(
                12,
                "60 KB",
                |template| {
                    template
                        .extensions
                        .push(extension(UNKNOWN, false, &[0; 60_000]))
                },
                refuse!(TooLarge),
            ),
            self.changed(
                12,
                "5000 extensions",
                |template| template.extensions.extend(many_extensions(5000)),
                refuse!(TooLarge),
            ),
            self.changed(
                12,
                "33 extensions",
                |template| template.extensions.extend(many_extensions(32)),
                refuse!(TooLarge),
            ),
            self.changed(
                12,
                "32 extensions",
                |template| template.extensions.extend(many_extensions(31)),
                Expected::Accept,
            ),
            self.changed(
                13,
                "extension 3000 levels deep",
                |template| {
                    template
                        .extensions
                        .push(extension(UNKNOWN, false, &nested(3000)))
                },
                Expected::Accept,
            ),
            self.changed(
                13,
                "name 3000 levels deep",
                |template| template.subject = nested(3000),
                refuse!(TooLarge),
            ),
        ]
    }

    pub(super) fn semantics(&self) -> Vec<Case> {
        let period = |not_before: &[u8], not_after: &[u8]| {
            validity(&generalized_time(not_before), &generalized_time(not_after))
        };
        let p384 = Signer::p384_sha256();
        let p521 = Signer::p521();
        let rsa = Signer::rsa_pkcs1(Hash::Sha256);
        let rsa_signed = |algorithm: &[u8]| {
            Template::new(&self.host, &rsa)
                .change(|template| {
                    template.inner_algorithm = algorithm.to_vec();
                    template.outer_algorithm = algorithm.to_vec();
                })
                .sign(&rsa)
        };
        // The library cannot make such keys. They are refused before any signature.
        let rsa_with = |bytes: usize, exponent: &[u8]| {
            let modulus = [&[0][..], &vec![0xc5; bytes]].concat();
            let key = sequence(&[&integer(&modulus), &integer(exponent)]);
            let signer = Signer {
                spki: rsa_spki(&key),
                algorithm: rsa_algorithm(11),
                pkcs8: Vec::new(),
                sign: Box::new(move |_| vec![0xa5; bytes]),
            };
            Template::new(&self.host, &signer).sign(&signer)
        };
        let rsa_sized = |bytes| rsa_with(bytes, &[1, 0, 1]);
        let ed448 = {
            let algorithm = sequence(&[&object_identifier(&[0x2b, 0x65, 0x71])]);
            Signer {
                spki: sequence(&[&algorithm, &bit_string(&[7; 57])]),
                algorithm,
                pkcs8: Vec::new(),
                sign: Box::new(|_| vec![7; 114]),
            }
        };
        let explicit_curve = {
            let parameters = sequence(&[
                &integer(&[1]),
                &sequence(&[
                    &object_identifier(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 1, 1]),
                    &integer(&[&[0][..], &hex(P256_PRIME)].concat()),
                ]),
                &sequence(&[
                    &element(OCTET_STRING, &hex(P256_A)),
                    &element(OCTET_STRING, &hex(P256_B)),
                ]),
                &element(OCTET_STRING, &hex(P256_GENERATOR)),
                &integer(&[&[0][..], &hex(P256_ORDER)].concat()),
                &integer(&[1]),
            ]);
            let point = bit_string(&contents(&self.signer.spki)[P256_POINT..]);
            sequence(&[
                &sequence(&[&object_identifier(EC_KEY), &parameters]),
                &point,
            ])
        };
        let ecdsa = |hash: &[u8]| {
            let identifier = [&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4][..], hash].concat();
            sequence(&[&object_identifier(&identifier)])
        };
        let set_algorithm = |template: &mut Template, algorithm: Vec<u8>| {
            template.inner_algorithm.clone_from(&algorithm);
            template.outer_algorithm = algorithm;
        };
        let absent_parameters = sequence(&[&object_identifier(&[PKCS1, &[11]].concat())]);
        let unsigned = |signature: &[u8]| self.good.assemble(signature);
        let signature = (self.signer.sign)(&self.good.signed_part());

        vec![
            self.changed(
                14,
                "version 1",
                |template| template.version.clear(),
                refuse!(Version),
            ),
            self.changed(
                14,
                "explicit version 1",
                |template| template.version = element(0xa0, &integer(&[0])),
                refuse!(Version),
            ),
            self.changed(
                14,
                "version 2",
                |template| template.version = element(0xa0, &integer(&[1])),
                refuse!(Version),
            ),
            self.changed(
                14,
                "version 4",
                |template| template.version = element(0xa0, &integer(&[3])),
                refuse!(Version),
            ),
            self.changed(
                15,
                "other algorithm inside",
                |template| template.inner_algorithm = ecdsa(&[3, 3]),
                refuse!(AlgorithmMismatch),
            ),
            self.changed(
                15,
                "other algorithm outside",
                |template| template.outer_algorithm = ecdsa(&[3, 3]),
                refuse!(AlgorithmMismatch),
            ),
            self.case(
                16,
                "RSA with SHA-1",
                rsa_signed(&rsa_algorithm(5)),
                refuse!(AlgorithmUnsupported),
            )
            .with_key(&rsa)
            .unsigned(),
            self.case(
                16,
                "RSA with MD5",
                rsa_signed(&rsa_algorithm(4)),
                refuse!(AlgorithmUnsupported),
            )
            .with_key(&rsa)
            .unsigned(),
            self.changed(
                16,
                "ECDSA with SHA-1",
                |template| set_algorithm(template, ecdsa(&[1])),
                refuse!(AlgorithmUnsupported),
            )
            .unsigned(),
            self.case(
                17,
                "P-384 with SHA-256",
                Template::new(&self.host, &p384).sign(&p384),
                refuse!(AlgorithmUnsupported),
            )
            .with_key(&p384),
            self.vouched_spki(
                18,
                "explicit curve",
                explicit_curve,
                refuse!(AlgorithmUnsupported),
            ),
            self.case(
                19,
                "RSA with 1024 bits",
                rsa_sized(128),
                refuse!(AlgorithmUnsupported),
            )
            .unsigned(),
            self.case(
                19,
                "RSA with 2040 bits",
                rsa_sized(255),
                refuse!(AlgorithmUnsupported),
            )
            .unsigned(),
            self.case(
                19,
                "RSA with 4104 bits",
                rsa_sized(513),
                refuse!(AlgorithmUnsupported),
            )
            .unsigned(),
            self.case(
                19,
                "RSA with 8192 bits",
                rsa_sized(1024),
                refuse!(AlgorithmUnsupported),
            )
            .unsigned(),
            self.case(
                19,
                "RSA with 8200 bits",
                rsa_sized(1025),
                refuse!(AlgorithmUnsupported),
            )
            .unsigned(),
            self.case(
                19,
                "RSA with 16384 bits",
                rsa_sized(2048),
                refuse!(AlgorithmUnsupported),
            )
            .unsigned(),
            self.case(
                19,
                "RSA with the exponent 3",
                rsa_with(256, &[3]),
                refuse!(AlgorithmUnsupported),
            )
            .unsigned(),
            self.case(
                19,
                "RSA with the exponent 65536",
                rsa_with(256, &[1, 0, 0]),
                refuse!(AlgorithmUnsupported),
            )
            .unsigned(),
            self.case(
                19,
                "RSA with the exponent 2^33 − 1",
                rsa_with(256, &[1, 0xff, 0xff, 0xff, 0xff]),
                refuse!(AlgorithmUnsupported),
            )
            .unsigned(),
            self.case(
                20,
                "PSS with its default SHA-1",
                rsa_signed(&sequence(&[
                    &object_identifier(&[PKCS1, &[10]].concat()),
                    &sequence(&[]),
                ])),
                refuse!(AlgorithmUnsupported),
            )
            .with_key(&rsa)
            .unsigned(),
            self.case(
                20,
                "PKCS#1 without parameters",
                rsa_signed(&absent_parameters),
                refuse!(AlgorithmUnsupported),
            )
            .with_key(&rsa),
            self.case(
                21,
                "P-521",
                Template::new(&self.host, &p521).sign(&p521),
                refuse!(AlgorithmUnsupported),
            )
            .with_key(&p521),
            self.case(
                21,
                "Ed448",
                Template::new(&self.host, &ed448).sign(&ed448),
                refuse!(AlgorithmUnsupported),
            )
            .unsigned(),
            self.changed(
                22,
                "not yet valid",
                |template| template.validity = period(b"21190101000000Z", b"21200101000000Z"),
                refuse!(NotYetValid),
            ),
            self.changed(
                23,
                "expired",
                |template| template.validity = period(b"20100101000000Z", b"20110101000000Z"),
                refuse!(Expired),
            ),
            self.changed(
                25,
                "ends before it begins",
                |template| template.validity = period(b"21200101000000Z", b"20200101000000Z"),
                refuse!(ValidityReversed),
            ),
            self.changed(
                26,
                "no end",
                |template| template.validity = period(b"00010101000000Z", b"99991231235959Z"),
                Expected::Accept,
            ),
            self.case(
                27,
                "signed by another key",
                self.good.sign(&self.other),
                refuse!(SelfSignature),
            ),
            self.case(
                27,
                "signature of another certificate",
                self.good
                    .change(|template| template.serial = integer(&[1]))
                    .assemble(&signature),
                refuse!(SelfSignature),
            ),
            self.case(28, "empty signature", unsigned(&[]), refuse!(SelfSignature)),
            self.case(
                28,
                "signature of zeros",
                unsigned(&sequence(&[&integer(&[0]), &integer(&[0])])),
                refuse!(SelfSignature),
            ),
            self.changed(
                31,
                "issuer unique identifier",
                |template| template.unique_ids = element(0x81, &[0, 1]),
                refuse!(UniqueId),
            ),
            self.changed(
                31,
                "subject unique identifier",
                |template| template.unique_ids = element(0x82, &[0, 1]),
                refuse!(UniqueId),
            ),
        ]
    }

    pub(super) fn extensions(&self) -> Vec<Case> {
        let value = signed_key(&self.host, &self.signer.spki);
        let only = |identifier: &[u8]| vec![extension(identifier, false, &value)];
        let mut sibling = LIBP2P.to_vec();
        *sibling.last_mut().unwrap() = 2;
        let padded = {
            let (first, rest) = LIBP2P.split_at(LIBP2P.len() - 1);
            [first, &[0x80], rest].concat()
        };
        let other_peer = signed_key(&Keypair::generate_ed25519(), &self.signer.spki);

        vec![
            self.changed(
                32,
                "no extensions",
                |template| template.extensions.clear(),
                refuse!(ExtensionMissing),
            ),
            self.changed(
                32,
                "only another extension",
                |template| template.extensions = only(UNKNOWN),
                refuse!(ExtensionMissing),
            ),
            self.changed(
                33,
                "sibling identifier",
                |template| template.extensions = only(&sibling),
                refuse!(ExtensionMissing),
            ),
            self.changed(
                34,
                "non-minimal identifier",
                |template| template.extensions = only(&padded),
                refuse!(BadEncoding),
            ),
            self.changed(
                35,
                "the same libp2p extension twice",
                |template| template.extensions.extend(only(LIBP2P)),
                refuse!(ExtensionDuplicate),
            ),
            self.changed(
                35,
                "libp2p extensions of two peers",
                |template| {
                    template
                        .extensions
                        .push(extension(LIBP2P, false, &other_peer))
                },
                refuse!(ExtensionDuplicate),
            ),
            self.changed(
                36,
                "unknown critical extension",
                |template| template.extensions.push(extension(UNKNOWN, true, b"")),
                refuse!(ExtensionCritical),
            ),
            self.changed(
                36,
                "unknown critical extension before ours",
                |template| template.extensions.insert(0, extension(UNKNOWN, true, b"")),
                refuse!(ExtensionCritical),
            ),
            self.changed(
                37,
                "unknown extension",
                |template| {
                    template
                        .extensions
                        .insert(0, extension(UNKNOWN, false, b"\xff"))
                },
                Expected::Accept,
            ),
            self.changed(
                38,
                "unknown extension twice",
                |template| {
                    let unknown = extension(UNKNOWN, false, b"");
                    template.extensions.extend([unknown.clone(), unknown]);
                },
                refuse!(ExtensionDuplicate),
            ),
            self.changed(
                39,
                "malformed critical key usage",
                |template| {
                    template
                        .extensions
                        .push(extension(KEY_USAGE, true, b"\xff\xff"))
                },
                refuse!(ExtensionCritical),
            ),
            self.changed(
                39,
                "malformed key usage",
                |template| {
                    template
                        .extensions
                        .push(extension(KEY_USAGE, false, b"\xff\xff"))
                },
                Expected::Accept,
            ),
        ]
    }
}

/// Extensions with short names, so that 5000 fit into the 64 KiB that TLS permits.
fn many_extensions(count: u16) -> impl Iterator<Item = Vec<u8>> {
    (0..count).map(|index| {
        let identifier = [0x2a, 0x81 + (index >> 7) as u8, (index & 0x7f) as u8];
        extension(&identifier, false, b"")
    })
}

/// Offset of the point in the contents of a P-256 SubjectPublicKeyInfo.
const P256_POINT: usize = 24;
const P256_PRIME: &str = "ffffffff00000001000000000000000000000000ffffffffffffffffffffffff";
const P256_A: &str = "ffffffff00000001000000000000000000000000fffffffffffffffffffffffc";
const P256_B: &str = "5ac635d8aa3a93e7b3ebbd55769886bc651d06b0cc53b0f63bce3c3e27d2604b";
const P256_GENERATOR: &str = "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296\
                              4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5";
pub(super) const P256_ORDER: &str =
    "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
