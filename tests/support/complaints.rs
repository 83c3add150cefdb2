//! quinn-proto's log messages about wrong use: an incoming connection that was dropped, a
//! connection drained twice.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span::{Attributes, Id, Record},
};

/// Collects the messages of all threads from now on.
pub(crate) fn listen() {
    // It may already be set.
    let _ = tracing::subscriber::set_global_default(Listener);
}

/// Takes the messages since the last call.
pub(crate) fn take() -> Vec<String> {
    std::mem::take(&mut *HEARD.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Parts of the messages.
const COMPLAINTS: [&str; 3] = [
    "dropped without passing",
    "duplicate reset token",
    "unknown connection drained",
];

static HEARD: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Listener;

impl Subscriber for Listener {
    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::WARN)
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN && metadata.target().starts_with("quinn_proto")
    }

    fn event(&self, event: &Event<'_>) {
        event.record(&mut Message);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Message;

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let message = format!("{value:?}");
        if field.name() == "message"
            && COMPLAINTS
                .iter()
                .any(|complaint| message.contains(complaint))
        {
            HEARD
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(message);
        }
    }
}
