//! Feeds the daemon's log into the stream of events.

use std::fmt::Write;

use serde_json::{Map, Value, json};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Layer};

use super::{Events, Kind};

/// A tracing layer that sends each line as a `logging` event.
pub struct LogLayer {
    events: Events,
}

impl LogLayer {
    /// A layer that feeds this hub.
    pub fn new(events: Events) -> Self {
        Self { events }
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    context: Map<String, Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: String) {
        if field.name() == "message" {
            self.message = value;
        } else {
            // LXD's context is a map of strings.
            self.context.insert(field.name().to_owned(), Value::String(value));
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let mut text = String::new();
        let _ = write!(text, "{value:?}");
        self.put(field, text);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.to_owned());
    }
}

fn level(level: &Level) -> &'static str {
    match *level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

impl<S: Subscriber> Layer<S> for LogLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if !self.events.has_log_readers() {
            return;
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata =
            json!({"message": fields.message, "level": level(event.metadata().level()), "context": fields.context});
        self.events.publish(Kind::Logging, None, &metadata);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Interest;
    use tracing_subscriber::layer::SubscriberExt;

    #[test]
    fn a_line_becomes_an_event() {
        let events = Events::default();
        let mut client =
            events.subscribe(Interest { kinds: vec![Kind::Logging], project: Some("x".into()), only_project: false });
        let subscriber = tracing_subscriber::registry().with(LogLayer::new(events));
        tracing::subscriber::with_default(subscriber, || tracing::warn!(instance = "c1", count = 2, "it broke"));
        let event: Value = serde_json::from_str(&client.try_recv().unwrap()).unwrap();
        assert_eq!(
            event["metadata"],
            json!({"message": "it broke", "level": "warning", "context": {"instance": "c1", "count": "2"}})
        );
        assert!(event.get("project").is_none());
    }
}
