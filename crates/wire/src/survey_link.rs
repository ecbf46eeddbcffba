//! Tokens of survey links: whoever has one can answer one survey as one user. They contain
//! no key, and are signed with the cluster key, so that every bridge can check them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::seal::ClusterKey;
use askwhen_domain::time::Millis;

const PURPOSE: &str = "survey link";
const VERSION: u8 = 1;
const SINGLE_USE: u8 = 1;
/// Version, flags, expiry, link id.
const HEAD_BYTES: usize = 2 + 8 + ID_BYTES;
pub const ID_BYTES: usize = 8;
/// The part of the MAC that is used.
const MAC_BYTES: usize = 16;

/// The subject of a token, which the token does not contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkSubject<'a> {
    pub project: &'a str,
    pub survey_id: &'a str,
    /// `None` for any user id that a page has made up.
    pub user_id: Option<&'a str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkToken {
    /// Random; the use of a single-use link is recorded under it.
    pub link_id: [u8; ID_BYTES],
    pub expires_at: Millis,
    pub single_use: bool,
}

impl LinkToken {
    /// The name under which the use of a single-use link is recorded.
    pub fn name(&self) -> String {
        hex::encode(self.link_id)
    }

    pub fn sign(&self, key: &ClusterKey, subject: LinkSubject<'_>) -> String {
        let flags = if self.single_use { SINGLE_USE } else { 0 };
        let head = [&[VERSION, flags], self.expires_at.to_be_bytes().as_slice(), &self.link_id].concat();
        let mac = mac(key, subject, &head);
        URL_SAFE_NO_PAD.encode([head, mac.to_vec()].concat())
    }

    /// Checks a token; `None` if it was not signed with this key for this subject.
    pub fn open(key: &ClusterKey, subject: LinkSubject<'_>, text: &str) -> Option<LinkToken> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (head, given) = bytes.split_at_checked(HEAD_BYTES)?;
        let &[VERSION, flags @ (0 | SINGLE_USE), ref rest @ ..] = head else { return None };
        let (expires_at, link_id) = rest.split_at(8);
        if !bool::from(subtle::ConstantTimeEq::ct_eq(mac(key, subject, head).as_slice(), given)) {
            return None;
        }
        Some(LinkToken {
            link_id: link_id.try_into().ok()?,
            expires_at: Millis::from_be_bytes(expires_at.try_into().ok()?),
            single_use: flags == SINGLE_USE,
        })
    }
}

fn mac(key: &ClusterKey, subject: LinkSubject<'_>, head: &[u8]) -> [u8; MAC_BYTES] {
    let LinkSubject { project, survey_id, user_id } = subject;
    let head = hex::encode(head);
    let text = serde_json::to_vec(&(project, survey_id, user_id, head)).expect("texts serialise");
    let signed = hex::decode(key.sign_text(PURPOSE, &text)).expect("hex");
    signed[..MAC_BYTES].try_into().expect("the MAC is longer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_holds_for_its_subject_and_nothing_else() {
        let key = ClusterKey::new([7; 32]);
        let subject = LinkSubject { project: "p", survey_id: "nps", user_id: Some("ann") };
        for single_use in [false, true] {
            let token = LinkToken { link_id: [1, 2, 3, 4, 5, 6, 7, 8], expires_at: 1_795_258_022_187, single_use };
            let text = token.sign(&key, subject);
            assert_eq!(LinkToken::open(&key, subject, &text), Some(token));
            for other in [
                LinkSubject { project: "q", ..subject },
                LinkSubject { survey_id: "csat", ..subject },
                LinkSubject { user_id: Some("bob"), ..subject },
                LinkSubject { user_id: None, ..subject },
                LinkSubject { project: "pn", survey_id: "ps", ..subject },
            ] {
                assert_eq!(LinkToken::open(&key, other, &text), None, "{other:?}");
            }
            assert_eq!(LinkToken::open(&ClusterKey::new([8; 32]), subject, &text), None);
            let bytes = URL_SAFE_NO_PAD.decode(&text).unwrap();
            for at in 0..bytes.len() {
                let mut forged = bytes.clone();
                forged[at] ^= 1;
                assert_eq!(LinkToken::open(&key, subject, &URL_SAFE_NO_PAD.encode(forged)), None, "byte {at}");
                assert_eq!(LinkToken::open(&key, subject, &URL_SAFE_NO_PAD.encode(&bytes[..at])), None);
            }
        }
        assert_eq!(LinkToken::open(&key, subject, "%%%"), None);
    }
}
