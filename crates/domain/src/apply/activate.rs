//! A backend event: it takes part in what arms or cancels the surveys that
//! listen to it.

use super::scene::Scene;
use crate::activation::{CANCELS, LATE};
use crate::id::Kind;
use crate::json::Json;
use crate::record::Record;
use crate::user::{Activated, Fact, User};

pub(super) fn event(scene: Scene<'_>, user: &mut User, record: &Record<'_>, name: &str, properties: &str) {
    let at = record.told.event_time(scene.now);
    if at.saturating_add(scene.project.settings.allowed_lateness) < scene.now {
        return;
    }
    let parsed = Json::from_valid(properties).value();
    for survey_id in scene.project.listeners(name) {
        let entry = &scene.project.surveys[survey_id];
        let survey = &entry.current;
        let (Some(activation), Some(expires_after)) = (&survey.activate, survey.expires_after) else { continue };
        let roles = survey.roles(name, &parsed, scene.now);
        if roles == 0 {
            continue;
        }
        // Too late to take part in anything that is not over, unless it ends what
        // had begun before it: then what came after stands by itself.
        let over = at.saturating_add(activation.reach()).saturating_add(expires_after) <= scene.now;
        let state_now = user.surveys.get(survey_id).filter(|state| state.mark == entry.mark);
        let ends = roles & (CANCELS | activation.prevents()) != 0 && state_now.is_some_and(|s| !s.facts.is_empty());
        if over && !ends {
            continue;
        }
        let late = !activation.waits() && at.saturating_add(expires_after) <= scene.now;
        let roles = roles | if late { LATE } else { 0 };
        let state = user.surveys.entry(survey_id.clone()).or_default();
        if state.mark != entry.mark {
            state.facts.clear();
            state.mark = entry.mark;
        }
        let event = Activated {
            at,
            offset: scene.origin.offset,
            event_id: match &record.event_id {
                Some(id) => id.to_string(),
                None => scene.origin.id(Kind::Event, &[]),
            },
            event_name: name.to_owned(),
            // What cancels is asked for nothing more.
            properties: (roles & !CANCELS != 0).then(|| Json::from_valid(properties)),
        };
        let end_of = |at, offset| entry.window_end(at, offset).unwrap_or(at);
        let Some(rules) = entry.rules(&end_of) else { continue };
        state.forget_facts(rules, scene.now);
        state.insert(Fact { roles, event }, rules);
    }
}
