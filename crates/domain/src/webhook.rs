//! Webhooks: their contents and receivers, retries, rates, and the health of endpoints.

pub mod address;
pub mod endpoint;
pub mod health;
pub mod message;
pub mod rate;
pub mod retry;
