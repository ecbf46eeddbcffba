//! The uses of the cluster key: MACs that prove that askwhen made an internal record, and
//! sealed secrets that readers of a record cannot see.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::profile;
use askwhen_domain::webhook::endpoint::SealedSecret;

type HmacSha256 = Hmac<Sha256>;

const NONCE_BYTES: usize = 24;

/// 32 random bytes shared by all processes of a cluster.
#[derive(Clone)]
pub struct ClusterKey([u8; 32]);

impl std::fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClusterKey(…)")
    }
}

/// The position for which a record is signed. Its offset is not known beforehand; records
/// that must not take effect twice have an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding<'a> {
    pub incarnation: u128,
    pub partition: u32,
    /// The reply address.
    pub reply_to: Option<&'a [u8]>,
}

/// A sealed secret that was sealed with another key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the secret was sealed with another cluster key (check [secrets] key_file)")]
pub struct WrongKey;

impl ClusterKey {
    pub fn new(bytes: [u8; 32]) -> ClusterKey {
        ClusterKey(bytes)
    }

    /// Parses the key file: 64 hex digits.
    pub fn parse(text: &str) -> Option<ClusterKey> {
        let bytes = hex::decode(text.trim()).ok()?;
        Some(ClusterKey(bytes.try_into().ok()?))
    }

    fn mac(&self, purpose: &str, parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = <HmacSha256 as hmac::KeyInit>::new_from_slice(&self.0).expect("HMAC takes any key");
        mac.update(purpose.as_bytes());
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    /// A key for another purpose.
    pub(super) fn derived(&self, purpose: &str) -> [u8; 32] {
        self.mac(purpose, &[])
    }

    /// A value derived from this key and some bytes that reveals neither.
    pub(super) fn derived_from(&self, purpose: &str, bytes: &[u8]) -> [u8; 32] {
        self.mac(purpose, &[bytes])
    }

    /// Proves that a text was written by someone with this key, for this purpose.
    pub fn sign_text(&self, purpose: &str, text: &[u8]) -> String {
        hex::encode(self.mac(purpose, &[text]))
    }

    /// Identifies this key without revealing it.
    pub fn check(&self) -> String {
        hex::encode(&self.mac("check", &[])[..8])
    }

    /// The MAC of version 0.1.0, which names no position: see [`ClusterKey::sign_bound`].
    pub fn sign_record(&self, key: &[u8], value: &[u8]) -> String {
        hex::encode(self.mac("record", &[key, value]))
    }

    pub fn verify_record(&self, key: &[u8], value: &[u8], mac: &[u8]) -> bool {
        let expected = self.sign_record(key, value);
        expected.as_bytes().ct_eq(mac).into()
    }

    /// The MAC of an internal record, valid at one position only, in hex.
    pub fn sign_bound(&self, place: Binding<'_>, key: &[u8], value: &[u8]) -> String {
        let reply_to = place.reply_to.map_or_else(Vec::new, |to| [&[1], to].concat());
        let (incarnation, partition) = (place.incarnation.to_be_bytes(), place.partition.to_be_bytes());
        hex::encode(self.mac("bound record", &[&incarnation, &partition, &reply_to, key, value]))
    }

    pub fn verify_bound(&self, place: Binding<'_>, key: &[u8], value: &[u8], mac: &[u8]) -> bool {
        let expected = self.sign_bound(place, key, value);
        expected.as_bytes().ct_eq(mac).into()
    }

    /// Seals an endpoint's secret. `nonce` must be 24 fresh random bytes.
    pub fn seal(&self, project: &str, endpoint_id: &str, secret: &str, nonce: [u8; NONCE_BYTES]) -> SealedSecret {
        let cipher = XChaCha20Poly1305::new((&self.mac("seal", &[])).into());
        let aad = format!("{project}\0{endpoint_id}");
        let payload = Payload { msg: secret.as_bytes(), aad: aad.as_bytes() };
        let text = cipher.encrypt(&XNonce::from(nonce), payload).expect("a secret is short");
        let digest = self.mac("digest", &[project.as_bytes(), endpoint_id.as_bytes(), secret.as_bytes()]);
        SealedSecret {
            sealed: STANDARD.encode([nonce.as_slice(), text.as_slice()].concat()),
            digest: hex::encode(digest),
            public_key: profile::public_key(secret),
        }
    }

    /// Opens a sealed secret.
    ///
    /// # Errors
    /// When it was sealed with another key, or for another endpoint.
    pub fn open(&self, project: &str, endpoint_id: &str, sealed: &SealedSecret) -> Result<String, WrongKey> {
        let bytes = STANDARD.decode(&sealed.sealed).map_err(|_| WrongKey)?;
        let (nonce, text) = bytes.split_at_checked(NONCE_BYTES).ok_or(WrongKey)?;
        let nonce: [u8; NONCE_BYTES] = nonce.try_into().map_err(|_| WrongKey)?;
        let cipher = XChaCha20Poly1305::new((&self.mac("seal", &[])).into());
        let aad = format!("{project}\0{endpoint_id}");
        let payload = Payload { msg: text, aad: aad.as_bytes() };
        let plain = cipher.decrypt(&XNonce::from(nonce), payload).map_err(|_| WrongKey)?;
        String::from_utf8(plain).map_err(|_| WrongKey)
    }
}

/// The name under which a header's value is sealed, in place of the endpoint's id; neither
/// ids nor header names contain a NUL.
pub fn header_of(endpoint_id: &str, name: &str) -> String {
    format!("{endpoint_id}\0header\0{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_open_for_their_endpoint_and_key_only() {
        let key = ClusterKey::new([7; 32]);
        let sealed = key.seal("default", "crm", "whsec_x", [1; 24]);
        assert!(!sealed.sealed.contains("whsec"));
        assert_eq!(key.open("default", "crm", &sealed).as_deref(), Ok("whsec_x"));
        assert_eq!(key.open("default", "other", &sealed), Err(WrongKey));
        assert_eq!(ClusterKey::new([8; 32]).open("default", "crm", &sealed), Err(WrongKey));
        assert_eq!(sealed.digest, key.seal("default", "crm", "whsec_x", [2; 24]).digest);
    }

    #[test]
    fn a_record_is_believed_for_its_own_bytes_only() {
        let key = ClusterKey::new([7; 32]);
        let mac = key.sign_record(b"k", b"v");
        assert!(key.verify_record(b"k", b"v", mac.as_bytes()));
        assert!(!key.verify_record(b"kv", b"", mac.as_bytes()));
        assert!(!key.verify_record(b"k", b"v", b""));
    }

    #[test]
    fn a_bound_record_is_believed_at_its_place_only() {
        let key = ClusterKey::new([7; 32]);
        let place = Binding { incarnation: 5, partition: 2, reply_to: Some(b"replies/0,1") };
        let mac = key.sign_bound(place, b"k", b"v");
        assert!(key.verify_bound(place, b"k", b"v", mac.as_bytes()));
        for other in [
            Binding { incarnation: 6, ..place },
            Binding { partition: 3, ..place },
            Binding { reply_to: Some(b"replies/0,2"), ..place },
            Binding { reply_to: Some(b""), ..place },
            Binding { reply_to: None, ..place },
        ] {
            assert!(!key.verify_bound(other, b"k", b"v", mac.as_bytes()), "{other:?}");
        }
        assert!(!key.verify_record(b"k", b"v", mac.as_bytes()));
        assert!(!key.verify_bound(place, b"k", b"v", key.sign_record(b"k", b"v").as_bytes()));
    }
}
