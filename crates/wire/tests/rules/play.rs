//! A user of a project, to whom things happen at times that a test names.

use askwhen_domain::definitions::Project;
use askwhen_domain::eligibility::apply::{ApplyContext, NO_CAPS, NO_QUOTAS, Outputs, Reply, apply};
use askwhen_domain::eligibility::decision::Decision;
use askwhen_domain::id::Origin;
use askwhen_domain::json::Json;
use askwhen_domain::record::{Answers, Body, Context, GivenAnswer, Record, Target};
use askwhen_domain::time::{ClientTimes, MINUTE, Millis};
use askwhen_domain::user::User;
use askwhen_wire::definition;
use serde_json::{Value, json};

const ORIGIN: Origin = Origin { incarnation: 1, partition: 0, offset: 0 };

/// One user of one project, and everything that happened.
pub struct Play {
    pub project: Project,
    pub user: User,
    pub user_id: &'static str,
    pub offset: u64,
    pub version: u64,
    pub now: Millis,
    pub last: Outputs,
}

impl Play {
    pub fn new(surveys: &[Value]) -> Play {
        let mut play = Play {
            project: Project::default(),
            user: User::default(),
            user_id: "ann",
            offset: 0,
            version: 0,
            now: 0,
            last: Outputs::default(),
        };
        for survey in surveys {
            play.define(survey.clone());
        }
        play
    }

    pub fn define(&mut self, changes: Value) {
        let mut survey = json!({
            "survey_id": "s", "name": "S", "status": "active", "activate": {"event": "woke"}, "expires_after": "2h",
            "show_on": [{"trigger": "Main"}], "frequency": {"repeat": "every_activation"},
            "questions": [{"question_id": "q1", "type": "rating_star", "text": "How?"},
                          {"question_id": "q2", "type": "text", "text": "Why?", "required": false}],
        });
        for (name, value) in changes.as_object().unwrap() {
            survey[name] = value.clone();
        }
        self.version += 1;
        let survey = definition::survey(&survey, None).unwrap_or_else(|faults| panic!("{faults:?}"));
        self.project.put_survey(self.version, survey, self.now, self.offset + 1);
    }

    pub fn apply(&mut self, at: Millis, times: ClientTimes, event_id: Option<String>, body: Body<'_>) -> &Outputs {
        self.now = self.now.max(at);
        self.offset += 1;
        let record = Record {
            project: "default".into(),
            user_id: self.user_id.into(),
            event_id: event_id.map(Into::into),
            times,
            body,
        };
        let origin = Origin { offset: self.offset, ..ORIGIN };
        let ctx = ApplyContext {
            origin,
            now: self.now,
            project_id: "default",
            user_id: self.user_id,
            project: &self.project,
            quota_statuses: &NO_QUOTAS,
            caps: &NO_CAPS,
            may_wait: false,
        };
        let applied = apply(ctx, &self.user, &record, false);
        (self.user, self.last) = (applied.user, applied.out);
        &self.last
    }

    pub fn event(&mut self, at: Millis, happened: Millis) {
        self.event_with(at, happened, "{}");
    }

    pub fn event_with(&mut self, at: Millis, happened: Millis, properties: &'static str) {
        let times = ClientTimes { occurred_at: Some(happened), ..ClientTimes::default() };
        self.apply(at, times, None, Body::Event { name: "woke".into(), properties, session_id: None });
    }

    /// A trigger in a session; gives reason and evaluations.
    pub fn ask_in(&mut self, at: Millis, session: Option<&str>) -> Decision {
        let context = Context { session_id: session.map(str::to_owned), ..Context::default() };
        self.ask_with(at, context, "{}")
    }

    pub fn ask_with(&mut self, at: Millis, context: Context, properties: &'static str) -> Decision {
        let body = Body::Trigger { trigger: "Main".into(), properties, context };
        match &self.apply(at, ClientTimes::default(), None, body).reply {
            Some(Reply::Decided(decision)) => (**decision).clone(),
            other => panic!("no decision: {other:?}"),
        }
    }

    #[track_caller]
    pub fn expect(&mut self, at: Millis, reason: &str) -> Option<String> {
        let decision = self.ask_in(at, None);
        assert_eq!(decision.reason.name(), reason, "at {} min: {:?}", at / MINUTE, decision.evaluations);
        decision.survey.map(|s| s.offer_id)
    }

    pub fn displayed(&mut self, at: Millis, offer_id: &str) {
        self.apply(at, ClientTimes::default(), None, Body::Displayed { offer_id: offer_id.to_owned().into() });
    }

    pub fn answer(&mut self, at: Millis, offer_id: &str, answers: &[(&str, &str)], completed: bool) -> &Outputs {
        let given = |(id, value): &(&str, &str)| GivenAnswer {
            question_id: (*id).to_owned(),
            value: Json::from_valid(*value),
            answered_at: None,
            duration_ms: None,
        };
        let said = Answers {
            target: Target::Offer(offer_id.to_owned()),
            answers: answers.iter().map(given).collect(),
            completed,
            context: Context::default(),
        };
        self.apply(at, ClientTimes::default(), None, Body::Answers(said))
    }

    /// An event of any name, appended when it happens.
    pub fn event_named(&mut self, at: Millis, name: &'static str, properties: &'static str) {
        let times = ClientTimes { occurred_at: Some(at), ..ClientTimes::default() };
        self.apply(at, times, None, Body::Event { name: name.into(), properties, session_id: None });
    }

    /// An event that happened earlier than it is appended.
    pub fn late_event(&mut self, at: Millis, happened: Millis, name: &'static str) {
        let times = ClientTimes { occurred_at: Some(happened), ..ClientTimes::default() };
        self.apply(at, times, None, Body::Event { name: name.into(), properties: "{}", session_id: None });
    }
}
