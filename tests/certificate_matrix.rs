//! Verifies every certificate of the forger with the public verifier.

mod support;

use std::{
    collections::BTreeMap,
    time::{Duration, UNIX_EPOCH},
};

use libp2p_identity::Keypair;
use libp2p_quinn::{CertificateError, verify_certificate};
use support::certificates::{
    Expected, Hash, Signer, Template, broken_host_signatures, cases, hosts, sign, signed_key, today,
};

#[test]
fn every_case_ends_as_it_must() {
    let mut numbers = Vec::new();
    let mut counts = BTreeMap::<u8, usize>::new();
    for case in cases() {
        *counts.entry(case.number).or_default() += 1;
        let Some(certificate) = case.certificate() else {
            continue;
        };
        let now = today();
        let verified = verify_certificate(certificate, case.expected_peer.as_ref(), now);
        case.check(
            &verified
                .as_ref()
                .map(|peer| peer.peer_id())
                .map_err(Clone::clone),
        );
        if let (Expected::Accept, Ok(peer)) = (&case.expected, verified) {
            assert_eq!(peer.public_key().to_peer_id(), case.host, "{case}");
        }
        numbers.push(case.number);
    }
    // The missing numbers need a handshake, or concern what follows one.
    numbers.dedup();
    numbers.sort_unstable();
    numbers.dedup();
    let missing: Vec<u8> = (1..=58)
        .filter(|number| !numbers.contains(number))
        .collect();
    assert_eq!(missing, [24, 29, 30, 57]);
    for (number, count) in counts {
        println!("row {number}: {count} cases");
    }
}

#[test]
fn every_truncation_is_bad_encoding() {
    for signer in [Signer::p256(), Signer::rsa_pss(Hash::Sha256)] {
        let certificate = Template::new(&Keypair::generate_ed25519(), &signer).sign(&signer);
        for end in 0..certificate.len() {
            let verified = verify_certificate(&certificate[..end], None, today());
            assert!(
                matches!(verified, Err(CertificateError::BadEncoding { .. })),
                "{end}: {verified:?}"
            );
        }
    }
}

#[test]
fn every_change_of_one_bit_is_refused() {
    for signer in [Signer::p256(), Signer::ed25519()] {
        let certificate = Template::new(&Keypair::generate_ed25519(), &signer).sign(&signer);
        assert!(verify_certificate(&certificate, None, today()).is_ok());
        for index in 0..certificate.len() {
            for bit in 0..8 {
                let mut changed = certificate.clone();
                changed[index] ^= 1 << bit;
                let verified = verify_certificate(&changed, None, today());
                assert!(verified.is_err(), "bit {bit} of byte {index}: {verified:?}");
            }
        }
    }
}

#[test]
fn every_replacement_of_one_byte_is_refused() {
    // Ed25519, whose signatures have only one form. It is also the fastest to verify.
    let signer = Signer::ed25519();
    let certificate = Template::new(&Keypair::generate_ed25519(), &signer).sign(&signer);
    for index in 0..certificate.len() {
        for byte in 0..=255 {
            if byte == certificate[index] {
                continue;
            }
            let mut changed = certificate.clone();
            changed[index] = byte;
            let verified = verify_certificate(&changed, None, today());
            assert!(verified.is_err(), "{byte} at {index}: {verified:?}");
        }
    }
}

#[test]
fn every_insertion_and_deletion_of_one_byte_is_refused() {
    let signer = Signer::p256();
    let certificate = Template::new(&Keypair::generate_ed25519(), &signer).sign(&signer);
    for index in 0..certificate.len() {
        let mut shorter = certificate.clone();
        shorter.remove(index);
        assert!(verify_certificate(&shorter, None, today()).is_err());
        for byte in [0x00, 0x01, 0x80, 0xff] {
            let mut longer = certificate.clone();
            longer.insert(index, byte);
            assert!(verify_certificate(&longer, None, today()).is_err());
        }
    }
}

#[test]
fn every_broken_byte_of_the_host_signature_is_noticed() {
    for certificate in broken_host_signatures() {
        let verified = verify_certificate(&certificate, None, today());
        assert_eq!(verified, Err(CertificateError::HostSignature));
    }
}

#[test]
fn no_change_of_the_signed_key_survives_a_new_self_signature() {
    let signer = Signer::ed25519();
    for host in hosts() {
        let value = signed_key(&host, &signer.spki);
        for index in 0..value.len() {
            let mut changed = value.clone();
            changed[index] ^= 1 << (index % 8);
            let certificate = Template::with_signed_key(&changed, &signer).sign(&signer);
            let verified = verify_certificate(&certificate, None, today());
            assert!(
                matches!(
                    verified,
                    Err(CertificateError::ExtensionEncoding { .. }
                        | CertificateError::HostKey { .. }
                        | CertificateError::HostSignature)
                ),
                "byte {index}: {verified:?}"
            );
        }
    }
}

#[test]
fn no_change_that_survives_a_new_self_signature_changes_the_peer() {
    let host = Keypair::generate_ed25519();
    let signer = Signer::ed25519();
    let signed_part = Template::new(&host, &signer).signed_part();
    let mut harmless = 0;
    for bit in 0..signed_part.len() * 8 {
        let mut changed = signed_part.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let certificate = sign(&changed, &signer);
        if let Ok(peer) = verify_certificate(&certificate, None, today()) {
            assert_eq!(peer.peer_id(), host.public().to_peer_id());
            harmless += 1;
        }
    }
    // The three bytes of the serial number, and digits of the two dates.
    assert!((24..24 + 8 * 28).contains(&harmless), "{harmless}");
}

#[test]
fn validity_includes_both_its_ends() {
    // 2020-01-01 and 2120-01-01.
    let (begin, end) = (1_577_836_800, 4_733_510_400);
    let signer = Signer::p256();
    let certificate = Template::new(&Keypair::generate_ed25519(), &signer).sign(&signer);
    let verify = |seconds| {
        let now = UNIX_EPOCH + Duration::from_secs(seconds);
        verify_certificate(&certificate, None, now).map(drop)
    };
    assert_eq!(verify(begin - 1), Err(CertificateError::NotYetValid));
    assert_eq!(verify(begin), Ok(()));
    assert_eq!(verify(end), Ok(()));
    assert_eq!(verify(end + 1), Err(CertificateError::Expired));
    let before_1970 = UNIX_EPOCH - Duration::from_secs(1);
    assert_eq!(
        verify_certificate(&certificate, None, before_1970),
        Err(CertificateError::NotYetValid)
    );
}

#[test]
fn mismatch_names_both_peers() {
    let host = Keypair::generate_ed25519();
    let signer = Signer::p256();
    let certificate = Template::new(&host, &signer).sign(&signer);
    let wanted = Keypair::generate_ed25519().public().to_peer_id();
    let Err(CertificateError::PeerMismatch { expected, actual }) =
        verify_certificate(&certificate, Some(&wanted), today())
    else {
        panic!("the certificate proves another peer");
    };
    assert_eq!(*expected, wanted);
    assert_eq!(*actual, host.public().to_peer_id());
}

#[test]
fn errors_can_be_kept_and_sent() {
    fn check<T: std::error::Error + Clone + Eq + Send + Sync + 'static>() {}
    check::<CertificateError>();
}
