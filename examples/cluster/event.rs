//! What happens at a node.

use libp2p::{Multiaddr, PeerId, swarm};
use libp2p_quinn::ConnectionError;

use crate::{failure::chain, peers::Peers};

#[derive(Debug)]
pub(crate) enum Event {
    /// A peer has answered our request, with this text.
    Answered(PeerId, String),
    /// A peer has sent this request, and has an answer.
    Asked(PeerId, String),
    /// A peer has sent this text to everybody.
    Broadcast(PeerId, String),
    /// The last connection to a peer has ended.
    Closed(PeerId, End),
    /// There is a first connection to a peer.
    Connected(PeerId),
    /// The record that we look for is at this peer, or here, and has this value.
    Found(Option<PeerId>, String),
    /// Somebody was turned away, because there are too many connections.
    Full(String),
    /// Others can dial this address.
    Listening(Multiaddr),
    /// A peer answers ping and identify, and receives broadcasts.
    Met(PeerId),
    /// No record was found, for this reason.
    NotFound(String),
    /// A peer's request was refused, for this reason.
    Refused(PeerId, String),
    /// The file had this many peers.
    Remembered(usize),
    /// This many peers are in the file.
    Saved(usize),
    /// A record is stored at a peer.
    Stored,
    /// Something does not work, and the node goes on.
    Trouble(String),
    /// A peer has not answered our request, for this reason.
    Unanswered(PeerId, String),
}

/// Why a connection has ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The application has closed it.
    Closed,
    /// No protocol here needed it.
    Idle,
    /// The transport has ended it, most often because the peer has.
    Transport(ConnectionError),
    Other(String),
}

impl Event {
    /// The event in one line. The text of a peer cannot break it.
    pub(crate) fn line(&self, peers: &Peers) -> String {
        let name = |peer_id| peers.name_of(peer_id);
        match self {
            Self::Answered(peer_id, text) => format!("{} answers: {}", name(peer_id), plain(text)),
            Self::Asked(peer_id, text) => format!("{} asks: {}", name(peer_id), plain(text)),
            Self::Broadcast(peer_id, text) => {
                format!("{} tells everybody: {}", name(peer_id), plain(text))
            }
            Self::Closed(peer_id, end) => format!("{} is gone: {}", name(peer_id), end.line()),
            Self::Connected(peer_id) => format!("connected to {peer_id}"),
            Self::Found(Some(peer_id), value) => {
                format!("record found at {}: {}", name(peer_id), plain(value))
            }
            Self::Found(None, value) => format!("record found here: {}", plain(value)),
            Self::Full(reason) => format!("somebody was turned away: {reason}"),
            Self::Listening(addr) => format!("listening at {addr}"),
            Self::Met(peer_id) => format!("{} answers ping, identify and gossipsub", name(peer_id)),
            Self::NotFound(reason) => format!("no record found: {reason}"),
            Self::Refused(peer_id, reason) => {
                format!("request of {} refused: {reason}", name(peer_id))
            }
            Self::Remembered(peers) => format!("peers remembered from earlier: {peers}"),
            Self::Saved(peers) => format!("peers in the file: {peers}"),
            Self::Stored => "record stored".to_owned(),
            Self::Trouble(reason) => reason.clone(),
            Self::Unanswered(peer_id, reason) => {
                format!("{} does not answer: {}", name(peer_id), plain(reason))
            }
        }
    }
}

impl End {
    pub(crate) fn new(cause: Option<&swarm::ConnectionError>) -> Self {
        let error = match cause {
            None => return Self::Closed,
            Some(swarm::ConnectionError::KeepAliveTimeout) => return Self::Idle,
            Some(swarm::ConnectionError::IO(error)) => error,
        };
        // libp2p wraps the errors of a transport. Inside are the code and the reason of the peer.
        match error.get_ref().and_then(|error| error.downcast_ref()) {
            Some(error) => Self::Transport(ConnectionError::clone(error)),
            None => Self::Other(chain(error)),
        }
    }

    pub(crate) fn line(&self) -> String {
        match self {
            Self::Closed => "closed".to_owned(),
            Self::Idle => "evicted, because it was idle".to_owned(),
            Self::Transport(error) => error.to_string(),
            Self::Other(reason) => reason.clone(),
        }
    }
}

/// The beginning of a peer's text, without control characters.
pub(crate) fn plain(text: &str) -> String {
    let mut chars = text.chars();
    let beginning = chars.by_ref().take(100).flat_map(char::escape_debug);
    let mut plain: String = beginning.collect();
    if chars.next().is_some() {
        plain.push('…');
    }
    plain
}
