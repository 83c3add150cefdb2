//! Keys, peer IDs and addresses mean the same in both versions.

use std::error::Error;

use aws_lc_rs::{
    encoding::AsDer,
    rsa::{self, KeySize},
};
use libp2p::{
    Multiaddr,
    identity::{Keypair, PeerId},
};
use libp2p_quinn_056::{
    newer::{self, KeypairError},
    older,
};

#[test]
fn a_converted_key_is_the_same_node() -> Result<(), Box<dyn Error>> {
    let keypairs = [
        Keypair::generate_ed25519(),
        Keypair::generate_secp256k1(),
        Keypair::generate_ecdsa(),
    ];
    for keypair in keypairs {
        let newer = newer::keypair(&keypair)?;
        assert_eq!(
            older::peer_id(&newer.public().to_peer_id()),
            keypair.public().to_peer_id()
        );
        let signature = newer.sign(b"message")?;
        assert!(keypair.public().verify(b"message", &signature));
    }
    Ok(())
}

#[test]
fn an_rsa_key_is_refused_but_its_document_can_be_read() -> Result<(), Box<dyn Error>> {
    let document = rsa::KeyPair::generate(KeySize::Rsa2048)?.as_der()?;
    let document = document.as_ref();
    let keypair = Keypair::rsa_from_pkcs8(&mut document.to_vec())?;
    let refused = newer::keypair(&keypair);
    assert!(matches!(refused, Err(KeypairError::Encode(_))));

    let newer = newer::Keypair::rsa_from_pkcs8(&mut document.to_vec())?;
    let peer_id = older::peer_id(&newer.public().to_peer_id());
    assert_eq!(peer_id, keypair.public().to_peer_id());
    Ok(())
}

#[test]
fn a_converted_peer_id_is_written_alike() {
    // The key itself, and its hash.
    let ids = [
        Keypair::generate_ed25519().public().to_peer_id(),
        Keypair::generate_ecdsa().public().to_peer_id(),
        PeerId::random(),
    ];
    for id in ids {
        let newer = newer::peer_id(&id);
        assert_eq!(newer.to_string(), id.to_string());
        assert_eq!(older::peer_id(&newer), id);
    }
}

#[test]
fn a_converted_address_is_written_alike() -> Result<(), Box<dyn Error>> {
    let peer_id = PeerId::random();
    let addresses = [
        "/ip4/192.0.2.7/udp/4001/quic-v1".to_owned(),
        format!("/ip6zone/eth0/ip6/fe80::1/udp/4001/quic-v1/p2p/{peer_id}"),
        format!("/dns4/example.org/tcp/443/wss/p2p/{peer_id}/p2p-circuit"),
    ];
    for text in addresses {
        let addr: Multiaddr = text.parse()?;
        let newer = newer::multiaddr(&addr)?;
        assert_eq!(newer.to_string(), text);
        assert_eq!(older::multiaddr(&newer)?, addr);
    }
    Ok(())
}

#[test]
fn an_address_that_the_older_version_does_not_know_is_an_error() -> Result<(), Box<dyn Error>> {
    let newer: newer::Multiaddr = "/ip4/192.0.2.7/tcp/80/http/http-path/p2p".parse()?;
    assert!(older::multiaddr(&newer).is_err());
    Ok(())
}
