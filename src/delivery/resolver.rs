//! Why no receiver's name can be resolved: the delivery does not start then.

/// No names can be asked for with these settings.
#[derive(Debug, thiserror::Error)]
#[error("the resolver: {0}")]
pub struct ResolverError(#[from] hickory_resolver::net::NetError);
