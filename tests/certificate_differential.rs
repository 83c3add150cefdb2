//! The verifier beside that of libp2p-tls, with every certificate that the forger knows.
//!
//! The fuzz target `differential` goes on from here, and `fuzz/compare` has go-libp2p's verifier as well.

mod support;

use libp2p_quinn::{CertificateError, PeerAuthenticator};
use libp2p_tls::certificate::parse;
use support::certificates::{cases, today};

#[test]
fn who_accepts_the_same_certificate_sees_the_same_peer() {
    let (mut both, mut stricter) = (0, 0);
    for case in cases() {
        let Some(certificate) = case.certificate() else {
            continue;
        };
        // libp2p-tls knows nothing of an expected peer, and looks at the clock itself.
        let ours = PeerAuthenticator::verify(certificate, None, today());
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

/// Rules that libp2p-tls does not have; `interop/certificates.toml` says where they come from.
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
