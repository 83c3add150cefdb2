//! Compares our verifier with that of libp2p-tls, on every certificate of the forger.
//!
//! The fuzz target `differential` continues from here, and `fuzz/compare` adds go-libp2p's
//! verifier.

mod support;

use libp2p_quinn::{CertificateError, verify_certificate};
use libp2p_tls::certificate::parse;
use support::certificates::{cases, today};

#[test]
fn who_accepts_the_same_certificate_sees_the_same_peer() {
    let (mut both, mut stricter) = (0, 0);
    for case in cases() {
        let Some(certificate) = case.certificate() else {
            continue;
        };
        // libp2p-tls has no expected peer, and reads the clock itself.
        let ours = verify_certificate(certificate, None, today());
        let der = certificate.into();
        let theirs = parse(&der).map(|parsed| parsed.peer_id());
        match (ours, theirs) {
            (Ok(ours), Ok(theirs)) => {
                assert_eq!(ours.peer_id(), theirs, "{case}");
                both += 1;
            }
            (Err(reason), Ok(_)) => {
                assert!(is_stricter(&reason), "{case}: only we refuse it: {reason}");
                stricter += 1;
            }
            (Ok(_), Err(reason)) => panic!("{case}: only we accept it: {reason}"),
            (Err(_), Err(_)) => {}
        }
    }
    assert!(both > 10 && stricter > 10, "{both} {stricter}");
}

/// Rules that libp2p-tls does not have; `interop/certificates.toml` lists their sources.
fn is_stricter(reason: &CertificateError) -> bool {
    matches!(
        reason,
        CertificateError::AlgorithmMismatch
            | CertificateError::AlgorithmUnsupported
            | CertificateError::BadEncoding { .. }
            | CertificateError::ExtensionDuplicate
            | CertificateError::HostKey { .. }
            | CertificateError::TooLarge { .. }
            | CertificateError::UniqueId
            | CertificateError::Version
    )
}
