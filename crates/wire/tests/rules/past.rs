//! What has happened to users, as one would write it down: everything, in its order.

use std::collections::BTreeMap;

use askwhen_domain::quota::cap::CapEvent;
use askwhen_domain::record::Context;
use askwhen_domain::survey::Survey;
use askwhen_domain::time::Millis;
use askwhen_domain::user::ActivationEvent;
use serde_json::Value;

/// A cap that an offer concerns: of a survey, or of the settings, whose id is empty; which of
/// them; and the value that it is counted for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub of: String,
    pub index: usize,
    pub value: Option<String>,
}

/// An offer, or a response to a link, and what was told of it.
#[derive(Debug, Clone)]
pub struct Made {
    pub offer_id: String,
    /// The survey as it was then.
    pub survey: Survey,
    pub session: Option<String>,
    pub is_test: bool,
    pub is_link: bool,
    pub offered_at: Millis,
    /// The place of the event behind it.
    pub by: Option<u64>,
    pub displayed_at: Option<Millis>,
    pub dismissed_at: Option<Millis>,
    /// The dismissal closed a response that was complete.
    pub is_closed: bool,
    /// The user asked then to be asked again at this time.
    pub again_at: Option<Millis>,
    pub answered_at: Option<Millis>,
    pub completed_at: Option<Millis>,
    /// The answers as they were last taken.
    pub answers: BTreeMap<String, Value>,
    pub places: Vec<Place>,
    /// Its user was erased: it is counted, and holds nothing.
    pub is_erased: bool,
}

impl Made {
    pub fn of(offer_id: &str, survey: &Survey, session: Option<&str>, offered_at: Millis) -> Made {
        Made {
            offer_id: offer_id.to_owned(),
            survey: survey.clone(),
            session: session.map(str::to_owned),
            is_test: false,
            is_link: false,
            offered_at,
            by: None,
            displayed_at: None,
            dismissed_at: None,
            is_closed: false,
            again_at: None,
            answered_at: None,
            completed_at: None,
            answers: BTreeMap::new(),
            places: Vec::new(),
            is_erased: false,
        }
    }

    pub fn is_of(&self, survey: &Survey) -> bool {
        self.survey.survey_id == survey.survey_id
    }

    pub fn counted_at(&self, count: CapEvent) -> Option<Millis> {
        match count {
            CapEvent::Displayed => self.displayed_at,
            CapEvent::Completed => self.completed_at,
        }
    }

    /// The questions on the path, and whether one of them lacks an answer that it must have:
    /// all but those behind a jump. Rules of `q1` are the only ones.
    pub fn path(&self) -> (Vec<&str>, bool) {
        let first = self.answers.get("q1").and_then(Value::as_i64);
        let jumps = self.survey.questions[0].next.len() == 1;
        let mut path = Vec::new();
        for question in &self.survey.questions {
            path.push(&*question.question_id);
            if jumps && first.is_some_and(|first| first >= 4) {
                break;
            }
        }
        let lacks = |id: &&&str| {
            let (_, question) = self.survey.question(id).expect("it is one of them");
            question.required && !self.answers.contains_key(**id)
        };
        let is_missing = path.iter().any(|id| lacks(&id));
        (path, is_missing)
    }

    /// An answer that counts.
    pub fn answer(&self, question_id: &str) -> Option<&Value> {
        self.path().0.contains(&question_id).then(|| self.answers.get(question_id)).flatten()
    }
}

/// An event that took part in a survey's activation, with the value that it belongs to.
#[derive(Debug, Clone)]
pub struct Fact {
    pub value: Option<i64>,
    pub event: ActivationEvent,
}

/// An event that rules counted when it came.
#[derive(Debug, Clone)]
pub struct Counted {
    pub name: String,
    pub at: Millis,
    pub session: Option<String>,
    /// Where a rule asked for it.
    pub kind: Option<i64>,
}

/// Everything that happened to one user.
#[derive(Debug, Clone, Default)]
pub struct Past {
    /// By survey, as far as it listened.
    pub facts: BTreeMap<String, Vec<Fact>>,
    pub made: Vec<Made>,
    pub counted: Vec<Counted>,
    pub attributes: BTreeMap<String, Value>,
    pub attributes_since: Option<Millis>,
    /// The arm of each experiment that was offered.
    pub arms: BTreeMap<String, String>,
    /// When each session was heard of.
    pub heard: Vec<(String, Millis)>,
    /// An erasure kept when the user was asked last.
    pub kept_display_at: Option<Millis>,
}

impl Past {
    /// What is no test.
    pub fn real(&self) -> impl Iterator<Item = &Made> + Clone {
        self.made.iter().filter(|made| !made.is_test)
    }

    pub fn hear(&mut self, session: Option<&str>, at: Millis) {
        self.heard.extend(session.map(|session| (session.to_owned(), at)));
    }

    /// Displays in a session, from when it was last idle for too long.
    pub fn displays_in(&self, session: Option<&str>, lifetime: Option<Millis>) -> usize {
        let Some(session) = session else { return 0 };
        let mut heard: Vec<Millis> = self.heard.iter().filter(|(id, _)| id == session).map(|(_, at)| *at).collect();
        heard.sort_unstable();
        let is_idle = |pair: &&[Millis]| lifetime.is_some_and(|lifetime| pair[1] - pair[0] > lifetime);
        let since = heard.windows(2).filter(is_idle).map(|pair| pair[1]).max().unwrap_or(Millis::MIN);
        let here = self.real().filter(|made| made.session.as_deref() == Some(session));
        here.filter(|made| made.displayed_at.is_some_and(|at| at >= since)).count()
    }
}

/// Who asks, where and when.
#[derive(Debug, Clone)]
pub struct Asking {
    pub user_id: String,
    pub context: Context,
    /// A property of the trigger.
    pub tab: i64,
    /// What an offer would be called.
    pub offer_id: String,
}
