//! What a backtest tries, on which part of the journal, and what it assumes.

use std::collections::BTreeSet;

use super::super::Error;
use askwhen_domain::survey::Survey;
use askwhen_domain::time::Millis;

/// What is to be tried, on which records, under which assumptions.
pub struct Plan {
    pub project: String,
    pub from: Millis,
    /// The last moment of which records are read, in milliseconds since the epoch.
    pub to: Millis,
    /// Each is tried on its own, and compared with the others.
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

/// What the journal does not say and a backtest has to assume.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Assumptions {
    /// Whether offers that were not really made are displayed, at once.
    pub displayed: bool,
    /// The share, from 0 to 1, of these offers that are answered in full, at once.
    pub answered: f64,
    /// Whether the surveys that are not tried are archived.
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

/// Makes versions of surveys, each given with the place that defines it. A survey that
/// is defined several times makes a version of each definition; surveys that are
/// defined once are in all versions.
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
