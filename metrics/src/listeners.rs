//! Listeners: how many there are, and the size of their sockets' buffers.

use std::fmt;

use libp2p_quinn::ListenerStats;
use prometheus_client::{encoding::DescriptorEncoder, registry::Unit};

use crate::table::{gauge, gauges};

/// Fields that [`encode`] exports.
#[cfg(test)]
pub(crate) const FIELDS: [&str; 3] = ["addresses", "receive_buffer_bytes", "send_buffer_bytes"];

/// Fields that are not exported: a metric has no label for an address, or for a listener.
#[cfg(test)]
pub(crate) const LEFT_OUT: [&str; 2] = ["listener_id", "local_addr"];

pub(crate) fn encode(
    listeners: &[ListenerStats],
    encoder: &mut DescriptorEncoder<'_>,
) -> fmt::Result {
    let count = listeners.len() as u64;
    gauge(encoder, ("listeners", "Listeners", None), count)?;
    let addresses = listeners.iter().map(|listener| listener.addresses.len());
    let help = "Addresses that listeners have announced";
    let announced = addresses.sum::<usize>() as u64;
    gauge(encoder, ("listen_addresses", help, None), announced)?;

    let least = |bytes: fn(&ListenerStats) -> usize| {
        listeners.iter().map(bytes).min().map(|bytes| bytes as u64)
    };
    let buffers = [
        ("Receive", least(|listener| listener.receive_buffer_bytes)),
        ("Send", least(|listener| listener.send_buffer_bytes)),
    ];
    let help = "The smallest socket buffer of a listener, as the kernel reports it";
    gauges(
        encoder,
        ("listener_socket_buffer", help, Some(&Unit::Bytes)),
        (buffers.into_iter()).filter_map(|(buffer, bytes)| Some(([("buffer", buffer)], bytes?))),
    )
}
