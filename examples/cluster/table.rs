//! The table of peers.

use std::{collections::HashMap, fmt::Write, time::Duration};

use indicatif::DecimalBytes;
use libp2p::PeerId;
use libp2p_quinn::Handle;

use crate::{
    node::Node,
    peers::{Peer, State},
};

/// More rows for each node do not fit on a screen.
const MAX_ROWS: usize = 10;

/// The peers of some nodes, those with a connection and a name first.
pub(crate) fn table(nodes: &[Node]) -> String {
    let mut table = format!(
        "{:9} {:20} {:>9} {:>9} {:>9} {:>9} {:>7}  {}",
        "node", "peer", "RTT", "ping", "sent", "received", "streams", "state"
    );
    for node in nodes {
        let links = links(&node.handle);
        let mut peers: Vec<_> = node.peers.iter().collect();
        peers.sort_by_key(|(_, peer)| (&peer.state, peer.name.is_none(), &peer.name));
        for (peer_id, peer) in peers.iter().take(MAX_ROWS) {
            let name = node.peers.name_of(peer_id);
            let row = row(peer, links.get(peer_id));
            // Writing to a string cannot fail.
            let _ = write!(table, "\n{:9} {name:20} {row}", node.name);
        }
        if peers.len() > MAX_ROWS {
            let more = peers.len() - MAX_ROWS;
            let _ = write!(table, "\n{:9} and {more} more", node.name);
        }
    }
    table
}

fn row(peer: &Peer, link: Option<&Link>) -> String {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
    let state = match &peer.state {
        State::Connected => "connected",
        State::Dialling => "dialling",
        State::Gone(reason) => reason,
    };
    format!(
        "{:>9} {:>9} {:>9} {:>9} {:>7}  {state}",
        or_dash(link.map(|link| millis(link.rtt))),
        or_dash(peer.ping.map(millis)),
        or_dash(link.map(|link| DecimalBytes(link.bytes_sent).to_string())),
        or_dash(link.map(|link| DecimalBytes(link.bytes_received).to_string())),
        or_dash(link.map(|link| link.streams.to_string())),
    )
}

fn millis(duration: Duration) -> String {
    // In microseconds; more digits would be meaningless.
    format!("{:.1} ms", duration.as_micros() as f64 / 1000.0)
}

/// The connections to one peer together.
#[derive(Default)]
struct Link {
    rtt: Duration,
    bytes_sent: u64,
    bytes_received: u64,
    streams: usize,
}

/// The transport knows its connections by peer.
fn links(handle: &Handle) -> HashMap<PeerId, Link> {
    let mut links = HashMap::<_, Link>::new();
    for connection in handle.stats().connections {
        let Some(peer_id) = connection.peer_id else {
            continue;
        };
        let link = links.entry(peer_id).or_default();
        link.rtt = link.rtt.max(connection.rtt);
        link.bytes_sent += connection.bytes_sent;
        link.bytes_received += connection.bytes_received;
        link.streams += connection.open_streams;
    }
    links
}
