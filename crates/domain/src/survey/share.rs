//! Stable shares of users: always the same users, and a larger share contains a smaller
//! one.

use serde::Serialize;

/// A share of all users. Shares with the same salt contain the same users.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Share {
    /// 0 to 100.
    pub percent: f64,
    /// Where the share begins, 0 to 100. Shares that do not overlap have no user in common.
    #[serde(skip_serializing_if = "is_zero")]
    pub from: f64,
    pub salt: String,
    #[serde(skip_serializing_if = "Unit::is_user")]
    pub by: Unit,
}

fn is_zero(from: &f64) -> bool {
    *from == 0.0
}

/// What is drawn as one: a user, an activation, or all users with the same value.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    #[default]
    User,
    /// Each activation separately.
    Activation,
    /// All users with the same value of an attribute.
    Attribute(String),
}

impl Unit {
    pub fn is_user(&self) -> bool {
        *self == Unit::User
    }
}

/// The purpose of a share, so that the same salt gives different users for a sample and a
/// holdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Sampling,
    Holdout,
    Spread,
    Arm,
}

impl Share {
    /// Whether it leaves anyone out.
    pub fn is_partial(&self) -> bool {
        self.percent < 100.0 || !self.by.is_user()
    }

    /// Whether the share contains a position.
    pub fn holds(&self, place: f64) -> bool {
        self.from <= place && place < self.from + self.percent
    }

    /// The position of `key`, a user's id or another unit, from 0 up to but not including
    /// 100.
    pub fn place(&self, purpose: Purpose, project: &str, key: &str) -> f64 {
        place(purpose, [project, &self.salt, key])
    }
}

/// A hash as a position, from 0 up to but not including 100.
pub fn place(purpose: Purpose, [project, salt, key]: [&str; 3]) -> f64 {
    let purpose = match purpose {
        Purpose::Sampling => "sampling",
        Purpose::Holdout => "holdout",
        Purpose::Spread => "spread",
        Purpose::Arm => "arm",
    };
    let text = [purpose, project, salt, key].join("\0");
    let hash = xxhash_rust::xxh3::xxh3_64(text.as_bytes());
    // A float holds 53 bits exactly.
    (hash >> 11) as f64 / (1_u64 << 53) as f64 * 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_as_large_as_it_says_and_grows_by_adding() {
        let share = |percent| Share { percent, from: 0.0, salt: "s".into(), by: Unit::User };
        let holds = |share: Share, purpose, user: &str| share.holds(share.place(purpose, "p", user));
        let users: Vec<String> = (0..20_000).map(|n| format!("user_{n}")).collect();
        let within = |percent: f64| -> Vec<&String> {
            users.iter().filter(|user| holds(share(percent), Purpose::Sampling, user)).collect()
        };
        let (tenth, half) = (within(10.0), within(50.0));
        assert!((1_850..2_150).contains(&tenth.len()) && (9_750..10_250).contains(&half.len()));
        assert!(tenth.iter().all(|user| half.contains(user)));
        assert_eq!((within(0.0).len(), within(100.0).len()), (0, users.len()));
        let held = |user: &&String| holds(share(50.0), Purpose::Holdout, user);
        let both = half.iter().filter(|user| held(user)).count();
        assert!((4_700..5_300).contains(&both), "a sample says nothing of a holdout: {both}");
        let rest = Share { from: 50.0, ..share(50.0) };
        let others = users.iter().filter(|user| holds(rest.clone(), Purpose::Sampling, user)).count();
        assert_eq!(others + half.len(), users.len(), "both halves are everybody");
    }
}
