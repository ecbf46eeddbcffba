//! Signs attempts, and makes the headers of their profile.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer as _, SigningKey};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use crate::error::Class;
use askwhen_domain::webhook::endpoint::Profile;

/// The signing secrets: the current one and, during rotations, earlier ones, newest first.
#[derive(Clone)]
pub struct Keys {
    pub current: String,
    pub previous: Vec<String>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(…)")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the endpoint's secret is not of the form that its profile needs")]
pub struct SignError;

/// What a profile expects of a secret, worded to follow the name of its member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    #[error("must be a text that the receiver has, too: this profile knows no key pairs")]
    KeyPair,
    #[error("must have 1 to 256 bytes")]
    Length,
    #[error("must be whsec_ and the base64 of 24 to 64 bytes, or whsk_ and that of an ed25519 key")]
    Form,
}

impl SecretError {
    pub fn kind(self) -> &'static str {
        match self {
            SecretError::KeyPair => "key_pair",
            SecretError::Length => "length",
            SecretError::Form => "form",
        }
    }

    /// The class: the definition or request is refused.
    pub fn class(self) -> Class {
        Class::Reject
    }
}

/// A key of Standard Webhooks: `whsec_` and the base64 of 24 to 64 bytes for HMAC, or
/// `whsk_` and the base64 of an ed25519 seed, with or without the public key after it.
enum Key {
    Symmetric(Vec<u8>),
    Asymmetric(Box<SigningKey>),
}

impl Key {
    fn parse(secret: &str) -> Option<Key> {
        if let Some(text) = secret.strip_prefix("whsk_") {
            let bytes = STANDARD.decode(text).ok()?;
            let key = match bytes.len() {
                32 => SigningKey::from_bytes(&bytes.try_into().ok()?),
                64 => SigningKey::from_keypair_bytes(&bytes.try_into().ok()?).ok()?,
                _ => return None,
            };
            return Some(Key::Asymmetric(Box::new(key)));
        }
        let bytes = secret.strip_prefix("whsec_").and_then(|text| STANDARD.decode(text).ok())?;
        (24..=64).contains(&bytes.len()).then_some(Key::Symmetric(bytes))
    }

    fn sign(&self, parts: &[&[u8]]) -> String {
        match self {
            Key::Symmetric(key) => format!("v1,{}", STANDARD.encode(hmac(key, parts))),
            Key::Asymmetric(key) => format!("v1a,{}", STANDARD.encode(key.sign(&parts.concat()).to_bytes())),
        }
    }
}

/// Checks that a literal secret suits its profile.
///
/// # Errors
/// What the profile expects.
pub fn check_secret(profile: Profile, secret: &str) -> Result<(), SecretError> {
    match profile {
        Profile::Blitzllama if Key::parse(secret).is_some_and(|key| matches!(key, Key::Asymmetric(_))) => {
            Err(SecretError::KeyPair)
        }
        Profile::Blitzllama if (1..=256).contains(&secret.len()) => Ok(()),
        Profile::Blitzllama => Err(SecretError::Length),
        Profile::Standard | Profile::OneFlow | Profile::Slack => Key::parse(secret).map(drop).ok_or(SecretError::Form),
    }
}

/// The public key of a secret that signs with ed25519.
pub fn public_key(secret: &str) -> Option<String> {
    match Key::parse(secret)? {
        Key::Asymmetric(key) => Some(format!("whpk_{}", STANDARD.encode(key.verifying_key().to_bytes()))),
        Key::Symmetric(_) => None,
    }
}

/// A new secret for a profile, from 32 random bytes.
pub fn new_secret(profile: Profile, random: &[u8; 32]) -> String {
    match profile {
        Profile::Blitzllama => hex::encode(random),
        Profile::Standard | Profile::OneFlow | Profile::Slack => format!("whsec_{}", STANDARD.encode(random)),
    }
}

/// What the headers of an attempt contain.
#[derive(Debug, Clone, Copy)]
pub struct WebhookAttempt<'a> {
    pub message_id: &'a str,
    pub attempt: u32,
    /// The wall time of the attempt in seconds since the epoch.
    pub timestamp: i64,
}

/// All headers that the profile adds to an attempt.
///
/// # Errors
/// When a secret does not suit the profile.
pub fn headers(
    profile: Profile,
    keys: &Keys,
    about: WebhookAttempt<'_>,
    body: &[u8],
) -> Result<Vec<(&'static str, String)>, SignError> {
    let WebhookAttempt { message_id, attempt, timestamp } = about;
    let mut headers = vec![("webhook-id", message_id.to_owned()), ("webhook-attempt", attempt.to_string())];
    match profile {
        Profile::Blitzllama => {
            // There is room for one signature: the oldest secret signs until it expires.
            let key = keys.previous.last().unwrap_or(&keys.current);
            headers.push(("x-webhook-signature", hex::encode(hmac(key.as_bytes(), &[body]))));
        }
        Profile::Standard | Profile::OneFlow | Profile::Slack => {
            let prefix = format!("{message_id}.{timestamp}.");
            let mut signatures = Vec::new();
            for secret in std::iter::once(&keys.current).chain(&keys.previous) {
                let key = Key::parse(secret).ok_or(SignError)?;
                signatures.push(key.sign(&[prefix.as_bytes(), body]));
            }
            headers.push(("webhook-timestamp", timestamp.to_string()));
            headers.push(("webhook-signature", signatures.join(" ")));
        }
    }
    Ok(headers)
}

/// The result of verifying a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verified {
    Yes,
    /// It was not signed with this secret, or was signed for other bytes.
    No(&'static str),
}

/// Verifies a request as a receiver does: with the shared secret, with a public key
/// (`whpk_…`), or, with any other text, in the hex form of `blitzllama`. `now` is in
/// seconds since the epoch; a signature is valid for five minutes.
pub fn verify<'h>(secret: &str, header: impl Fn(&str) -> Option<&'h str>, body: &[u8], now: i64) -> Verified {
    const TOLERANCE: i64 = 300;
    if let Some(given) = header("x-webhook-signature") {
        let expected = hex::encode(hmac(secret.as_bytes(), &[body]));
        let same: bool = expected.as_bytes().ct_eq(given.trim().as_bytes()).into();
        return if same { Verified::Yes } else { Verified::No("x-webhook-signature does not match") };
    }
    let (Some(id), Some(timestamp), Some(signatures)) =
        (header("webhook-id"), header("webhook-timestamp"), header("webhook-signature"))
    else {
        return Verified::No("it lacks webhook-id, webhook-timestamp or webhook-signature");
    };
    let Ok(second) = timestamp.parse::<i64>() else {
        return Verified::No("webhook-timestamp is not a number of seconds");
    };
    if (now - second).abs() > TOLERANCE {
        return Verified::No("webhook-timestamp is more than five minutes away");
    }
    let signed = [format!("{id}.{timestamp}.").as_bytes(), body].concat();
    let fits = |given: &str| match (secret.strip_prefix("whpk_"), Key::parse(secret)) {
        (Some(public), _) => verify_public(public, &signed, given),
        (None, Some(key)) => key.sign(&[&signed]).as_bytes().ct_eq(given.as_bytes()).into(),
        (None, None) => false,
    };
    if signatures.split(' ').any(fits) {
        Verified::Yes
    } else {
        Verified::No("no signature in webhook-signature matches")
    }
}

/// Whether a text is a key of Standard Webhooks or its public half.
pub fn can_verify(secret: &str) -> bool {
    let public = secret.strip_prefix("whpk_").and_then(|text| STANDARD.decode(text).ok());
    Key::parse(secret).is_some() || public.is_some_and(|bytes| bytes.len() == 32)
}

fn verify_public(public: &str, signed: &[u8], given: &str) -> bool {
    let read = || {
        let key = STANDARD.decode(public).ok()?.try_into().ok()?;
        let key = ed25519_dalek::VerifyingKey::from_bytes(&key).ok()?;
        let signature = STANDARD.decode(given.strip_prefix("v1a,")?).ok()?;
        key.verify_strict(signed, &ed25519_dalek::Signature::from_slice(&signature).ok()?).ok()
    };
    read().is_some()
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

    fn first_at(timestamp: i64) -> WebhookAttempt<'static> {
        WebhookAttempt { message_id: "msg_1", attempt: 1, timestamp }
    }

    /// The vector of the Standard Webhooks reference.
    #[test]
    fn standard_webhooks_vector() {
        let keys = Keys { current: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into(), previous: Vec::new() };
        let about = WebhookAttempt { message_id: "msg_p5jXN8AQM9LWM0D4loKWxJek", attempt: 1, timestamp: 1_614_265_330 };
        let headers = headers(Profile::Standard, &keys, about, b"{\"test\": 2432232314}").unwrap();
        assert!(headers.contains(&("webhook-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=".into())));
    }

    #[test]
    fn an_asymmetric_key_signs_and_its_public_half_verifies() {
        let secret = format!("whsk_{}", STANDARD.encode([7; 32]));
        let public = public_key(&secret).unwrap();
        let keys = Keys { current: secret.clone(), previous: vec![new_secret(Profile::Standard, &[2; 32])] };
        let signed = headers(Profile::Standard, &keys, first_at(1_000), b"{}").unwrap();
        let header = |name: &str| signed.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_str());
        for key in [&public, &secret, &keys.previous[0]] {
            assert_eq!(verify(key, header, b"{}", 1_200), Verified::Yes);
            assert!(matches!(verify(key, header, b"{ }", 1_200), Verified::No(_)));
            assert!(matches!(verify(key, header, b"{}", 1_301), Verified::No(_)));
        }
        assert!(header("webhook-signature").unwrap().starts_with("v1a,"));
        let pair = STANDARD.decode(public.strip_prefix("whpk_").unwrap()).unwrap();
        let whole = format!("whsk_{}", STANDARD.encode([[7; 32].as_slice(), &pair].concat()));
        assert_eq!(public_key(&whole), Some(public));
        for bad in ["whsk_", "whsk_AAAA", "whsec_AAAA", "secret"] {
            assert!(check_secret(Profile::Standard, bad).is_err(), "{bad}");
        }
        assert_eq!(public_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), None);
    }

    #[test]
    fn rotation_signs_with_both_where_there_is_room() {
        let keys = Keys {
            current: new_secret(Profile::Standard, &[1; 32]),
            previous: vec![new_secret(Profile::Standard, &[2; 32])],
        };
        let standard = headers(Profile::Standard, &keys, first_at(1), b"{}").unwrap();
        assert_eq!(standard.iter().find(|(n, _)| *n == "webhook-signature").unwrap().1.split(' ').count(), 2);
        let keys = Keys { current: "new".into(), previous: vec!["old".into()] };
        let rotating = headers(Profile::Blitzllama, &keys, first_at(1), b"{}").unwrap();
        let old = Keys { current: "old".into(), previous: Vec::new() };
        assert_eq!(rotating, headers(Profile::Blitzllama, &old, first_at(1), b"{}").unwrap());
        assert_eq!(headers(Profile::Standard, &old, first_at(1), b"{}"), Err(SignError));
    }
}
