//! A stable share of all users: the same users for ever, and with a larger
//! share the same and more.

use serde::Serialize;

/// A share and what tells it from others: two shares with the same salt hold
/// the same users.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Share {
    /// 0 to 100.
    pub percent: f64,
    /// Where it begins: shares that do not overlap hold nobody twice.
    #[serde(skip_serializing_if = "is_zero")]
    pub from: f64,
    pub salt: String,
    #[serde(skip_serializing_if = "Unit::is_user")]
    pub by: Unit,
}

fn is_zero(from: &f64) -> bool {
    *from == 0.0
}

/// What is in a share or not as one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    #[default]
    User,
    /// Each activation by itself.
    Activation,
    /// All users with the same value.
    Attribute(String),
}

impl Unit {
    pub fn is_user(&self) -> bool {
        *self == Unit::User
    }
}

/// What a share is for; the same salt does not make a sample a holdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Sampling,
    Holdout,
    Spread,
    Arm,
}

impl Share {
    /// Whether it leaves anybody out.
    pub fn is_partial(&self) -> bool {
        self.percent < 100.0 || !self.by.is_user()
    }

    /// Whether it holds what stands at a place.
    pub fn holds(&self, place: f64) -> bool {
        self.from <= place && place < self.from + self.percent
    }

    /// Where a user, or what else is meant by `key`, stands.
    pub fn place(&self, purpose: Purpose, project: &str, key: &str) -> f64 {
        place(purpose, [project, &self.salt, key])
    }
}

/// Where somebody stands among all, from 0 up to and without 100.
pub fn place(purpose: Purpose, [project, salt, key]: [&str; 3]) -> f64 {
    let purpose = match purpose {
        Purpose::Sampling => "sampling",
        Purpose::Holdout => "holdout",
        Purpose::Spread => "spread",
        Purpose::Arm => "arm",
    };
    let text = [purpose, project, salt, key].join("\0");
    let hash = xxhash_rust::xxh3::xxh3_64(text.as_bytes());
    // 53 bits are what a float holds exactly.
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
