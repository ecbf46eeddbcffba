//! The stored form of a user's state: a version byte, then postcard. A new format takes a
//! new version byte, and [`decode`] keeps a reader for every released one; numbers are
//! never reused. 1 and 2 were never released.

use std::borrow::Cow;

use super::error::Class;
use super::row;
use askwhen_domain::user::User;

/// Version 8 has the fields of [`User`] in their order. Version 7 ends before `identity`,
/// version 6 before the `caps` of the extension, version 5 before `extension`; each is
/// still written where nothing follows. Version 4 ended before `used_links`, version 3
/// (0.1.0) before `completed`.
pub const VERSION: u8 = 8;
const WITHOUT_IDENTITY: u8 = 7;
const WITHOUT_CAPS: u8 = 6;
const WITHOUT_EXTENSION: u8 = 5;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(
        "the state of a user has layout {0}, and this program (askwhen {program}) reads layout \
         {VERSION}: use the version that wrote it",
        program = env!("CARGO_PKG_VERSION")
    )]
    UnknownVersion(u8),
    #[error("the state cannot be read: {0}")]
    Damaged(#[from] postcard::Error),
    #[error("the state cannot be read: it is empty")]
    Empty,
    #[error("the state cannot be read: {0} bytes stand behind it")]
    Longer(usize),
}

impl Error {
    pub fn kind(&self) -> &'static str {
        match self {
            Error::UnknownVersion(_) => "unknown_version",
            Error::Damaged(_) => "damaged",
            Error::Empty => "empty",
            Error::Longer(_) => "longer",
        }
    }

    /// The class: a later version can read what this one does not know; damage is rebuilt.
    pub fn class(&self) -> Class {
        match self {
            Error::UnknownVersion(_) => Class::Refuse,
            Error::Damaged(_) | Error::Empty | Error::Longer(_) => Class::Fatal,
        }
    }
}

pub fn encode(user: &User) -> Vec<u8> {
    let mut bytes = row::encode_behind(&[VERSION], user, user.approximate_bytes());
    if user.identity.is_some() {
        return bytes;
    }
    bytes.pop();
    bytes[0] = WITHOUT_IDENTITY;
    match &user.extension {
        None => {
            bytes.pop();
            bytes[0] = WITHOUT_EXTENSION;
        }
        Some(extension) if extension.caps.is_empty() => {
            bytes.pop();
            bytes[0] = WITHOUT_CAPS;
        }
        Some(_) => {}
    }
    bytes
}

/// Decodes a state.
///
/// # Errors
/// When the bytes are of a later format or damaged.
pub fn decode(bytes: &[u8]) -> Result<User, Error> {
    let (version, rest) = bytes.split_first().ok_or(Error::Empty)?;
    // A later format adds its own reader before this one, which stays. A missing identity
    // or extension is a zero byte, and so is an empty map.
    let missing: &[u8] = match version {
        8 => &[],
        7 => &[0],
        6 | 5 => &[0; 2],
        4 => &[0; 3],
        3 => &[0; 4],
        other => return Err(Error::UnknownVersion(*other)),
    };
    let whole = if missing.is_empty() { Cow::Borrowed(rest) } else { Cow::Owned([rest, missing].concat()) };
    let (user, behind) = postcard::take_from_bytes::<User>(&whole)?;
    if !behind.is_empty() {
        return Err(Error::Longer(behind.len()));
    }
    Ok(user.restored())
}

#[cfg(test)]
mod tests {
    use super::*;
    use askwhen_domain::json::Json;
    use askwhen_domain::quota::cap::{CapEvent, CapKey, CapPlace, CapRule, PinnedCap};
    use askwhen_domain::user::completed::CompletedAnswers;
    use askwhen_domain::user::{Activated, ActivationEvent, Alias, RememberedEvent};

    #[test]
    fn round_trip_and_refusals() {
        let mut user = User::default();
        user.attributes.make_mut().insert("plan".into(), Json::from_valid("\"pro\""));
        user.remember(7, 1, 1);
        let activated = Activated {
            at: 1,
            offset: 2,
            event_id: "e".into(),
            event_name: "n".into(),
            properties: Some(Json::from_valid("{\"big\":123456789012345678901234567890}")),
        };
        user.survey_mut("s").facts.push(ActivationEvent::new(1, activated.into()));
        let mut earlier = encode(&user);
        let longer = [&earlier[..], &[0]].concat();
        assert_eq!(decode(&longer), Err(Error::Longer(1)), "it is no state with something else behind it");
        for version in [4, 3] {
            earlier[0] = version;
            assert_eq!(earlier.pop(), Some(0));
            assert_eq!(decode(&earlier).as_ref(), Ok(&user), "the layout of version {version}");
        }
        user.use_link("a", 9, 1);
        let answers = [("q1".to_owned(), Json::from_valid("9"))].into();
        user.keep_answers("s", CompletedAnswers { at: 5, answers });
        let bytes = encode(&user);
        assert_eq!((bytes[0], decode(&bytes).as_ref()), (5, Ok(&user)));
        let hash = askwhen_domain::user::distinct::session_hash("a");
        let session = Some(hash);
        user.survey_mut("s").facts[0].session = session;
        user.extension_mut().survey_mut("s").sessions.push((2, hash));
        let event = RememberedEvent { at: 1, offset: 2, session, properties: None };
        user.extension_mut().remember("n", event);
        let bytes = encode(&user);
        assert_eq!((bytes[0], decode(&bytes).as_ref()), (6, Ok(&user)));
        let pin = PinnedCap {
            key: CapKey { cap: 1, value: u128::MAX },
            rule: CapRule { max: 1, within: None },
            count: CapEvent::Completed,
            place: Some(CapPlace::Held(7)),
        };
        user.extension_mut().caps.insert("off".into(), vec![pin]);
        let mut user = user.summarized();
        let bytes = encode(&user);
        assert_eq!((bytes[0], decode(&bytes).as_ref()), (7, Ok(&user)));
        user.identity_mut().aliases.push(Alias { name: "anon-1".into(), since: 9 });
        let bytes = encode(&user);
        assert_eq!((bytes[0], decode(&bytes)), (8, Ok(user)));
        let alias = User::alias("ann");
        assert_eq!(decode(&encode(&alias)).as_ref(), Ok(&alias));
        assert_eq!(decode(&[9, 0]), Err(Error::UnknownVersion(9)));
        assert!(decode(&bytes[..bytes.len() - 1]).is_err());
        assert!(decode(&[]).is_err());
    }
}
