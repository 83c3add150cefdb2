//! Values of libp2p 0.57, which libp2p-quinn takes, from those of libp2p 0.56.

pub use libp2p_identity_03::{Keypair, PeerId};
pub use multiaddr_019::Multiaddr;
use zeroize::Zeroizing;

/// Converts the keys of a node. The peer ID stays the same.
///
/// # Errors
///
/// [`KeypairError::Encode`] if it is an RSA key, which libp2p-identity does not encode. Then make
/// it from the same PKCS#8 document with [`Keypair::rsa_from_pkcs8`].
pub fn keypair(keypair: &libp2p_identity::Keypair) -> Result<Keypair, KeypairError> {
    let encoded = (keypair.to_protobuf_encoding()).map_err(KeypairError::Encode)?;
    let encoded = Zeroizing::new(encoded);
    Keypair::from_protobuf_encoding(&encoded).map_err(KeypairError::Decode)
}

/// Converts the ID of a peer.
pub fn peer_id(peer_id: &libp2p_identity::PeerId) -> PeerId {
    PeerId::from_bytes(&peer_id.to_bytes()).expect("both versions have the same peer IDs")
}

/// Converts an address.
///
/// # Errors
///
/// If the newer version of multiaddr does not know a protocol in it. 0.19 knows all of 0.18.
pub fn multiaddr(addr: &multiaddr::Multiaddr) -> Result<Multiaddr, multiaddr_019::Error> {
    Multiaddr::try_from(addr.to_vec())
}

/// Keys that cannot be converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeypairError {
    /// libp2p-identity 0.2 does not encode keys of this type.
    #[error("the keypair cannot be encoded")]
    Encode(#[source] libp2p_identity::DecodingError),
    /// libp2p-identity 0.3 does not read what 0.2 has encoded.
    #[error("the encoded keypair cannot be decoded")]
    Decode(#[source] libp2p_identity_03::DecodingError),
}
