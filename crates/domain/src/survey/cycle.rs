//! Cycles: `repeat` and `max_displays` count within each, and begin again with the next.

use serde::ser::{Serialize, SerializeMap as _, Serializer};

use crate::survey::schedule::{Calendar, Zone};
use crate::time::{self, Millis};
use crate::user::{PerSurvey, SurveyExtension};

/// What a cycle is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Per {
    /// This many milliseconds from the first display of the cycle.
    Span(Millis),
    Calendar(Calendar),
    /// As long as the number stays the same; a higher one begins the next wave. The first
    /// is 1.
    Wave(u32),
}

impl Serialize for Per {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Per::Span(span) => serializer.serialize_str(&time::format_duration(*span)),
            Per::Calendar(calendar) => calendar.serialize(serializer),
            Per::Wave(wave) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("wave", wave)?;
                map.end()
            }
        }
    }
}

/// What a user has used up of the current cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CycleUse {
    pub displays: u32,
    pub answered_at: Option<Millis>,
    pub completed_at: Option<Millis>,
    /// When the next cycle begins without a change of the definition.
    pub ends_at: Option<Millis>,
}

/// What a user has used up of the current cycle; without `per` there is one for ever.
pub fn used(per: Option<Per>, state: &PerSurvey, kept: Option<&SurveyExtension>, zone: &Zone, now: Millis) -> CycleUse {
    let life = CycleUse {
        displays: state.displays,
        answered_at: state.answered_at,
        completed_at: state.completed_at,
        ends_at: None,
    };
    let since = |began: Millis, displays: usize, ends_at: Option<Millis>| {
        let lately = |at: Option<Millis>| at.filter(|at| *at >= began);
        CycleUse {
            displays: displays as u32,
            answered_at: lately(state.answered_at),
            completed_at: lately(state.completed_at),
            ends_at,
        }
    };
    let earlier = kept.map_or(&[][..], |kept| &kept.displays);
    let times = earlier.iter().copied().chain(state.last_display_at);
    match per {
        None | Some(Per::Wave(..=1)) => life,
        Some(Per::Wave(wave)) => match kept.and_then(|kept| kept.wave) {
            Some(used) if used.wave >= wave => CycleUse {
                displays: used.displays,
                answered_at: used.answered_at,
                completed_at: used.completed_at,
                ends_at: None,
            },
            _ => CycleUse::default(),
        },
        Some(Per::Calendar(calendar)) => {
            let period = zone.period(calendar, now);
            let displays = times.filter(|at| *at >= period.since).count();
            since(period.since, displays, Some(period.until))
        }
        Some(Per::Span(span)) => {
            let (mut began, mut displays) = (kept.and_then(|kept| kept.cycle_began_at), 0);
            for at in times {
                if began.is_none_or(|began| at >= began.saturating_add(span)) {
                    (began, displays) = (Some(at), 0);
                }
                displays += 1;
            }
            match began.map(|began| (began, began.saturating_add(span))) {
                Some((began, ends_at)) if now < ends_at => since(began, displays, Some(ends_at)),
                _ => CycleUse::default(),
            }
        }
    }
}

/// The start of the cycle to which a display belongs that is now forgotten.
pub fn began_before(per: Option<Per>, known: Option<Millis>, forgotten: Millis) -> Option<Millis> {
    let Some(Per::Span(span)) = per else { return None };
    known.filter(|began| forgotten < began.saturating_add(span)).or(Some(forgotten))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::DAY;

    #[test]
    fn a_span_runs_from_the_first_display_of_its_cycle() {
        let mut kept = SurveyExtension { displays: vec![0, 10 * DAY, 95 * DAY], ..SurveyExtension::default() };
        let mut state = PerSurvey { displays: 4, last_display_at: Some(120 * DAY), ..PerSurvey::default() };
        state.completed_at = Some(94 * DAY);
        let (per, zone) = (Some(Per::Span(90 * DAY)), Zone::default());
        let used = |kept: &SurveyExtension, now: Millis| super::used(per, &state, Some(kept), &zone, now);
        let now = used(&kept, 121 * DAY);
        assert_eq!((now.displays, now.ends_at, now.completed_at), (2, Some(185 * DAY), None));
        assert_eq!(used(&kept, 185 * DAY), CycleUse::default());
        kept.displays.remove(0);
        assert_eq!(used(&kept, 121 * DAY).displays, 1, "10, then 120");
        kept.cycle_began_at = began_before(per, None, 0);
        assert_eq!(used(&kept, 121 * DAY), now, "what is forgotten still holds its cycle");
        assert_eq!(began_before(per, Some(0), 89 * DAY), Some(0));
        assert_eq!(began_before(per, Some(0), 90 * DAY), Some(90 * DAY));
    }
}
