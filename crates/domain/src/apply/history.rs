//! Notes when a survey was displayed, answered, completed and dismissed: the latest
//! time of each, and earlier ones as far as they are remembered. Most users have only a
//! latest one.

use crate::cycle::{self, Per};
use crate::time::Millis;
use crate::user::{PerSurvey, SurveyExtension, User, WaveUse, keep_time};

type Latest = fn(&mut PerSurvey) -> &mut Option<Millis>;
type Earlier = fn(&mut SurveyExtension) -> &mut Vec<Millis>;

pub(super) fn answered(user: &mut User, survey_id: &str, at: Millis, is_first: bool) {
    if is_first {
        return note(user, survey_id, at, |state| &mut state.answered_at, |kept| &mut kept.answers);
    }
    // More answers to the same response move its time.
    let state = user.survey_mut(survey_id);
    state.answered_at = state.answered_at.max(Some(at));
}

pub(super) fn completed(user: &mut User, survey_id: &str, at: Millis) {
    note(user, survey_id, at, |state| &mut state.completed_at, |kept| &mut kept.completions);
}

pub(super) fn dismissed(user: &mut User, survey_id: &str, at: Millis) {
    note(user, survey_id, at, |state| &mut state.dismissed_at, |kept| &mut kept.dismissals);
}

/// A display of an offer of a survey whose displays count in cycles. The latest one is
/// noted with what it counts for.
pub(super) fn displayed(user: &mut User, survey_id: &str, at: Millis, per: Option<Per>) {
    let last = user.surveys.get(survey_id).and_then(|state| state.last_display_at);
    if let Some(earlier) = last.map(|last| last.min(at)) {
        let kept = user.extension_mut().survey_mut(survey_id);
        if let Some(forgotten) = keep_time(&mut kept.displays, earlier) {
            kept.cycle_began_at = cycle::began_before(per, kept.cycle_began_at, forgotten);
        }
    }
    if let Some(used) = wave_mut(user, survey_id, per) {
        used.displays = used.displays.saturating_add(1);
    }
}

/// Answers to an offer of a wave.
pub(super) fn answered_in_wave(user: &mut User, survey_id: &str, at: Millis, per: Option<Per>, completes: bool) {
    let Some(used) = wave_mut(user, survey_id, per) else { return };
    used.answered_at = used.answered_at.max(Some(at));
    if completes {
        used.completed_at = used.completed_at.max(Some(at));
    }
}

/// What a wave has used up; `None` for the first, and for one that is over.
fn wave_mut<'a>(user: &'a mut User, survey_id: &str, per: Option<Per>) -> Option<&'a mut WaveUse> {
    let Some(Per::Wave(wave @ 2..)) = per else { return None };
    let known = user.survey_extension(survey_id).and_then(|kept| kept.wave).map_or(0, |used| used.wave);
    if known > wave {
        return None;
    }
    let used = &mut user.extension_mut().survey_mut(survey_id).wave;
    let new = WaveUse { wave, displays: 0, answered_at: None, completed_at: None };
    if known < wave {
        *used = Some(new);
    }
    used.as_mut()
}

fn note(user: &mut User, survey_id: &str, at: Millis, latest: Latest, earlier: Earlier) {
    let state = user.survey_mut(survey_id);
    let latest = latest(state);
    let before = *latest;
    *latest = before.max(Some(at));
    if let Some(before) = before {
        keep_time(earlier(user.extension_mut().survey_mut(survey_id)), before.min(at));
    }
}
