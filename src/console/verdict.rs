//! The outcome of a decision for each survey that it considered.

use askwhen_wire::topics::DecisionRecord;
use askwhen_wire::topics::decision::EvaluationRecord;

pub const CONSIDERED: &str = "considered";
pub const OFFERED: &str = "offered";
/// Prefix of a counter, followed by the gate.
pub const NOT_OFFERED: &str = "not_offered.";

/// By survey id that a decision considered, the counter of the outcome.
pub fn verdicts(decision: &DecisionRecord) -> Vec<(String, String)> {
    let offered = decision.survey.as_ref().map(|survey| survey.survey_id.as_str());
    let verdict = |evaluation: &EvaluationRecord| {
        let ending = match &evaluation.gate {
            Some(gate) => format!("{}{gate}", NOT_OFFERED),
            None if offered == Some(&evaluation.survey_id) => OFFERED.to_owned(),
            // It would have been offered, but for its status.
            None => format!("{}shadow", NOT_OFFERED),
        };
        (evaluation.survey_id.clone(), ending)
    };
    decision.evaluations.iter().map(verdict).collect()
}
