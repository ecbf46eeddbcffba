//! A backend event: it arms the surveys that listen to it.

use super::Scene;
use crate::domain::filter;
use crate::domain::id::Kind;
use crate::domain::json::Json;
use crate::domain::record::Record;
use crate::domain::user::{Activated, User};

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
        // Too late to arm: its window is over before it is known.
        if at.saturating_add(expires_after) <= scene.now {
            continue;
        }
        if filter::first_mismatch(&activation.conditions, &parsed, scene.now).is_some() {
            continue;
        }
        let state = user.surveys.entry(survey_id.clone()).or_default();
        if state.mark != entry.mark {
            state.activations.clear();
            state.mark = entry.mark;
        }
        let activated = Activated {
            at,
            offset: scene.origin.offset,
            event_id: match &record.event_id {
                Some(id) => id.to_string(),
                None => scene.origin.id(Kind::Event, &[]),
            },
            event_name: name.to_owned(),
            properties: Some(Json::from_valid(properties)),
        };
        let end_of = |at| entry.window_end(at).unwrap_or(at);
        state.forget_windows(survey.on_repeat, scene.now, end_of);
        state.insert(activated, survey.on_repeat, end_of);
    }
}
