//! The states of one user with all surveys.

use serde::{Deserialize, Deserializer, Serialize};
use std::ops::Index;
use std::sync::Arc;

use super::decoded::{Decoded, Name};
use super::name;
use super::survey::PerSurvey;

/// By survey id, in the order of ids. A copy is a single allocation and shares the states;
/// a map would allocate once for every few of them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Surveys(Vec<(Arc<str>, Arc<PerSurvey>)>);

/// Stored in the format of a map, as version 0.1.0 did.
impl<'de> Deserialize<'de> for Surveys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Surveys, D::Error> {
        let entries = Vec::<(Name, Decoded<PerSurvey>)>::deserialize(deserializer)?;
        let entries: Vec<_> = entries.into_iter().map(|(Name(id), Decoded(survey))| (id, survey)).collect();
        if entries.is_sorted_by(|(before, _), (after, _)| before < after) {
            return Ok(Surveys(entries));
        }
        Err(serde::de::Error::custom("the surveys of a user are not in the order of their ids"))
    }
}

impl Surveys {
    fn place(&self, survey_id: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(id, _)| (**id).cmp(survey_id))
    }

    pub fn get(&self, survey_id: &str) -> Option<&PerSurvey> {
        self.place(survey_id).ok().map(|at| &*self.0[at].1)
    }

    /// The state with a survey, to be changed; `new` makes the one that is there at first.
    pub(super) fn get_mut_or(&mut self, survey_id: &str, new: impl FnOnce() -> PerSurvey) -> &mut PerSurvey {
        let at = self.place(survey_id).unwrap_or_else(|at| {
            // Most users keep the few surveys that they have.
            self.0.reserve_exact(1);
            self.0.insert(at, (name::shared(survey_id), Arc::new(new())));
            at
        });
        Arc::make_mut(&mut self.0[at].1)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<PerSurvey>)> {
        self.0.iter().map(|(id, survey)| (id, survey))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Arc<PerSurvey>> {
        self.0.iter_mut().map(|(_, survey)| survey)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The states that `before` does not share, each with its id, the state before and the
    /// state now.
    pub(super) fn changes<'a>(
        &'a self,
        before: &'a Surveys,
    ) -> impl Iterator<Item = (&'a Arc<str>, Option<&'a PerSurvey>, Option<&'a PerSurvey>)> {
        let (mut old, mut new) = (before.0.iter().peekable(), self.0.iter().peekable());
        std::iter::from_fn(move || {
            loop {
                let order = match (old.peek(), new.peek()) {
                    (None, None) => return None,
                    (Some(_), None) => std::cmp::Ordering::Less,
                    (None, Some(_)) => std::cmp::Ordering::Greater,
                    (Some((_, a)), Some((_, b))) if Arc::ptr_eq(a, b) => {
                        old.next();
                        new.next();
                        continue;
                    }
                    (Some((a, _)), Some((b, _))) => a.cmp(b),
                };
                let was = if order.is_le() { old.next() } else { None };
                let is = if order.is_ge() { new.next() } else { None };
                let (id, _) = was.or(is).expect("one of them is there");
                return Some((id, was.map(|(_, survey)| &**survey), is.map(|(_, survey)| &**survey)));
            }
        })
    }
}

impl Index<&str> for Surveys {
    type Output = PerSurvey;

    fn index(&self, survey_id: &str) -> &PerSurvey {
        self.get(survey_id).expect("a survey that the user knows")
    }
}
