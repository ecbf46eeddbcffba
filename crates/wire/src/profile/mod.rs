//! Profiles: from a canonical message and an endpoint they make the exact bytes of a
//! webhook's body and headers.

pub mod blitzllama;
mod javascript;
pub mod one_flow;
mod sign;
mod slack;
pub mod standard;
mod text_value;

pub use sign::{
    Keys, SecretError, SignError, Verified, WebhookAttempt, can_verify, check_secret, headers, new_secret, public_key,
    verify,
};

use askwhen_domain::webhook::endpoint::{Endpoint, EventType, Profile};
use askwhen_domain::webhook::message::Delivery;

/// The headers of every request, in addition to those of its profile and its endpoint,
/// which may override the user agent.
pub const REQUEST_HEADERS: [(&str, &str); 3] = [
    ("content-type", "application/json"),
    ("accept-encoding", "identity"),
    ("user-agent", concat!("askwhen/", env!("CARGO_PKG_VERSION"))),
];

/// The body of a delivery. `console_url` has no slash at its end; it is empty when it is
/// not known.
pub fn body(delivery: &Delivery, endpoint: &Endpoint, console_url: &str) -> Vec<u8> {
    let message = &delivery.message;
    if message.kind == EventType::Test && endpoint.profile == Profile::Standard {
        return standard::test(delivery);
    }
    let Some(data) = &message.data else { return standard::erased(delivery) };
    if message.kind == EventType::Closed {
        return standard::closed(message.at, data);
    }
    match endpoint.profile {
        Profile::Standard => standard::body(message.kind, message.at, data),
        Profile::Blitzllama => blitzllama::body(message.kind, data, endpoint.include_properties),
        Profile::OneFlow => one_flow::body(message.at, data, &delivery.message_id),
        Profile::Slack => slack::body(message.kind, data, console_url),
    }
}
