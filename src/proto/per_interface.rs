//! Values shared by connections through the same interface.

use std::sync::{Arc, OnceLock};

/// Interfaces are distinguished by their largest UDP payload. A host has loopback, and Ethernet or
/// a tunnel.
const MAX_KINDS: usize = 4;

/// Creates a value once for all connections through an interface, because one for each would cost
/// memory and time.
///
/// If there are more kinds of interfaces than places, some connections get values of their own.
#[derive(Debug)]
pub(crate) struct PerInterface<T>([OnceLock<(Option<u16>, Arc<T>)>; MAX_KINDS]);

impl<T> Default for PerInterface<T> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| OnceLock::new()))
    }
}

impl<T> PerInterface<T> {
    /// Returns the value for interfaces with this largest UDP payload, and creates it if necessary.
    pub(crate) fn get(&self, max_payload: Option<u16>, make: impl Fn() -> T) -> Arc<T> {
        for place in &self.0 {
            let (kind, made) = place.get_or_init(|| (max_payload, Arc::new(make())));
            if *kind == max_payload {
                return Arc::clone(made);
            }
        }
        Arc::new(make())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_made_once_for_each_kind_of_interface() {
        let shared = PerInterface::default();
        let first = shared.get(Some(1472), || 1);
        assert_eq!(*shared.get(None, || 2), 2);
        assert!(Arc::ptr_eq(&first, &shared.get(Some(1472), || 3)));
    }

    #[test]
    fn keeps_few() {
        let shared = PerInterface::default();
        for kind in 0..2 * MAX_KINDS as u16 {
            assert_eq!(*shared.get(Some(kind), || kind), kind);
        }
        assert_eq!(*shared.get(Some(0), || 99), 0);
        let last = 2 * MAX_KINDS as u16 - 1;
        assert_eq!(*shared.get(Some(last), || 99), 99);
    }
}
