//! Connects the journal to the bridge, which does not know `replay`.

use serde_json::Value;

use crate::bridge::history::{
    BacktestRequest, ExplainRequest, HistoryError, JournalLookup, TimelineEntry, TimelineRequest,
};
use crate::replay::backtest::{self, Assumptions, Plan};
use crate::replay::explain::{self, AssumedTrigger, Question};
use crate::replay::starts::Starts;
use crate::replay::timeline::{self, TimelineQuery};
use crate::replay::{Error, ErrorKind, Progress, Source};
use askwhen_domain::time::{self, Millis};
use askwhen_wire::definition;

pub struct JournalHistory {
    pub source: Source,
    /// What explanations begin with.
    pub starts: Starts,
    pub has_test_clock: bool,
}

impl JournalLookup for JournalHistory {
    fn explain(&self, request: ExplainRequest) -> Result<Value, HistoryError> {
        let ExplainRequest { project, user_id, at, trigger } = request;
        let trigger = trigger.map(|assumed| AssumedTrigger {
            trigger: assumed.trigger,
            properties: assumed.properties,
            context: assumed.context,
        });
        let question = Question { project, user_id, at, trigger };
        explain::explain(&self.source, &self.starts, &question, |_| {}).map_err(|error| {
            // A folder with a kept state may have been cleared away.
            self.starts.forget();
            history_error(error)
        })
    }

    fn timeline(&self, request: TimelineRequest) -> Result<Vec<TimelineEntry>, HistoryError> {
        let TimelineRequest { project, user_id, since, until, limit } = &request;
        let query = TimelineQuery { project, user_id, since: *since, until: *until, limit: *limit };
        let items = timeline::timeline(&self.source, &query, self.has_test_clock).map_err(history_error)?;
        Ok(items.into_iter().map(|item| (item.at, item.id, item.shown)).collect())
    }

    fn backtest(&self, request: BacktestRequest, progress: &Progress) -> Result<Value, HistoryError> {
        let outcome = plan(&request).and_then(|plan| backtest::run(&self.source, &plan, progress));
        Ok(outcome.map_err(history_error)?.json())
    }
}

/// The plan for the parameters of a job, which were checked when it was created.
fn plan(request: &BacktestRequest) -> Result<Plan, Error> {
    let parameters = &request.parameters;
    let time = |name: &str| parameters[name].as_str().and_then(|text| time::parse_time(text).ok());
    let mut surveys = Vec::new();
    for (n, body) in parameters["surveys"].as_array().into_iter().flatten().enumerate() {
        let survey = definition::survey(body, None).map_err(|_| Error::usage("a survey of the job is not one"))?;
        surveys.push((format!("surveys[{n}]"), survey));
    }
    Ok(Plan {
        project: request.project.clone(),
        from: time("from").unwrap_or(0),
        to: time("to").unwrap_or(Millis::MAX),
        versions: backtest::versions(surveys)?,
        assumptions: Assumptions {
            displayed: parameters["displayed"].as_bool().unwrap_or(true),
            answered: parameters["answered"].as_f64().unwrap_or(0.0),
            alone: parameters["alone"].as_bool().unwrap_or(false),
        },
        // The server needs the other cores.
        threads: 1,
    })
}

fn history_error(error: Error) -> HistoryError {
    match error.kind() {
        ErrorKind::Refused => HistoryError::Trimmed(error.into()),
        ErrorKind::Unreachable => HistoryError::Unreachable(error.into()),
        ErrorKind::Usage | ErrorKind::Failed => HistoryError::Failed(error.into()),
    }
}
