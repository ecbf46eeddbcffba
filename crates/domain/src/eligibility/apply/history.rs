//! Records when a survey was displayed, answered, completed and dismissed. Most users have
//! only the latest time of each; earlier ones are kept where a rule or a cycle needs them.

use crate::survey::cycle::{self, Per};
use crate::time::Millis;
use crate::user::{MAX_TIMES, PerSurvey, SurveyExtension, User, WaveUse, keep_time};

type Latest = fn(&mut PerSurvey) -> &mut Option<Millis>;
type Earlier = fn(&mut SurveyExtension) -> &mut Vec<Millis>;

pub(super) fn answered(user: &mut User, survey_id: &str, at: Millis, is_first: bool) {
    if is_first {
        return note(user, survey_id, at, |state| &mut state.answered_at, |kept| &mut kept.answers);
    }
    // Further answers to the same response move its time.
    let state = user.survey_mut(survey_id);
    state.answered_at = state.answered_at.max(Some(at));
}

pub(super) fn completed(user: &mut User, survey_id: &str, at: Millis) {
    note(user, survey_id, at, |state| &mut state.completed_at, |kept| &mut kept.completions);
}

pub(super) fn dismissed(user: &mut User, survey_id: &str, at: Millis) {
    note(user, survey_id, at, |state| &mut state.dismissed_at, |kept| &mut kept.dismissals);
}

/// Records a display for surveys that count displays in cycles.
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

/// Records that an offer made in a wave was answered.
pub(super) fn answered_in_wave(user: &mut User, survey_id: &str, at: Millis, per: Option<Per>, completes: bool) {
    let Some(used) = wave_mut(user, survey_id, per) else { return };
    used.answered_at = used.answered_at.max(Some(at));
    if completes {
        used.completed_at = used.completed_at.max(Some(at));
    }
}

/// The use of a wave, to be changed; `None` for the first wave, which is not stored, and for
/// a wave that is over.
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

/// Merges the history that an alias has with a survey.
pub(super) fn absorb(
    user: &mut User,
    survey_id: &str,
    theirs: &PerSurvey,
    kept: Option<&SurveyExtension>,
    per: Option<Per>,
) {
    let state = user.survey_mut_or(survey_id, || PerSurvey::of(theirs.fingerprint));
    state.displays = state.displays.saturating_add(theirs.displays);
    state.offered_at = state.offered_at.max(theirs.offered_at);
    let none = SurveyExtension::default();
    let kept = kept.unwrap_or(&none);
    let all: [(Latest, Earlier, &Vec<Millis>); 4] = [
        (|state| &mut state.answered_at, |kept| &mut kept.answers, &kept.answers),
        (|state| &mut state.completed_at, |kept| &mut kept.completions, &kept.completions),
        (|state| &mut state.dismissed_at, |kept| &mut kept.dismissals, &kept.dismissals),
        (|state| &mut state.last_display_at, |kept| &mut kept.displays, &kept.displays),
    ];
    let mut theirs = theirs.clone();
    // The times that are dropped of the last entry, the displays.
    let mut forgotten = Vec::new();
    for (latest, earlier, their_earlier) in all {
        let state = user.survey_mut(survey_id);
        let mut times: Vec<Millis> = their_earlier.clone();
        times.extend([latest(state).take(), latest(&mut theirs).take()].into_iter().flatten());
        if let Some(ours) = user.survey_extension(survey_id) {
            times.extend(earlier(&mut ours.clone()).iter());
        }
        times.sort_unstable();
        *latest(user.survey_mut(survey_id)) = times.pop();
        forgotten = times.drain(..times.len().saturating_sub(MAX_TIMES - 1)).collect();
        if !times.is_empty() || user.survey_extension(survey_id).is_some() {
            *earlier(user.extension_mut().survey_mut(survey_id)) = times;
        }
    }
    if *kept == none && forgotten.is_empty() {
        return;
    }
    let ours = user.extension_mut().survey_mut(survey_id);
    ours.cycle_began_at = ours.cycle_began_at.max(kept.cycle_began_at);
    for at in forgotten {
        ours.cycle_began_at = cycle::began_before(per, ours.cycle_began_at, at);
    }
    ours.wave = one_wave(ours.wave, kept.wave);
    ours.snooze = [ours.snooze, kept.snooze].into_iter().flatten().max_by_key(|snooze| (snooze.at, snooze.until));
    ours.closed_at = ours.closed_at.max(kept.closed_at);
}

/// The combined use of the newest wave.
fn one_wave(ours: Option<WaveUse>, theirs: Option<WaveUse>) -> Option<WaveUse> {
    let (Some(ours), Some(theirs)) = (ours, theirs) else { return ours.or(theirs) };
    if ours.wave != theirs.wave {
        return Some(if ours.wave > theirs.wave { ours } else { theirs });
    }
    Some(WaveUse {
        wave: ours.wave,
        displays: ours.displays.saturating_add(theirs.displays),
        answered_at: ours.answered_at.max(theirs.answered_at),
        completed_at: ours.completed_at.max(theirs.completed_at),
    })
}
