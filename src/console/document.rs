//! The stored form of a decision or a response: its JSON body, with what lists and erasures
//! need of it.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::Error;
use super::order::{PlaceFilter, term};
use askwhen_domain::id::RecordPosition;
use askwhen_domain::refs::SurveyRef;
use askwhen_domain::survey::question::QuestionType;
use askwhen_domain::time::Millis;
use askwhen_wire::listing::Filter;
use askwhen_wire::row;
use askwhen_wire::topics::DecisionRecord;
use askwhen_wire::topics::response::ResponseBody;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoredDocument {
    pub project: String,
    pub user_id: String,
    pub at: Millis,
    /// The journal record that caused it: an erasure removes everything from before it.
    pub source: RecordPosition,
    pub body: String,
}

/// Decodes a document.
///
/// # Errors
/// When it is invalid: the store is damaged.
pub fn read(bytes: &[u8]) -> Result<StoredDocument, Error> {
    postcard::from_bytes(bytes).map_err(|e| Error::Damaged(format!("a row of the lists is unreadable: {e}")))
}

pub fn encode(document: &StoredDocument) -> Vec<u8> {
    row::encode(document, document.project.len() + document.user_id.len() + document.body.len())
}

/// A response as it is stored, decoded.
#[derive(Debug, Clone)]
pub struct StoredResponse {
    pub at: Millis,
    /// The journal record that caused it.
    pub source: RecordPosition,
    pub response: ResponseBody,
}

impl StoredResponse {
    /// # Errors
    /// When the store is damaged.
    pub fn of(document: StoredDocument) -> Result<StoredResponse, Error> {
        Ok(StoredResponse { at: document.at, source: document.source, response: document.response()? })
    }

    pub fn document(&self) -> StoredDocument {
        StoredDocument {
            project: self.response.project.clone(),
            user_id: self.response.user_id.clone(),
            at: self.at,
            source: self.source,
            body: body(&self.response),
        }
    }

    pub fn survey(&self) -> SurveyRef<'_> {
        SurveyRef::new(&self.response.project, &self.response.survey_id)
    }

    /// The values that filters compare.
    pub fn terms(&self) -> Vec<u32> {
        let status = if self.response.completed { "completed" } else { "partial" };
        let texts = self.response.answers.iter().filter(|answer| answer.kind == QuestionType::Text);
        let texts = texts.map(|answer| text_term(&answer.question_id));
        let named = [term("status", status), term("survey_id", &self.response.survey_id)];
        let mut terms: Vec<u32> = named.into_iter().chain(texts).collect();
        terms.sort_unstable();
        terms
    }
}

/// The term in a response's index entry by which text answers to a question are found.
pub fn text_term(question_id: &str) -> u32 {
    term("text", question_id)
}

/// The stored JSON of a record.
pub fn body<T: Serialize>(record: &T) -> String {
    serde_json::to_string(record).expect("a record serialises")
}

impl StoredDocument {
    /// # Errors
    /// When the store is damaged.
    pub fn decision(&self) -> Result<DecisionRecord, Error> {
        self.parsed()
    }

    /// # Errors
    /// When the store is damaged.
    pub fn response(&self) -> Result<ResponseBody, Error> {
        self.parsed()
    }

    fn parsed<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let damaged = |e| Error::Damaged(format!("the body of a row of the lists is unreadable: {e}"));
        serde_json::from_str(&self.body).map_err(damaged)
    }
}

/// The JSON that lists show.
pub fn shown<T: Serialize>(record: &T) -> Value {
    serde_json::to_value(record).expect("a record serialises")
}

/// The part of a filter that index entries of decisions and responses can answer.
pub fn looked_for(filter: &Filter) -> PlaceFilter {
    let of = |member: &str, value: &Option<String>| value.as_ref().map(|value| term(member, value));
    let terms = [of("status", &filter.status), of("survey_id", &filter.survey_id)].into_iter().flatten().collect();
    PlaceFilter { terms, failures_only: false }
}

/// Whether a filter accepts a decision: the status is its reason, the survey any that was
/// considered.
pub fn fits_decision(decision: &DecisionRecord, filter: &Filter) -> bool {
    let considered = |id: &String| decision.evaluations.iter().any(|evaluation| evaluation.survey_id == *id);
    filter.status.as_deref().is_none_or(|wanted| decision.reason == wanted)
        && filter.survey_id.as_ref().is_none_or(considered)
}

pub fn fits_response(response: &ResponseBody, filter: &Filter) -> bool {
    let status = if response.completed { "completed" } else { "partial" };
    filter.status.as_deref().is_none_or(|wanted| wanted == status)
        && filter.survey_id.as_deref().is_none_or(|wanted| response.survey_id == wanted)
        && filter.kept_since.get(&response.survey_id).is_none_or(|since| response.created_at >= *since)
}
