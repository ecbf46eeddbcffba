//! What is sent to whom, how often it is tried, and how receivers fare.

pub mod address;
pub mod endpoint;
pub mod health;
pub mod message;
pub mod rate;
pub mod retry;
