//! A forger of certificates: valid ones, and every invalid one that an attacker may present.
//!
//! [`cases`] makes them, numbered as in the list of threats against which the authenticator was
//! built. Everything that a case is not about is correct, and signed after the forgery. So a
//! verifier that misses the forgery accepts the certificate, unless the case states that it is not
//! [signed].
//!
//! [signed]: Case::signed

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use libp2p_identity::{Keypair, PeerId};

use self::der::{SET, element, object_identifier, sequence};
use self::template::{LIBP2P, extension};
pub(crate) use self::{
    libp2p::broken_host_signatures,
    signer::{Hash, Signer},
    template::{Template, sign, signed_key},
};
use super::CertificateError;

// Explicit paths, because unit tests include this file by its path.
#[path = "certificates/der.rs"]
mod der;
#[path = "certificates/libp2p.rs"]
mod libp2p;
#[path = "certificates/signer.rs"]
mod signer;
#[path = "certificates/template.rs"]
mod template;
#[path = "certificates/x509.rs"]
mod x509;

/// Something a peer may present in its handshake.
#[derive(Debug)]
pub(crate) struct Case {
    /// The number of the threat. Some have several cases.
    pub(crate) number: u8,
    pub(crate) name: &'static str,
    /// The certificates that the peer presents, in DER: one, unless the case is about their number.
    pub(crate) chain: Vec<Vec<u8>>,
    /// The key that signs the peer's handshake, in PKCS#8.
    pub(crate) private_key: Vec<u8>,
    /// Whether the signatures are valid, so that a verifier that misses the forgery accepts them.
    /// Some signatures no library can make.
    pub(crate) signed: bool,
    /// The peer that the certificate claims.
    pub(crate) host: PeerId,
    /// The peer that the other side expects, if any.
    pub(crate) expected_peer: Option<PeerId>,
    pub(crate) expected: Expected,
}

/// The required result of a case.
pub(crate) enum Expected {
    Accept,
    /// The variant of the error, and a test for it.
    Refuse(&'static str, fn(&CertificateError) -> bool),
}

impl Case {
    /// The same case with wrong signatures.
    fn unsigned(self) -> Self {
        Self {
            signed: false,
            ..self
        }
    }

    /// The same case with the handshake signed by another key.
    fn with_key(self, signer: &Signer) -> Self {
        Self {
            private_key: signer.pkcs8.clone(),
            ..self
        }
    }

    /// The same case with a certificate that claims to be from `host`.
    fn claiming(self, host: PeerId) -> Self {
        Self { host, ..self }
    }

    /// The certificate, if it decides the case without a handshake.
    pub(crate) fn certificate(&self) -> Option<&[u8]> {
        match &self.chain[..] {
            [certificate] if self.number != 57 => Some(certificate),
            _ => None,
        }
    }

    /// # Panics
    /// If `actual` is not what has to become of the case.
    pub(crate) fn check(&self, actual: &Result<PeerId, CertificateError>) {
        let is_right = match (&self.expected, actual) {
            (Expected::Accept, Ok(actual)) => *actual == self.host,
            (Expected::Refuse(_, is_right), Err(error)) => is_right(error),
            _ => false,
        };
        assert!(
            is_right,
            "{self}: {actual:?} instead of {:?}",
            self.expected
        );
    }
}

impl fmt::Display for Case {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "case {} ({})", self.number, self.name)
    }
}

impl fmt::Debug for Expected {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => write!(formatter, "Accept"),
            Self::Refuse(variant, _) => write!(formatter, "Refuse({variant})"),
        }
    }
}

/// A host key of each type.
pub(crate) fn hosts() -> [Keypair; 4] {
    [
        Keypair::generate_ed25519(),
        Keypair::generate_secp256k1(),
        Keypair::generate_ecdsa(),
        rsa_host(),
    ]
}

/// Every case, valid and invalid.
pub(crate) fn cases() -> Vec<Case> {
    let forger = Forger::new();
    [
        forger.good(),
        forger.encoding(),
        forger.semantics(),
        forger.extensions(),
        forger.signed_keys(),
        forger.host_keys(),
        forger.host_signatures(),
        forger.handshakes(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// An error of one variant, by its name.
macro_rules! refuse {
    ($variant:ident) => {
        Expected::Refuse(stringify!($variant), |error| {
            matches!(error, CertificateError::$variant { .. })
        })
    };
}
use refuse;

struct Forger {
    host: Keypair,
    signer: Signer,
    /// Another certificate key.
    other: Signer,
    good: Template,
}

impl Forger {
    fn new() -> Self {
        let host = Keypair::generate_ed25519();
        let signer = Signer::p256();
        Self {
            good: Template::new(&host, &signer),
            other: Signer::p256(),
            host,
            signer,
        }
    }

    fn case(
        &self,
        number: u8,
        name: &'static str,
        certificate: Vec<u8>,
        expected: Expected,
    ) -> Case {
        Case {
            number,
            name,
            chain: vec![certificate],
            private_key: self.signer.pkcs8.clone(),
            signed: true,
            host: self.host.public().to_peer_id(),
            expected_peer: None,
            expected,
        }
    }

    /// The valid certificate with a change, signed after it.
    fn changed(
        &self,
        number: u8,
        name: &'static str,
        change: impl FnOnce(&mut Template),
        expected: Expected,
    ) -> Case {
        let certificate = self.good.change(change).sign(&self.signer);
        self.case(number, name, certificate, expected)
    }

    /// A valid certificate with another kind of key.
    fn signed_by(&self, number: u8, name: &'static str, signer: Signer) -> Case {
        let certificate = Template::new(&self.host, &signer).sign(&signer);
        self.case(number, name, certificate, Expected::Accept)
            .with_key(&signer)
    }

    /// The valid certificate with another SubjectPublicKeyInfo, which the host key signs.
    fn vouched_spki(
        &self,
        number: u8,
        name: &'static str,
        spki: Vec<u8>,
        expected: Expected,
    ) -> Case {
        self.changed(
            number,
            name,
            |template| {
                let value = signed_key(&self.host, &spki);
                template.extensions = vec![extension(LIBP2P, false, &value)];
                template.spki = spki;
            },
            expected,
        )
    }

    fn good(&self) -> Vec<Case> {
        let mut cases = vec![
            self.case(0, "good", self.good.sign(&self.signer), Expected::Accept),
            self.signed_by(0, "P-384", Signer::p384()),
            self.signed_by(0, "Ed25519", Signer::ed25519()),
            self.signed_by(58, "PKCS#1 SHA-256", Signer::rsa_pkcs1(Hash::Sha256)),
            self.signed_by(58, "PKCS#1 SHA-384", Signer::rsa_pkcs1(Hash::Sha384)),
            self.signed_by(58, "PKCS#1 SHA-512", Signer::rsa_pkcs1(Hash::Sha512)),
            self.signed_by(0, "PSS SHA-256", Signer::rsa_pss(Hash::Sha256)),
            self.signed_by(0, "PSS SHA-384", Signer::rsa_pss(Hash::Sha384)),
            self.signed_by(0, "PSS SHA-512", Signer::rsa_pss(Hash::Sha512)),
            self.changed(
                0,
                "critical libp2p extension",
                |template| {
                    let value = signed_key(&self.host, &self.signer.spki);
                    template.extensions = vec![extension(LIBP2P, true, &value)];
                },
                Expected::Accept,
            ),
            self.changed(
                0,
                "names",
                |template| {
                    let common_name =
                        sequence(&[&object_identifier(&[0x55, 4, 3]), &element(0x0c, b"libp2p")]);
                    template.issuer = sequence(&[&element(SET, &common_name)]);
                    template.subject = template.issuer.clone();
                },
                Expected::Accept,
            ),
            Case {
                expected_peer: Some(self.host.public().to_peer_id()),
                ..self.case(
                    0,
                    "the expected peer",
                    self.good.sign(&self.signer),
                    Expected::Accept,
                )
            },
        ];
        let names = [
            "Ed25519 host key",
            "secp256k1 host key",
            "ECDSA host key",
            "RSA host key",
        ];
        for (name, host) in names.into_iter().zip(hosts()) {
            let certificate = Template::new(&host, &self.signer).sign(&self.signer);
            cases.push(
                self.case(0, name, certificate, Expected::Accept)
                    .claiming(host.public().to_peer_id()),
            );
        }
        cases
    }

    /// Cases that need a handshake.
    fn handshakes(&self) -> Vec<Case> {
        let good = self.good.sign(&self.signer);
        let case = |number, name, chain: &[&[u8]], signer: &Signer, expected| Case {
            number,
            name,
            chain: chain
                .iter()
                .map(|certificate| certificate.to_vec())
                .collect(),
            private_key: signer.pkcs8.clone(),
            signed: true,
            host: self.host.public().to_peer_id(),
            expected_peer: None,
            expected,
        };
        vec![
            case(
                29,
                "two certificates",
                &[&good, &good],
                &self.signer,
                refuse!(Chain),
            ),
            case(30, "no certificate", &[], &self.signer, refuse!(Chain)),
            case(
                57,
                "stolen certificate",
                &[&good],
                &self.other,
                refuse!(HandshakeSignature),
            ),
        ]
    }
}

fn rsa_host() -> Keypair {
    Keypair::rsa_from_pkcs8(&mut signer::rsa_pkcs8().to_vec()).unwrap()
}

/// 1.3.6.1.4.1.53594.9, which means nothing.
const UNKNOWN: &[u8] = &[0x2b, 6, 1, 4, 1, 0x83, 0xa2, 0x5a, 9];
const KEY_USAGE: &[u8] = &[0x55, 29, 15];

/// A day in January 2027, on which certificates are verified unless the case is about dates.
pub(crate) fn today() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}
