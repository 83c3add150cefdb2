//! Encodes Binding requests and decodes their answers (RFC 8489 §5).

use std::net::SocketAddr;

pub(super) use stun_types::message::TransactionId;
use stun_types::{
    attribute::{Attribute, AttributeStaticType, AttributeType, XorMappedAddress},
    message::{
        BINDING, Message, MessageClass, MessageHeader, MessageType, MessageWrite, MessageWriteVec,
        StunParseError,
    },
};

use crate::address;

/// The answer of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The source address of the request, as the server saw it.
    Mapped(SocketAddr),
    /// An answer without an address.
    Refused,
}

/// The reason why a datagram is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoAnswer {
    /// It is STUN, but not a response to a Binding request.
    NotAResponse,
    /// It has no magic cookie, a length other than the one in its header, or invalid contents.
    Malformed,
}

/// Whether the first byte is that of STUN (RFC 9443 §3). Other datagrams that are not QUIC are
/// ignored.
pub(super) fn is_stun(datagram: &[u8]) -> bool {
    matches!(datagram.first(), Some(0..=3))
}

/// Encodes a Binding request.
///
/// It has no attributes: SOFTWARE would reveal our implementation, and FINGERPRINT is only for
/// hosts that cannot recognize STUN by its first byte.
pub(super) fn binding_request(id: TransactionId) -> Vec<u8> {
    let message_type = MessageType::from_class_method(MessageClass::Request, BINDING);
    let message = MessageWriteVec::with_capacity(MessageHeader::LENGTH);
    Message::builder(message_type, id, message).finish()
}

/// The transaction ID of a request of ours that begins with `quoted`.
pub(super) fn id_of_request(quoted: &[u8]) -> Option<TransactionId> {
    let header = MessageHeader::from_bytes(quoted).ok()?;
    let is_request = header.get_type().has_class(MessageClass::Request);
    is_request.then(|| header.transaction_id())
}

/// The transaction ID of a datagram that may be the answer to a Binding request.
///
/// It reads only the header, so that forged answers cost almost nothing.
pub(super) fn id_of_response(datagram: &[u8]) -> Result<TransactionId, NoAnswer> {
    let header = MessageHeader::from_bytes(datagram)?;
    if MessageHeader::LENGTH + usize::from(header.data_length()) != datagram.len() {
        return Err(NoAnswer::Malformed);
    }
    if !header.get_type().is_response() || !header.get_type().has_method(BINDING) {
        return Err(NoAnswer::NotAResponse);
    }
    Ok(header.transaction_id())
}

/// Decodes the answer to a Binding request (RFC 8489 §6.3.3, §6.3.4).
///
/// Only XOR-MAPPED-ADDRESS counts. Some NATs rewrite addresses that they find in packets, and
/// change the plain MAPPED-ADDRESS of older servers back to the internal address (§14.2).
pub(super) fn read(response: &[u8]) -> Result<Answer, NoAnswer> {
    let message = Message::from_bytes(response)?;
    let is_understood = message
        .iter_attributes()
        .all(|(_, attribute)| is_understood(attribute.get_type()));
    if message.has_class(MessageClass::Error) || !is_understood {
        return Ok(Answer::Refused);
    }
    let mapped = message.attribute::<XorMappedAddress>()?;
    let addr = mapped.addr(message.transaction_id());
    if !address::is_unicast(addr) {
        return Err(NoAnswer::Malformed);
    }
    Ok(Answer::Mapped(addr))
}

impl From<StunParseError> for NoAnswer {
    fn from(_: StunParseError) -> Self {
        Self::Malformed
    }
}

/// Whether we understand the attribute, or may ignore it. A response with an unknown
/// comprehension-required attribute counts as a failure (RFC 8489 §6.3.3).
fn is_understood(attribute: AttributeType) -> bool {
    !attribute.comprehension_required()
        || attribute == XorMappedAddress::TYPE
        || attribute == MAPPED_ADDRESS
}

/// RFC 8489 §14.1. Servers may send it in addition to XOR-MAPPED-ADDRESS.
const MAPPED_ADDRESS: AttributeType = AttributeType::new(0x0001);
