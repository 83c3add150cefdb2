//! Binding requests and their answers, as bytes and as values (RFC 8489 §5).

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

/// What a server has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Where it has seen the request come from.
    Mapped(SocketAddr),
    /// It does not say.
    Refused,
}

/// Why a datagram is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoAnswer {
    /// It is STUN, and something else than the response to a Binding request.
    NotAResponse,
    /// It has no magic cookie, another length than it says, or makes no sense.
    Malformed,
}

/// Whether it claims to be STUN, by the first byte (RFC 9443 §3). Others that are not QUIC do not concern us.
pub(super) fn is_stun(datagram: &[u8]) -> bool {
    matches!(datagram.first(), Some(0..=3))
}

/// A Binding request.
///
/// Without attributes: the one that would tell what software we are is nobody's business, and a fingerprint is for
/// those who cannot tell STUN by the first byte.
pub(super) fn binding_request(id: TransactionId) -> Vec<u8> {
    let message_type = MessageType::from_class_method(MessageClass::Request, BINDING);
    let message = MessageWriteVec::with_capacity(MessageHeader::LENGTH);
    Message::builder(message_type, id, message).finish()
}

/// The transaction of a request of ours, of which this is the beginning.
pub(super) fn id_of_request(quoted: &[u8]) -> Option<TransactionId> {
    let header = MessageHeader::from_bytes(quoted).ok()?;
    let is_request = header.get_type().has_class(MessageClass::Request);
    is_request.then(|| header.transaction_id())
}

/// The transaction that a datagram belongs to, if it may be the answer to a Binding request.
///
/// Looks at the header only, so that forgeries cost next to nothing.
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

/// Reads the answer to a Binding request (RFC 8489 §6.3.3, §6.3.4).
///
/// Only XOR-MAPPED-ADDRESS counts: some NATs rewrite addresses that they find in packets, and change the plain
/// MAPPED-ADDRESS of older servers back to what is behind them (§14.2).
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

/// A response with an attribute that must be understood, and is not, counts as a failure (RFC 8489 §6.3.3).
fn is_understood(attribute: AttributeType) -> bool {
    !attribute.comprehension_required()
        || attribute == XorMappedAddress::TYPE
        || attribute == MAPPED_ADDRESS
}

/// RFC 8489 §14.1; servers may send it beside the other one.
const MAPPED_ADDRESS: AttributeType = AttributeType::new(0x0001);
