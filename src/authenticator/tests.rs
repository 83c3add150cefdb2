//! Whole handshakes in memory, with honest and hostile peers.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use libp2p_identity::{Keypair, PeerId};
use quinn_proto::{
    ConnectionId, Side, TransportErrorCode,
    crypto::{Session, UnsupportedVersion},
    transport_parameters::TransportParameters,
};
use rustls::{CipherSuite, NamedGroup, crypto::CryptoProvider, time_provider::DefaultTimeProvider};

use self::{
    certificates::{Case, Expected, Signer, Template, cases, hosts},
    peers::{
        Clock, Counter, Failure, Peer, PublicSecret, RawPeer, Recorder, client_hello_extensions,
        shake_hands, tell,
    },
};
use super::{
    Authenticator, CertificateError, GenerateError, Negotiated, certificate, crypto_provider,
    tls::ALPN, verifier::Verdict, verify_certificate,
};

#[allow(dead_code, unused_imports, reason = "each test uses a part of it")]
#[path = "../../tests/support/certificates.rs"]
mod certificates;
mod crypto;
mod endpoints;
#[path = "../../tests/support/hostile_tls.rs"]
mod hostile_tls;
mod peers;

#[test]
fn both_sides_learn_whom_they_talk_to() {
    for client_host in hosts() {
        for server_host in hosts() {
            let client = Authenticator::new(&client_host, None).unwrap();
            let server = Authenticator::new(&server_host, None).unwrap();
            let server_id = server_host.public().to_peer_id();
            let mut client = start_client(&client, Some(server_id));
            let mut server = start_server(&server);
            assert_eq!(verdict(&*client), None);

            shake_hands(&mut client, &mut server).unwrap();

            let seen = verdict(&*client).unwrap().unwrap();
            assert_eq!(seen.peer_id(), server_id);
            assert_eq!(*seen.public_key(), server_host.public());
            let seen = verdict(&*server).unwrap().unwrap();
            assert_eq!(seen.peer_id(), client_host.public().to_peer_id());
        }
    }
}

#[test]
fn hybrid_key_exchange_and_aes_are_negotiated() {
    let (mut client, mut server) = pair();
    shake_hands(&mut client, &mut server).unwrap();
    let cipher_suite = crypto_provider().cipher_suites[0].suite();
    if cfg!(target_arch = "x86_64") && std::arch::is_x86_feature_detected!("aes") {
        assert_eq!(cipher_suite, CipherSuite::TLS13_AES_128_GCM_SHA256);
    }
    for session in [&client, &server] {
        assert_eq!(
            negotiated(&**session),
            Some(Negotiated {
                cipher_suite,
                disables_active_migration: false,
                max_idle_timeout: None,
                key_exchange_group: NamedGroup::X25519MLKEM768,
                server_name: None,
            })
        );
        assert!(!session.is_handshaking());
    }
}

#[test]
fn transport_parameters_and_keys_outlive_the_handshake() {
    let (mut client, mut server) = pair();
    shake_hands(&mut client, &mut server).unwrap();
    for session in [&client, &server] {
        assert_eq!(
            session.transport_parameters(),
            Ok(Some(transport_parameters()))
        );
    }
    assert!(client.next_1rtt_keys().is_some());
    assert!(client.early_crypto().is_none());
    assert_eq!(client.early_data_accepted(), Some(false));
}

#[test]
fn tickets_are_taken_and_nothing_else_after_the_handshake() {
    let (mut client, mut server) = pair();
    shake_hands(&mut client, &mut server).unwrap();
    const NEW_SESSION_TICKET: &[u8] = &[4, 0, 0, 2, 1, 2];
    const KEY_UPDATE: &[u8] = &[24, 0, 0, 1, 0];
    assert_eq!(client.read_handshake(NEW_SESSION_TICKET), Ok(false));
    for error in [
        client.read_handshake(KEY_UPDATE),
        server.read_handshake(KEY_UPDATE),
        server.read_handshake(NEW_SESSION_TICKET),
    ] {
        let error = error.unwrap_err();
        assert_eq!(error.code, TransportErrorCode::crypto(UNEXPECTED_MESSAGE));
    }
}

#[test]
fn server_follows_its_own_order_of_cipher_suites() {
    let mut provider = crypto_provider();
    provider.cipher_suites.reverse();
    let reversed = authenticator(provider);
    let usual = authenticator(crypto_provider());
    for (client, server) in [(&reversed, &usual), (&usual, &reversed)] {
        let expected = server.1;
        let mut client = start_client(&client.0, None);
        let mut server = start_server(&server.0);
        shake_hands(&mut client, &mut server).unwrap();
        assert_eq!(negotiated(&*server).unwrap().cipher_suite, expected);
    }

    fn authenticator(provider: CryptoProvider) -> (Authenticator, CipherSuite) {
        let first = provider.cipher_suites[0].suite();
        let authenticator = Authenticator::with_parts(
            &Keypair::generate_ed25519(),
            &certificate::generate_key().unwrap(),
            Arc::new(provider),
            Arc::new(DefaultTimeProvider),
            None,
        )
        .unwrap();
        (authenticator, first)
    }
}

#[test]
fn provider_without_the_initial_suite_is_refused() {
    let mut provider = crypto_provider();
    provider
        .cipher_suites
        .retain(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    let made = Authenticator::with_parts(
        &Keypair::generate_ed25519(),
        &certificate::generate_key().unwrap(),
        Arc::new(provider),
        Arc::new(DefaultTimeProvider),
        None,
    );
    assert!(matches!(made, Err(GenerateError::InitialSuite)));
}

#[test]
fn wrong_peer_fails_inside_the_handshake() {
    let server_host = Keypair::generate_ed25519();
    let actual = server_host.public().to_peer_id();
    let expected = Keypair::generate_ed25519().public().to_peer_id();
    let client = Authenticator::new(&Keypair::generate_ed25519(), None).unwrap();
    let mut client = start_client(&client, Some(expected));
    let mut server = start_server(&Authenticator::new(&server_host, None).unwrap());

    let failure = shake_hands(&mut client, &mut server).unwrap_err();

    assert_eq!(failure.side, Side::Client);
    let mismatch = CertificateError::PeerMismatch {
        expected: Box::new(expected),
        actual: Box::new(actual),
    };
    assert_eq!(
        failure.error.code,
        TransportErrorCode::crypto(ACCESS_DENIED)
    );
    assert_eq!(failure.error.reason, mismatch.to_string());
    assert_eq!(verdict(&*client), Some(Err(mismatch)));
    // The client's certificate was never sent.
    assert_eq!(verdict(&*server), None);
    assert!(server.is_handshaking());
}

#[test]
fn client_hello_names_nobody_and_offers_libp2p_only() {
    let client = Authenticator::new(&Keypair::generate_ed25519(), None).unwrap();
    let mut client = start_client(&client, None);
    let mut hello = Vec::new();
    client.write_handshake(&mut hello);
    let extensions = client_hello_extensions(&hello);
    let find = |number| {
        extensions
            .iter()
            .find(|(found, _)| *found == number)
            .map(|(_, contents)| &contents[..])
    };
    assert_eq!(find(SERVER_NAME), None);
    assert_eq!(find(PRE_SHARED_KEY), None);
    assert_eq!(find(EARLY_DATA), None);
    assert_eq!(find(ALPN_EXTENSION), Some(&b"\x00\x07\x06libp2p"[..]));
    assert_eq!(find(SUPPORTED_VERSIONS), Some(&b"\x02\x03\x04"[..]));
}

#[test]
fn name_in_the_client_hello_is_ignored_but_reported() {
    let peer = RawPeer::new(&good_case());
    let mut client = peer.client(&[ALPN], "example.com");
    let mut server = start_server(&Authenticator::new(&Keypair::generate_ed25519(), None).unwrap());
    shake_hands(&mut client, &mut server).unwrap();
    assert_eq!(
        negotiated(&*server).unwrap().server_name.as_deref(),
        Some("example.com")
    );
}

#[test]
fn any_protocol_but_libp2p_is_refused() {
    let ours = Authenticator::new(&Keypair::generate_ed25519(), None).unwrap();
    let peer = RawPeer::new(&good_case());
    for protocols in [&[][..], &[&b"h3"[..]], &[b"libp2p2"], &[b"LIBP2P"]] {
        let mut client = peer.client(protocols, "localhost");
        let mut server = start_server(&ours);
        let failure = shake_hands(&mut client, &mut server).unwrap_err();
        assert_eq!(failure.side, Side::Server);
        assert_eq!(
            failure.error.code,
            TransportErrorCode::crypto(NO_APPLICATION_PROTOCOL)
        );

        let mut client = start_client(&ours, None);
        let mut server = peer.server(protocols);
        let failure = shake_hands(&mut client, &mut server).unwrap_err();
        assert_eq!(
            failure.error.code,
            TransportErrorCode::crypto(NO_APPLICATION_PROTOCOL)
        );
    }
    let mut client = peer.client(&[b"h3", ALPN], "localhost");
    let mut server = start_server(&ours);
    shake_hands(&mut client, &mut server).unwrap();
}

#[test]
fn every_case_ends_as_it_must_with_the_peer_as_server() {
    let ours = Authenticator::new(&Keypair::generate_ed25519(), None).unwrap();
    for case in cases() {
        let mut client = start_client(&ours, case.expected_peer);
        let mut server = RawPeer::new(&case).server(&[ALPN]);
        let ended = shake_hands(&mut client, &mut server);
        check(&case, &*client, ended, Side::Client);
    }
}

#[test]
fn every_case_ends_as_it_must_with_the_peer_as_client() {
    let ours = Authenticator::new(&Keypair::generate_ed25519(), None).unwrap();
    for case in cases() {
        if case.number == 56 {
            continue; // A server expects no particular peer.
        }
        let mut client = RawPeer::new(&case).client(&[ALPN], "localhost");
        let mut server = start_server(&ours);
        let ended = shake_hands(&mut client, &mut server);
        check(&case, &*server, ended, Side::Server);
    }
}

#[test]
fn peer_outlives_the_validity_of_its_certificate() {
    let clock = Arc::new(Clock(AtomicU64::new(1_700_000_000)));
    let ours = Authenticator::with_parts(
        &Keypair::generate_ed25519(),
        &certificate::generate_key().unwrap(),
        Arc::new(crypto_provider()),
        clock.clone(),
        None,
    )
    .unwrap();
    let case = good_case();
    let mut client = start_client(&ours, None);
    let mut server = RawPeer::new(&case).server(&[ALPN]);
    shake_hands(&mut client, &mut server).unwrap();

    clock.0.store(u64::MAX, Ordering::Relaxed);
    case.check(&verdict(&*client).unwrap().map(|peer| peer.peer_id()));

    let mut client = start_client(&ours, None);
    let mut server = RawPeer::new(&case).server(&[ALPN]);
    shake_hands(&mut client, &mut server).unwrap_err();
    assert_eq!(verdict(&*client), Some(Err(CertificateError::Expired)));
}

#[test]
fn known_certificate_proves_nothing_for_who_lacks_its_key() {
    let ours = Authenticator::new(&Keypair::generate_ed25519(), None).unwrap();
    let case = good_case();
    let mut client = start_client(&ours, None);
    let mut server = RawPeer::new(&case).server(&[ALPN]);
    shake_hands(&mut client, &mut server).unwrap();

    let thief = Case {
        private_key: Signer::p256().pkcs8,
        ..case
    };
    // With another expected peer, the error is the same, because the owner of the certificate has
    // not proven to be there.
    for expected in [None, Some(PeerId::random())] {
        let mut client = start_client(&ours, expected);
        let mut server = RawPeer::new(&thief).server(&[ALPN]);
        shake_hands(&mut client, &mut server).unwrap_err();
        assert_eq!(
            verdict(&*client),
            Some(Err(CertificateError::HandshakeSignature))
        );
    }
}

#[test]
fn known_certificate_is_not_taken_for_another_peers() {
    let ours = Authenticator::new(&Keypair::generate_ed25519(), None).unwrap();
    let case = good_case();
    let expected = PeerId::random();
    for (expected, is_good) in [(None, true), (Some(expected), false), (None, true)] {
        let mut client = start_client(&ours, expected);
        let mut server = RawPeer::new(&case).server(&[ALPN]);
        assert_eq!(
            shake_hands(&mut client, &mut server).is_ok(),
            is_good,
            "{expected:?}"
        );
    }
}

#[test]
fn peer_is_not_named_before_the_handshake_is_complete() {
    let (mut client, mut server) = pair();
    tell(&client.speak(), &mut server).unwrap();
    tell(&server.speak(), &mut client).unwrap();
    assert!(verdict(&*client).unwrap().is_ok());
    let flights = client.speak();
    let [flight] = &flights[..] else {
        panic!("the client answers at one level");
    };
    // The last message is Finished: a header and a hash. Before it, the server has read the
    // client's certificate and the proof that the client holds the key.
    let hash = match negotiated(&*client).unwrap().cipher_suite {
        CipherSuite::TLS13_AES_256_GCM_SHA384 => 48,
        _ => 32,
    };
    let (before, finished) = flight.split_at(flight.len() - 4 - hash);
    server.listen(before).unwrap();
    assert_eq!(verdict(&*server), None);
    server.listen(finished).unwrap();
    assert!(verdict(&*server).unwrap().is_ok());
}

#[test]
fn replayed_or_changed_flights_never_name_a_peer() {
    let (mut client, mut server) = pair();
    tell(&client.speak(), &mut server).unwrap();
    let mut flights = server.speak();

    // The flight answers another ClientHello.
    let (mut other, _) = pair();
    other.speak();
    tell(&flights, &mut other).unwrap_err();
    assert!(!matches!(verdict(&*other), Some(Ok(_))));

    // A bit of the last message, Finished, differs.
    *flights.last_mut().unwrap().last_mut().unwrap() ^= 1;
    tell(&flights, &mut client).unwrap_err();
    assert_eq!(verdict(&*client), None);
}

#[test]
fn same_parts_make_the_same_handshake() {
    let host = Keypair::ed25519_from_bytes([1; 32]).unwrap();
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let transcript = || {
        let random: &'static Counter = Box::leak(Box::new(Counter(AtomicU64::new(0))));
        let provider = CryptoProvider {
            kx_groups: vec![&PublicSecret],
            secure_random: random,
            ..crypto_provider()
        };
        let ours = Authenticator::with_parts(
            &host,
            &key,
            Arc::new(provider),
            Arc::new(Clock(AtomicU64::new(1_700_000_000))),
            None,
        )
        .unwrap();
        let mut client = Recorder(start_client(&ours, None), Vec::new());
        let mut server = Recorder(start_server(&ours), Vec::new());
        shake_hands(&mut client, &mut server).unwrap();
        (client.1, server.1)
    };
    assert_eq!(transcript(), transcript());
}

#[test]
fn our_certificates_are_accepted_by_the_official_implementation() {
    for host in hosts() {
        let key = certificate::generate_key().unwrap();
        let ours = certificate::generate(&host, &key).unwrap();
        let theirs = libp2p_tls::certificate::parse(&ours.der).unwrap();
        assert_eq!(theirs.peer_id(), host.public().to_peer_id());

        let (theirs, _) = libp2p_tls::certificate::generate(&host).unwrap();
        let peer = verify_certificate(&theirs, None, certificates::today()).unwrap();
        assert_eq!(peer.peer_id(), host.public().to_peer_id());
    }
}

#[test]
fn only_version_1_is_spoken() {
    let ours = Authenticator::new(&Keypair::generate_ed25519(), None).unwrap();
    let destination = ConnectionId::new(&[1; 8]);
    let server = ours.server();
    assert!(server.initial_keys(1, &destination).is_ok());
    for version in [0, 2, 0x6b33_43cf, 0xff00_001d, 0x0a0a_0a0a] {
        assert!(matches!(
            server.initial_keys(version, &destination),
            Err(UnsupportedVersion)
        ));
        let session = ours
            .client(None)
            .start_session(version, "", &transport_parameters());
        assert!(session.is_err());
    }
}

#[test]
fn retry_is_valid_with_its_tag_only() {
    let ours = Authenticator::new(&Keypair::generate_ed25519(), None).unwrap();
    let client = start_client(&ours, None);
    let destination = ConnectionId::new(&[7; 8]);
    let (header, token) = (&b"header"[..], &b"token"[..]);
    let tag = ours
        .server()
        .retry_tag(1, &destination, &[header, token].concat());
    let payload = [token, &tag].concat();
    assert!(client.is_valid_retry(&destination, header, &payload));
    assert!(!client.is_valid_retry(&ConnectionId::new(&[8; 8]), header, &payload));
    assert!(!client.is_valid_retry(&destination, b"", &payload));
    assert!(!client.is_valid_retry(&destination, header, &tag[..15]));
    for index in 0..payload.len() {
        let mut changed = payload.clone();
        changed[index] ^= 1;
        assert!(!client.is_valid_retry(&destination, header, &changed));
    }
}

fn check(case: &Case, ours: &dyn Session, ended: Result<(), Failure>, side: Side) {
    let verdict = verdict(ours).unwrap_or_else(|| panic!("{case}: no verdict, {ended:?}"));
    case.check(&verdict.clone().map(|peer| peer.peer_id()));
    match (&case.expected, verdict, ended) {
        (Expected::Accept, Ok(_), Ok(())) => {}
        (Expected::Refuse(..), Err(refusal), Err(failure)) => {
            assert_eq!(failure.side, side, "{case}");
            assert_eq!(failure.error.reason, refusal.to_string(), "{case}");
            let code = u64::from(failure.error.code);
            assert!(
                (0x100..0x200).contains(&code),
                "{case}: {code:#x} is no alert"
            );
        }
        (.., ended) => panic!("{case}: {ended:?}"),
    }
}

fn pair() -> (Box<dyn Session>, Box<dyn Session>) {
    let [client, server] =
        [(); 2].map(|()| Authenticator::new(&Keypair::generate_ed25519(), None).unwrap());
    (start_client(&client, None), start_server(&server))
}

fn start_client(ours: &Authenticator, expected: Option<PeerId>) -> Box<dyn Session> {
    ours.client(expected)
        .start_session(1, "name", &transport_parameters())
        .unwrap()
}

fn start_server(ours: &Authenticator) -> Box<dyn Session> {
    ours.server().start_session(1, &transport_parameters())
}

/// An empty set, so all parameters have their defaults.
fn transport_parameters() -> TransportParameters {
    TransportParameters::read(Side::Client, &mut &[][..]).unwrap()
}

fn verdict(session: &dyn Session) -> Option<Verdict> {
    let peer = session.peer_identity()?.downcast::<super::Peer>();
    peer.unwrap().verdict
}

fn negotiated(session: &dyn Session) -> Option<Negotiated> {
    let negotiated = session.handshake_data()?;
    Some(*negotiated.downcast::<Negotiated>().unwrap())
}

fn good_case() -> Case {
    let host = Keypair::generate_ed25519();
    let signer = Signer::p256();
    Case {
        number: 0,
        name: "good",
        chain: vec![Template::new(&host, &signer).sign(&signer)],
        private_key: signer.pkcs8,
        signed: true,
        host: host.public().to_peer_id(),
        expected_peer: None,
        expected: Expected::Accept,
    }
}

const ACCESS_DENIED: u8 = 49;
const UNEXPECTED_MESSAGE: u8 = 10;
const NO_APPLICATION_PROTOCOL: u8 = 120;

const SERVER_NAME: u16 = 0;
const ALPN_EXTENSION: u16 = 16;
const PRE_SHARED_KEY: u16 = 41;
const EARLY_DATA: u16 = 42;
const SUPPORTED_VERSIONS: u16 = 43;
