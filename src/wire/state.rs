//! A user's state as the store holds it: a version byte, then postcard. A new
//! layout takes a new version byte and reads the old ones; numbers are never
//! used again.

use crate::domain::user::User;

/// Version 3: the fields of [`User`] in their order.
const VERSION: u8 = 3;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the state has layout {0}, which this version does not know; use the version that wrote it")]
    UnknownVersion(u8),
    #[error("the state cannot be read: {0}")]
    Damaged(String),
}

pub fn encode(user: &User) -> Vec<u8> {
    let bytes = vec![VERSION];
    postcard::to_extend(user, bytes).expect("a user's state serialises")
}

/// # Errors
/// When the bytes are of a later layout, or of none.
pub fn decode(bytes: &[u8]) -> Result<User, Error> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => postcard::from_bytes(rest).map_err(|e| Error::Damaged(e.to_string())),
        Some((&other, _)) => Err(Error::UnknownVersion(other)),
        None => Err(Error::Damaged("it is empty".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::json::Json;
    use crate::domain::user::{Activated, Fact};

    #[test]
    fn round_trip_and_refusals() {
        let mut user = User::default();
        user.attributes.insert("plan".into(), Json::from_valid("\"pro\""));
        user.remember(7, 1);
        let activated = Activated {
            at: 1,
            offset: 2,
            event_id: "e".into(),
            event_name: "n".into(),
            properties: Some(Json::from_valid("{\"big\":123456789012345678901234567890}")),
        };
        user.surveys.entry("s".into()).or_default().facts.push(Fact { roles: 1, event: activated });
        let bytes = encode(&user);
        assert_eq!(decode(&bytes), Ok(user));
        assert_eq!(decode(&[9, 0]), Err(Error::UnknownVersion(9)));
        assert!(decode(&bytes[..bytes.len() - 1]).is_err());
        assert!(decode(&[]).is_err());
    }
}
