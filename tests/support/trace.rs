//! Collects the spans and events of a thread. The unit tests use it too.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test uses a part of it, and panics where it fails"
)]

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, LazyLock, Mutex},
};

use tracing::{
    Dispatch, Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span::{Attributes, Id, Record},
    subscriber::DefaultGuard,
};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt},
    registry::LookupSpan,
    util::SubscriberInitExt,
};

/// The fields of a span or an event, as text.
pub(crate) type Fields = BTreeMap<&'static str, String>;

/// A span, and whether it is closed.
#[derive(Clone, Debug)]
pub(crate) struct TracedSpan {
    pub(crate) fields: Fields,
    pub(crate) is_closed: bool,
}

/// An event, with the fields of the innermost of our spans around it.
#[derive(Clone, Debug)]
pub(crate) struct TracedEvent {
    pub(crate) level: Level,
    pub(crate) target: &'static str,
    pub(crate) fields: Fields,
    pub(crate) span: Option<Fields>,
}

impl TracedEvent {
    pub(crate) fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    pub(crate) fn message(&self) -> &str {
        self.field("message")
    }

    /// The side of the connection whose event it is.
    pub(crate) fn side(&self) -> Option<&str> {
        self.span.as_ref()?.get("side").map(String::as_str)
    }
}

/// What this thread traces until it is dropped. Tests therefore run on a single thread.
pub(crate) struct Traced {
    collected: Arc<Mutex<Collected>>,
    _default: DefaultGuard,
}

#[derive(Default)]
struct Collected {
    spans: Vec<TracedSpan>,
    events: Vec<TracedEvent>,
}

impl Traced {
    /// Collects what is not above this level of detail.
    pub(crate) fn up_to(level: LevelFilter) -> Self {
        // While there is one subscriber only, an event counts as unwanted everywhere if the first
        // thread that reaches it has none.
        static ANOTHER: LazyLock<Dispatch> =
            LazyLock::new(|| tracing_subscriber::registry().with(LevelFilter::OFF).into());
        LazyLock::force(&ANOTHER);
        let collected: Arc<Mutex<Collected>> = Arc::default();
        let layer = Collector(Arc::clone(&collected)).with_filter(level);
        Self {
            collected,
            _default: tracing_subscriber::registry().with(layer).set_default(),
        }
    }

    /// The spans of connections so far.
    pub(crate) fn connections(&self) -> Vec<TracedSpan> {
        self.collected.lock().unwrap().spans.clone()
    }

    /// The events of ours with this message so far.
    pub(crate) fn events(&self, message: &str) -> Vec<TracedEvent> {
        let mut events = self.all_events();
        events.retain(|event| event.message() == message);
        events
    }

    /// The reasons of these events.
    pub(crate) fn reasons(&self, message: &str) -> Vec<String> {
        let events = self.events(message).into_iter();
        events
            .map(|event| event.field("reason").to_owned())
            .collect()
    }

    /// All events of ours and of quinn-proto so far.
    pub(crate) fn all_events(&self) -> Vec<TracedEvent> {
        self.collected.lock().unwrap().events.clone()
    }
}

struct Collector(Arc<Mutex<Collected>>);

/// In the extensions of a span: its index among the collected ones.
struct Index(usize);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Collector {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if !is_ours(attributes.metadata()) {
            return;
        }
        let mut fields = Fields::new();
        attributes.record(&mut Texts(&mut fields));
        let mut collected = self.0.lock().unwrap();
        let index = Index(collected.spans.len());
        context.span(id).unwrap().extensions_mut().insert(index);
        collected.spans.push(TracedSpan {
            fields,
            is_closed: false,
        });
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let span = context.span(id).unwrap();
        if let Some(Index(index)) = span.extensions().get() {
            let fields = &mut self.0.lock().unwrap().spans[*index].fields;
            values.record(&mut Texts(fields));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let metadata = event.metadata();
        if !is_ours(metadata) && !metadata.target().starts_with("quinn_proto") {
            return;
        }
        let mut fields = Fields::new();
        event.record(&mut Texts(&mut fields));
        let scope = context.event_scope(event).into_iter().flatten();
        let index = scope
            .filter_map(|span| span.extensions().get().map(|Index(index)| *index))
            .next();
        let mut collected = self.0.lock().unwrap();
        let span = index.map(|index| collected.spans[index].fields.clone());
        collected.events.push(TracedEvent {
            level: *metadata.level(),
            target: metadata.target(),
            fields,
            span,
        });
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        if let Some(span) = context.span(&id)
            && let Some(Index(index)) = span.extensions().get()
        {
            self.0.lock().unwrap().spans[*index].is_closed = true;
        }
    }
}

fn is_ours(metadata: &Metadata<'_>) -> bool {
    metadata.target().starts_with("libp2p_quinn")
}

/// Writes fields as text.
struct Texts<'a>(&'a mut Fields);

impl Visit for Texts<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}
