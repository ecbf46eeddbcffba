//! The error of a resolver that cannot be set up. Then the delivery does not start.

/// The DNS settings cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the resolver: {0}")]
pub struct ResolverError(#[from] hickory_resolver::net::NetError);
