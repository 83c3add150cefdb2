//! A panic during a driver's work.
//!
//! quinn-proto logs its work through `tracing`, whose subscriber belongs to the application. So a
//! subscriber can panic while the connection is locked and in the middle of an operation.

use std::cell::Cell;

use tracing::{
    Event, Metadata, Subscriber,
    span::{Attributes, Id, Record},
    subscriber::Interest,
};

/// Makes a driver on this thread panic after `reports` log events of drivers.
///
/// Events outside of any task do not count, nor do events about streams that application tasks
/// cause.
pub(crate) fn set(reports: usize) {
    // It may already be set.
    let _ = tracing::subscriber::set_global_default(Trap);
    FUSE.set(Some(reports));
}

/// Whether there was a panic since the trap was set.
pub(crate) fn is_sprung() -> bool {
    FUSE.get().is_none()
}

struct Trap;

thread_local! {
    /// The number of events before the trap is sprung.
    static FUSE: Cell<Option<usize>> = const { Cell::new(None) };
}

impl Trap {
    fn step() {
        let Some(reports) = FUSE.get() else {
            return;
        };
        if tokio::task::try_id().is_none() || std::thread::panicking() {
            return;
        }
        FUSE.set(reports.checked_sub(1));
        if reports == 0 {
            panic!("the trap in the middle of a driver");
        }
    }
}

impl Subscriber for Trap {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        !is_sprung() && metadata.target() == "quinn_proto::connection"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Self::step();
        Id::from_u64(1)
    }

    fn event(&self, _: &Event<'_>) {
        Self::step();
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
