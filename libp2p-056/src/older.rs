//! Values of libp2p 0.56 from those of libp2p 0.57, which libp2p-quinn returns.

use libp2p_identity::PeerId;
use multiaddr::Multiaddr;

use crate::newer;

/// Converts the ID of a peer.
pub fn peer_id(peer_id: &newer::PeerId) -> PeerId {
    PeerId::from_bytes(&peer_id.to_bytes()).expect("both versions have the same peer IDs")
}

/// Converts an address. All addresses that libp2p-quinn returns can be converted.
///
/// # Errors
///
/// If the older version of multiaddr does not know a protocol in it. 0.18 lacks `/http-path/…`.
pub fn multiaddr(addr: &newer::Multiaddr) -> Result<Multiaddr, multiaddr::Error> {
    Multiaddr::try_from(addr.to_vec())
}
