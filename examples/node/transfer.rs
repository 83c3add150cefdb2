//! `/libp2p-quinn/transfer/1.0.0`: moves bytes between two peers and checks them.
//!
//! Each [`Request`] has its own stream. The opener sends a byte for the kind and a `u64` in network
//! byte order for the size, then:
//!
//! | kind | request | opener | responder |
//! |---|---|---|---|
//! | 1 | upload | sends the content and ends its half | answers with a byte: 0 as expected, 1 not |
//! | 2 | download | ends its half | sends the content and ends its half |
//! | 3 | echo | sends 32 bytes, waits for them, and so on; ends its half | returns them |

mod behaviour;
mod content;
mod handler;
mod wire;

pub(crate) use self::{
    behaviour::Behaviour,
    handler::{Event, Job, Side},
    wire::{MAX_BYTES, Moved, Outcome, Request},
};
