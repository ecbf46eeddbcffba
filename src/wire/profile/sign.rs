//! Signatures and the headers of an attempt.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::domain::endpoint::Profile;

/// The secrets that sign: the current one, and during a rotation the one before.
#[derive(Clone)]
pub struct Keys {
    pub current: String,
    pub previous: Option<String>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(…)")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the endpoint's secret is not of the form that its profile needs")]
pub struct SignError;

/// A fresh secret for a profile, from 32 random bytes.
pub fn new_secret(profile: Profile, random: &[u8; 32]) -> String {
    match profile {
        Profile::Blitzllama => hex::encode(random),
        Profile::Standard | Profile::OneFlow => format!("whsec_{}", STANDARD.encode(random)),
    }
}

/// All headers that the profile gives an attempt. `timestamp` is the real
/// second of the attempt.
///
/// # Errors
/// When a secret is not of the profile's form.
pub fn headers(
    profile: Profile,
    keys: &Keys,
    (message_id, attempt, timestamp): (&str, u32, i64),
    body: &[u8],
) -> Result<Vec<(&'static str, String)>, SignError> {
    let mut headers = vec![("webhook-id", message_id.to_owned()), ("webhook-attempt", attempt.to_string())];
    match profile {
        Profile::Blitzllama => {
            // There is room for one signature: the old secret signs until its end.
            let key = keys.previous.as_ref().unwrap_or(&keys.current);
            headers.push(("x-webhook-signature", hex::encode(hmac(key.as_bytes(), &[body]))));
        }
        Profile::Standard | Profile::OneFlow => {
            let prefix = format!("{message_id}.{timestamp}.");
            let mut signatures = Vec::new();
            for secret in std::iter::once(&keys.current).chain(&keys.previous) {
                let key = secret.strip_prefix("whsec_").and_then(|s| STANDARD.decode(s).ok()).ok_or(SignError)?;
                signatures.push(format!("v1,{}", STANDARD.encode(hmac(&key, &[prefix.as_bytes(), body]))));
            }
            headers.push(("webhook-timestamp", timestamp.to_string()));
            headers.push(("webhook-signature", signatures.join(" ")));
        }
    }
    Ok(headers)
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes any key");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vector of the Standard Webhooks reference.
    #[test]
    fn standard_webhooks_vector() {
        let keys = Keys { current: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into(), previous: None };
        let about = ("msg_p5jXN8AQM9LWM0D4loKWxJek", 1, 1_614_265_330);
        let headers = headers(Profile::Standard, &keys, about, b"{\"test\": 2432232314}").unwrap();
        assert!(headers.contains(&("webhook-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=".into())));
    }

    #[test]
    fn rotation_signs_with_both_where_there_is_room() {
        let keys = Keys {
            current: new_secret(Profile::Standard, &[1; 32]),
            previous: Some(new_secret(Profile::Standard, &[2; 32])),
        };
        let standard = headers(Profile::Standard, &keys, ("msg_1", 1, 1), b"{}").unwrap();
        assert_eq!(standard.iter().find(|(n, _)| *n == "webhook-signature").unwrap().1.split(' ').count(), 2);
        let keys = Keys { current: "new".into(), previous: Some("old".into()) };
        let rotating = headers(Profile::Blitzllama, &keys, ("msg_1", 1, 1), b"{}").unwrap();
        let old = Keys { current: "old".into(), previous: None };
        assert_eq!(rotating, headers(Profile::Blitzllama, &old, ("msg_1", 1, 1), b"{}").unwrap());
        assert_eq!(headers(Profile::Standard, &old, ("msg_1", 1, 1), b"{}"), Err(SignError));
    }
}
