//! The core of the crate under whatever a peer, a stranger or an application may do.

use arbitrary::{Arbitrary, Unstructured};

mod datagram;
mod endpoints;
mod muxer;
mod registry;

pub use self::{datagram::datagram, endpoints::endpoints, muxer::muxer, registry::registry};

/// As many things as the input has bytes for.
pub(crate) fn all<'a, T: Arbitrary<'a>>(input: &mut Unstructured<'a>) -> arbitrary::Result<Vec<T>> {
    let mut all = Vec::new();
    while !input.is_empty() {
        all.push(T::arbitrary(input)?);
    }
    Ok(all)
}
