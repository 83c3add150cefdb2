//! What is counted, checked, dropped and changed in packets while they are encrypted or decrypted,
//! before quinn-proto acts on them and before the peer gets them.
//!
//! [`authenticator`](crate::authenticator) wraps the keys of TLS into the keys of this module.

mod crypto_limits;
mod final_sizes;
mod frames;
mod repeats;
mod stream_credit;
mod stream_ends;
mod stream_fill;
mod watch;

#[cfg(test)]
pub(crate) use self::frames::Survey;
pub(crate) use self::{
    crypto_limits::{CryptoBudget, DroppedPackets, LimitedKey},
    final_sizes::FinalSizes,
    stream_credit::{StreamCredit, StreamWindows},
    stream_ends::EndedStream,
    stream_fill::Fill,
    watch::{Challenge, PacketWatch, WatchedKey},
};
