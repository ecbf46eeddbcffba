//! Counts the users of a partition who have an open window of a survey. It reads the store
//! beside the engine, so the count is as of the last checkpoint, a few seconds ago.

use super::families;
use super::table::Table;
use askwhen_domain::eligibility::apply::has_open_window;
use askwhen_domain::refs::SurveyRef;
use askwhen_domain::time::Millis;
use askwhen_partition::StopReason;
use askwhen_store::{Store, keys};
use askwhen_wire::state;

/// Users read at a time, before `goes_on` is asked again.
const READ_AT_A_TIME: usize = 256;

/// The users with an open window of a survey.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenWindows {
    pub users: u64,
    /// Whether all users were counted; if not, there are at least as many.
    pub is_exact: bool,
}

impl OpenWindows {
    pub const NONE: OpenWindows = OpenWindows { users: 0, is_exact: true };

    #[must_use]
    pub fn plus(self, other: OpenWindows) -> OpenWindows {
        OpenWindows { users: self.users + other.users, is_exact: self.is_exact && other.is_exact }
    }
}

/// Counts the users of a store while `goes_on` returns true.
///
/// # Errors
/// When the store cannot be read.
pub fn open_windows(
    store: &Store,
    survey: SurveyRef<'_>,
    now: Millis,
    mut goes_on: impl FnMut() -> bool,
) -> Result<OpenWindows, StopReason> {
    let Some(entry) = Table::survey_entry(store, survey)? else { return Ok(OpenWindows::NONE) };
    let prefix = keys::named(survey.project, "");
    let (mut from, mut counted) = (prefix.clone(), OpenWindows::NONE);
    loop {
        if !goes_on() {
            return Ok(OpenWindows { is_exact: false, ..counted });
        }
        let rows = store.ascending(families::USERS, &from, READ_AT_A_TIME).map_err(StopReason::damaged)?;
        let own = rows.iter().take_while(|(key, _)| key.starts_with(&prefix));
        let mut of_project = 0;
        for (key, bytes) in own {
            let user = state::decode(bytes).map_err(StopReason::refused)?;
            counted.users += u64::from(has_open_window(&user, &entry, now));
            from = [key.as_slice(), &[0]].concat();
            of_project += 1;
        }
        if of_project < READ_AT_A_TIME {
            return Ok(counted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use askwhen_store::Batch;
    use serde_json::json;

    #[test]
    fn a_count_that_ends_early_is_a_lower_bound() {
        let store = Store::Memory(Default::default());
        let survey = SurveyRef::new("default", "s");
        assert_eq!(
            open_windows(&store, survey, 0, || false).unwrap(),
            OpenWindows::NONE,
            "no window of what is not there"
        );
        let body = json!({"survey_id": "s", "name": "S", "show_on": [{"trigger": "T"}], "activate": {"event": "e"},
            "expires_after": "1h", "questions": [{"question_id": "q", "type": "nps", "text": "How?"}]});
        let row = json!({"kind": "survey", "project": "default", "id": "s", "version": 1, "body": body, "past": [],
            "mark": 0});
        let mut batch = Batch::default();
        batch.put(families::DEFINITIONS, "survey/default/s", row.to_string());
        store.write(batch).unwrap();
        assert_eq!(open_windows(&store, survey, 0, || true).unwrap(), OpenWindows::NONE);
        let cut_off = open_windows(&store, survey, 0, || false).unwrap();
        assert_eq!(cut_off, OpenWindows { users: 0, is_exact: false });
    }
}
