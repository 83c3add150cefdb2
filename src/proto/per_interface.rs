//! What connections through the same interface share.

use std::sync::Arc;

use crate::sync::{Mutex, lock};

/// Interfaces are told apart by what they take; a host has loopback's, and Ethernet's or that of a tunnel.
const MAX_KINDS: usize = 4;

/// Makes something once for all connections through an interface, where one for each would take memory and time.
///
/// If there are more kinds of interfaces than it keeps, some connections have their own.
#[derive(Debug)]
pub(crate) struct PerInterface<T>(Mutex<Vec<(Option<u16>, Arc<T>)>>);

impl<T> Default for PerInterface<T> {
    fn default() -> Self {
        Self(Mutex::new(Vec::new()))
    }
}

impl<T> PerInterface<T> {
    /// What there is for interfaces that take so many bytes of UDP payload; made if there is none.
    pub(crate) fn get(&self, max_payload: Option<u16>, make: impl FnOnce() -> T) -> Arc<T> {
        let mut made = lock(&self.0);
        if let Some((_, known)) = made.iter().find(|(kind, _)| *kind == max_payload) {
            return Arc::clone(known);
        }
        let new = Arc::new(make());
        if made.len() < MAX_KINDS {
            made.push((max_payload, Arc::clone(&new)));
        }
        new
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
        assert_eq!(lock(&shared.0).len(), MAX_KINDS);
        assert_eq!(*shared.get(Some(0), || 99), 0);
        let last = 2 * MAX_KINDS as u16 - 1;
        assert_eq!(*shared.get(Some(last), || 99), 99);
    }
}
