//! A stable share of all users: the same users for ever, and with a larger
//! share the same and more.

use serde::Serialize;

/// A share and what tells it from others: two shares with the same salt hold
/// the same users.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Share {
    /// 0 to 100.
    pub percent: f64,
    pub salt: String,
}

/// What a share is for; the same salt does not make a sample a holdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Sampling,
    Holdout,
}

impl Share {
    pub fn holds(&self, purpose: Purpose, project: &str, user_id: &str) -> bool {
        self.place(purpose, project, user_id) < self.percent
    }

    /// Where a user stands, from 0 up to and without 100.
    pub fn place(&self, purpose: Purpose, project: &str, user_id: &str) -> f64 {
        let purpose = match purpose {
            Purpose::Sampling => "sampling",
            Purpose::Holdout => "holdout",
        };
        let text = [purpose, project, &self.salt, user_id].join("\0");
        let hash = xxhash_rust::xxh3::xxh3_64(text.as_bytes());
        // 53 bits are what a float holds exactly.
        (hash >> 11) as f64 / (1_u64 << 53) as f64 * 100.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_as_large_as_it_says_and_grows_by_adding() {
        let share = |percent| Share { percent, salt: "s".into() };
        let users: Vec<String> = (0..20_000).map(|n| format!("user_{n}")).collect();
        let within = |percent: f64| -> Vec<&String> {
            users.iter().filter(|user| share(percent).holds(Purpose::Sampling, "p", user)).collect()
        };
        let (tenth, half) = (within(10.0), within(50.0));
        assert!((1_850..2_150).contains(&tenth.len()) && (9_750..10_250).contains(&half.len()));
        assert!(tenth.iter().all(|user| half.contains(user)));
        assert_eq!((within(0.0).len(), within(100.0).len()), (0, users.len()));
        let held = |user: &&String| share(50.0).holds(Purpose::Holdout, "p", user);
        let both = half.iter().filter(|user| held(user)).count();
        assert!((4_700..5_300).contains(&both), "a sample says nothing of a holdout: {both}");
    }
}
