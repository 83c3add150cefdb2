//! What quinn-proto says when it is used wrongly: an incoming connection forgotten, a connection drained twice.

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

/// Keeps from now on what is said, on any thread.
pub(crate) fn listen() {
    // Done already, perhaps.
    let _ = tracing::subscriber::set_global_default(Listener);
}

/// What was said since the last time.
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
