//! What connections through the same interface share.

use std::sync::{Arc, OnceLock};

/// Interfaces are told apart by what they take; a host has loopback's, and Ethernet's or that of a tunnel.
const MAX_KINDS: usize = 4;

/// Makes something once for all connections through an interface, where one for each would take memory and time.
///
/// If there are more kinds of interfaces than it keeps, some connections have their own.
#[derive(Debug)]
pub(crate) struct PerInterface<T>([OnceLock<(Option<u16>, Arc<T>)>; MAX_KINDS]);

impl<T> Default for PerInterface<T> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| OnceLock::new()))
    }
}

impl<T> PerInterface<T> {
    /// What there is for interfaces that take so many bytes of UDP payload; made if there is none.
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
