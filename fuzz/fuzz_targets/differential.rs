//! Compares our verifier of certificates with that of libp2p-tls, which rust-libp2p and js-libp2p
//! use.
//!
//! The input is as for `certificate`. If both accept a certificate, they must name the same peer.
//! If only we refuse it, the reason must be in a list. `fuzz/compare` compares Go's verifier over
//! the corpus of this target.
#![no_main]

use std::time::SystemTime;

use libfuzzer_sys::fuzz_target;
use libp2p_quinn::{CertificateError, fuzzing, verify_certificate};
use rustls_pki_types::CertificateDer;

fuzz_target!(|data: &[u8]| {
    let Some((mode, rest)) = data.split_first() else {
        return;
    };
    let certificate = match mode % 2 {
        0 => rest.to_vec(),
        _ => fuzzing::signed(rest),
    };
    let ours = verify_certificate(&certificate, None, SystemTime::now());
    let der = CertificateDer::from(&certificate[..]);
    let theirs = libp2p_tls::certificate::parse(&der).map(|parsed| parsed.peer_id());
    match (&ours, &theirs) {
        (Ok(ours), Ok(theirs)) => assert_eq!(ours.peer_id(), *theirs),
        (Err(reason), Ok(_)) => assert!(is_stricter(reason), "only we refuse it: {reason}"),
        (Ok(_), Err(reason)) => panic!("only we accept it: {reason}"),
        (Err(_), Err(_)) => {}
    }
});

/// Whether libp2p-tls does not have this rule. `interop/certificates.toml` explains the rules.
fn is_stricter(reason: &CertificateError) -> bool {
    matches!(
        reason,
        // libp2p-tls checks only the algorithm outside the signed part,
        CertificateError::AlgorithmMismatch
            // and only its name, not its parameters.
            | CertificateError::AlgorithmUnsupported
            // It also accepts encodings that are not DER, and versions other than 3.
            | CertificateError::BadEncoding { .. }
            | CertificateError::ExtensionDuplicate
            | CertificateError::UniqueId
            | CertificateError::Version
            // It accepts host keys that are weak or not encoded canonically.
            | CertificateError::HostKey { .. }
            // It has no limits.
            | CertificateError::TooLarge { .. }
    )
}
