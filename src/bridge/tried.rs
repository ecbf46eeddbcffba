//! Entry points for fuzzing the bridge's parsers.

use http::Method;

use super::fields::Fields;
use super::ingest::{context, times};
use super::offers::read_answers;
use super::router;
use askwhen_wire::record::MAX_PROPERTIES;

/// Finds a route; its parts must be valid ids.
pub fn try_path(path: &str) {
    for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
        if let Ok(route) = router::find(&method, path) {
            assert!(!route.name.template().is_empty(), "{path}");
        }
    }
}

/// Reads a body as an event and as answers; every fault must point into it.
pub fn try_body(text: &str) {
    let mut event = Fields::of(text, String::new());
    event.required_id("user_id");
    event.required_id("event_name");
    event.object("properties", MAX_PROPERTIES);
    event.id("event_id");
    times(&mut event, 0);
    context(&mut event);
    let mut answers = Fields::of(text, String::new());
    read_answers(&mut answers, 0);
    for fault in event.close().into_iter().chain(answers.close()) {
        assert!(fault.pointer.is_empty() || fault.pointer.starts_with('/'), "{fault:?}");
    }
}
