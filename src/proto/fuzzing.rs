//! Fuzz targets: the sans-IO core with arbitrary peers, strangers and applications.

use arbitrary::{Arbitrary, Unstructured};

mod datagram;
mod endpoints;
mod muxer;
mod registry;

pub use self::{datagram::datagram, endpoints::endpoints, muxer::muxer, registry::registry};

/// Generates values until the input is used up.
pub(crate) fn all<'a, T: Arbitrary<'a>>(input: &mut Unstructured<'a>) -> arbitrary::Result<Vec<T>> {
    let mut all = Vec::new();
    while !input.is_empty() {
        all.push(T::arbitrary(input)?);
    }
    Ok(all)
}
