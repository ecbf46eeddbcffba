//! What a backtest tries, on which part of the journal, and what it assumes.

use std::collections::BTreeSet;

use super::super::Error;
use askwhen_domain::survey::Survey;
use askwhen_domain::time::Millis;

/// What is to be tried, on what, supposing what.
pub struct Plan {
    pub project: String,
    pub from: Millis,
    /// Records up to and with this moment.
    pub to: Millis,
    /// Each is tried alone; they are compared.
    pub versions: Vec<Version>,
    pub assumptions: Assumptions,
    pub threads: usize,
}

/// Surveys that are tried together.
#[derive(Debug, Clone)]
pub struct Version {
    pub name: String,
    pub surveys: Vec<Survey>,
}

/// What the journal cannot know.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Assumptions {
    /// Whether an offer that was not really made is displayed, at once.
    pub displayed: bool,
    /// The share of such displayed offers that are answered in full, at once.
    pub answered: f64,
    /// Whether no other survey is active.
    pub alone: bool,
}

impl Plan {
    /// # Errors
    /// [`ErrorKind::Usage`](crate::replay::ErrorKind::Usage) for what cannot be tried.
    pub(super) fn check(&self) -> Result<(), Error> {
        let usage = |text: String| Err(Error::usage(text));
        if self.from >= self.to {
            return usage("--from must be before --to".into());
        }
        for survey in self.versions.iter().flat_map(|version| &version.surveys) {
            if survey.show_on.is_empty() {
                return usage(format!(
                    "{} shows on no trigger: who opens its link is not in the journal, so there is nothing to try",
                    survey.survey_id
                ));
            }
        }
        Ok(())
    }
}

/// The versions that files define: of a survey that is defined several times, one
/// each; the others are in all of them.
///
/// # Errors
/// When there is none.
pub fn versions(defined: Vec<(String, Survey)>) -> Result<Vec<Version>, Error> {
    let ids: BTreeSet<String> = defined.iter().map(|(_, survey)| survey.survey_id.clone()).collect();
    let of = |id: &String| defined.iter().filter(|(_, survey)| survey.survey_id == *id).collect::<Vec<_>>();
    let Some(most) = ids.iter().map(|id| of(id).len()).max() else {
        return Err(Error::usage("the files hold no survey"));
    };
    let version = |n: usize| {
        let mut names = Vec::new();
        let mut surveys = Vec::new();
        for id in &ids {
            let all = of(id);
            let Some((place, survey)) = all.get(n).or(all.last()) else { continue };
            if all.len() > 1 || most == 1 {
                names.push(if most > 1 { place.clone() } else { id.clone() });
            }
            surveys.push(survey.clone());
        }
        Version { name: names.join(" + "), surveys }
    };
    Ok((0..most).map(version).collect())
}
