//! Counts how often something happened: each time, or at most once for each day or session.

use serde::Serialize;

use crate::survey::schedule::Zone;
use crate::time::Millis;

/// Within what several occurrences count once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Distinct {
    Day,
    Session,
}

impl Distinct {
    pub const ALL: [(&'static str, Distinct); 2] = [("day", Distinct::Day), ("session", Distinct::Session)];
}

/// One occurrence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Occurrence {
    pub at: Millis,
    /// A hash of the session's id.
    pub session: Option<u64>,
}

/// The number of occurrences, with days in a time zone. A missing session differs from
/// every other session, including another missing one.
pub fn count(all: impl IntoIterator<Item = Occurrence>, distinct: Option<Distinct>, zone: &Zone) -> usize {
    let all = all.into_iter();
    match distinct {
        None => all.count(),
        Some(Distinct::Day) => {
            let mut days: Vec<i64> = all.map(|one| zone.day_of(one.at)).collect();
            days.sort_unstable();
            days.dedup();
            days.len()
        }
        Some(Distinct::Session) => {
            let (mut known, mut missing) = (Vec::new(), 0);
            for one in all {
                match one.session {
                    Some(session) => known.push(session),
                    None => missing += 1,
                }
            }
            known.sort_unstable();
            known.dedup();
            known.len() + missing
        }
    }
}

/// The hash by which sessions are compared.
pub fn session_hash(session_id: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(session_id.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::{DAY, HOUR};

    #[test]
    fn days_are_those_of_the_place_and_missing_sessions_are_their_own() {
        let at = |hours: Millis, session: Option<u64>| Occurrence { at: 20_000 * DAY + hours * HOUR, session };
        let all = [at(1, Some(1)), at(22, None), at(23, Some(1)), at(47, None)];
        let utc = Zone::default();
        let berlin = Zone::find("Europe/Berlin").expect("a zone");
        assert_eq!(count(all, None, &utc), 4);
        assert_eq!(count(all, Some(Distinct::Day), &utc), 2);
        assert_eq!(count(all, Some(Distinct::Day), &berlin), 3, "23:00 UTC is the next day there, 47:00 the one after");
        assert_eq!(count(all, Some(Distinct::Session), &utc), 3);
    }
}
