//! Tallies of responses by day and circumstance, updated response by response.

use serde::{Deserialize, Serialize};

use super::error::Error;
use super::order::{self, WriteBatch};
use askwhen_domain::refs::SurveyRef;
use askwhen_domain::time::{self, DAY};
use askwhen_store::keys;
use askwhen_wire::listing::GroupBy;
use askwhen_wire::topics::response::ResponseBody;

/// What the responses of a tally have in common, besides the day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Circumstance {
    pub version: u64,
    locale: Option<String>,
    platform: Option<String>,
    trigger: String,
}

impl Circumstance {
    pub fn of(response: &ResponseBody) -> Circumstance {
        Circumstance {
            version: response.survey_version,
            locale: response.locale.clone(),
            platform: response.platform.clone(),
            trigger: response.trigger.clone(),
        }
    }

    /// The group of a response of a day.
    pub fn group(&self, day: i64, by: GroupBy) -> String {
        let date = |day: i64| time::format_time(day * DAY).chars().take(10).collect::<String>();
        match by {
            GroupBy::Day => date(day),
            // The first day of 1970 was a Thursday; a week is named by its Monday.
            GroupBy::Week => date(day - (day + 3).rem_euclid(7)),
            GroupBy::Month => date(day).chars().take(7).collect(),
            GroupBy::Version => self.version.to_string(),
            GroupBy::Locale => self.locale.clone().unwrap_or_default(),
            GroupBy::Platform => self.platform.clone().unwrap_or_default(),
            GroupBy::Trigger => self.trigger.clone(),
        }
    }
}

/// Prefix of the keys of a survey's tallies.
pub fn of_survey(survey: SurveyRef<'_>) -> Vec<u8> {
    [&[order::RESULTS][..], &keys::named(survey.project, survey.survey_id), &[0]].concat()
}

/// Adds a response to the tally of its day, or subtracts it with a `sign` of -1.
///
/// # Errors
/// When the store cannot be read.
pub fn count(batch: &mut WriteBatch<'_>, response: &ResponseBody, sign: i64) -> Result<(), Error> {
    if response.test {
        return Ok(());
    }
    let survey = SurveyRef::new(&response.project, &response.survey_id);
    let circumstance = postcard::to_stdvec(&Circumstance::of(response)).expect("a circumstance serialises");
    let day = response.created_at.div_euclid(DAY);
    let key = [of_survey(survey), keys::timed(day, &circumstance)].concat();
    batch.tally_mut(key)?.count(response, sign);
    Ok(())
}
