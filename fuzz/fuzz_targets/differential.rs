//! Our verifier of certificates beside that of libp2p-tls, which rust-libp2p and js-libp2p use.
//!
//! Input as for `certificate`. What both accept proves the same peer; and where they disagree there is a reason that is
//! known. Go's verifier is compared over the corpus of this target, by `fuzz/compare`.
#![no_main]

use std::time::SystemTime;

use libfuzzer_sys::fuzz_target;
use libp2p_quinn::{CertificateError, PeerAuthenticator, fuzzing};
use rustls_pki_types::CertificateDer;

fuzz_target!(|data: &[u8]| {
    let Some((mode, rest)) = data.split_first() else {
        return;
    };
    let certificate = match mode % 2 {
        0 => rest.to_vec(),
        _ => fuzzing::signed(rest),
    };
    let ours = PeerAuthenticator::verify(&certificate, None, SystemTime::now());
    let der = CertificateDer::from(&certificate[..]);
    let theirs = libp2p_tls::certificate::parse(&der).map(|parsed| parsed.peer_id());
    match (&ours, &theirs) {
        (Ok(ours), Ok(theirs)) => assert_eq!(ours.peer_id(), *theirs),
        (Err(reason), Ok(_)) => assert!(is_stricter(reason), "only we refuse it: {reason}"),
        (Ok(_), Err(reason)) => panic!("only we accept it: {reason}"),
        (Err(_), Err(_)) => {}
    }
});

/// Rules that libp2p-tls does not have; `interop/certificates.toml` says where they come from.
fn is_stricter(reason: &CertificateError) -> bool {
    matches!(
        reason,
        // It looks at the algorithm outside of the signed part only.
        CertificateError::AlgorithmMismatch
            // And at its name only, not at its parameters.
            | CertificateError::AlgorithmUnsupported
            // It reads more than DER, and more than version 3.
            | CertificateError::BadEncoding { .. }
            | CertificateError::ExtensionDuplicate
            | CertificateError::UniqueId
            | CertificateError::Version
            // It decodes host keys that are not written in the only way, and weak ones.
            | CertificateError::HostKey { .. }
            // It has no limits.
            | CertificateError::TooLarge { .. }
    )
}
