//! The result of a backtest over all partitions, and its JSON.

use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use super::plan::{Assumptions, Plan, Version};
use super::tally::{Counts, OtherSurveyImpact, Tally};
use askwhen_domain::time::{self, Millis};

/// The counts of one version.
#[derive(Debug, Clone)]
pub struct VersionResult {
    pub name: String,
    /// The surveys that were tried, in their order.
    pub surveys: Vec<(String, Counts)>,
    /// The effect on every survey that was not tried, by its id.
    pub beside: BTreeMap<String, OtherSurveyImpact>,
}

#[derive(Debug, Clone)]
pub struct Outcome {
    pub project: String,
    pub from: Millis,
    /// The end of the plan, or the time of the last record where the plan has none.
    pub to: Millis,
    pub assumptions: Assumptions,
    pub versions: Vec<VersionResult>,
    /// Journal records that were read.
    pub records: u64,
    /// Those among them that were appended at `from` or later.
    pub tried_records: u64,
    /// How many partitions began with a snapshot.
    pub from_snapshots: u32,
    pub partitions: u32,
    pub took: Duration,
    /// How long all threads together read the journal.
    pub read_in: Duration,
    pub threads: usize,
}

/// The counts of all groups of partitions.
pub(super) struct BacktestTotals {
    pub(super) versions: Vec<VersionResult>,
    pub(super) records: u64,
    pub(super) tried_records: u64,
    pub(super) last_at: Millis,
    pub(super) read_in: Duration,
}

impl BacktestTotals {
    pub(super) fn new(plan: &Plan) -> BacktestTotals {
        let fared = |version: &Version| VersionResult {
            name: version.name.clone(),
            surveys: version.surveys.iter().map(|s| (s.survey_id.clone(), Counts::default())).collect(),
            beside: BTreeMap::new(),
        };
        let versions = plan.versions.iter().map(fared).collect();
        BacktestTotals { versions, records: 0, tried_records: 0, last_at: 0, read_in: Duration::ZERO }
    }

    /// Adds what a group of partitions has counted: as it was, and by version.
    pub(super) fn take(&mut self, base: &Tally, tried_tallies: &[Tally], plan: &Plan) {
        for (v, fared) in self.versions.iter_mut().enumerate() {
            let tried: HashSet<String> = plan.versions[v].surveys.iter().map(|s| s.survey_id.clone()).collect();
            let counts = tried_tallies[v].counts();
            for (id, own) in &mut fared.surveys {
                own.add(counts.get(id).unwrap_or(&Counts::default()));
            }
            for (id, beside) in tried_tallies[v].beside(base, &tried) {
                fared.beside.entry(id).or_default().add(&beside);
            }
        }
    }

    pub(super) fn add(&mut self, other: BacktestTotals) {
        self.records += other.records;
        self.tried_records += other.tried_records;
        self.last_at = self.last_at.max(other.last_at);
        self.read_in += other.read_in;
        for (own, other) in self.versions.iter_mut().zip(other.versions) {
            for ((_, own), (_, other)) in own.surveys.iter_mut().zip(&other.surveys) {
                own.add(other);
            }
            for (id, beside) in &other.beside {
                own.beside.entry(id.clone()).or_default().add(beside);
            }
        }
    }
}

impl Outcome {
    /// As scripts and reports read it.
    pub fn json(&self) -> Value {
        let others = |fared: &VersionResult| -> Vec<Value> {
            let touched = fared.beside.iter().filter(|(_, b)| **b != OtherSurveyImpact::default());
            touched.map(|(id, beside)| with_id(id, json!(beside))).collect()
        };
        let version = |fared: &VersionResult| {
            json!({
                "name": fared.name,
                "surveys": fared.surveys.iter().map(|(id, counts)| with_id(id, json!(counts))).collect::<Vec<_>>(),
                "others": if self.assumptions.alone { Vec::new() } else { others(fared) },
            })
        };
        let seconds = self.took.as_secs_f64().max(1e-9);
        let reading = (self.read_in.as_secs_f64() / self.threads as f64).max(1e-9);
        json!({
            "project": self.project,
            "from": time::format_time(self.from),
            "to": time::format_time(self.to),
            "assumed": {
                "displayed": self.assumptions.displayed,
                "answered": self.assumptions.answered,
                "alone": self.assumptions.alone,
            },
            "versions": self.versions.iter().map(version).collect::<Vec<_>>(),
            "records": self.records,
            "records_tried": self.tried_records,
            "partitions": self.partitions,
            "begun_with_snapshots": self.from_snapshots,
            "seconds": (seconds * 1e3).round() / 1e3,
            "records_per_second": (self.records as f64 / seconds).round(),
            "records_per_second_read_alone": (self.records as f64 / reading).round(),
        })
    }
}

fn with_id(survey_id: &str, mut value: Value) -> Value {
    let mut members = serde_json::Map::from_iter([("survey_id".to_owned(), survey_id.into())]);
    members.append(value.as_object_mut().unwrap_or(&mut serde_json::Map::new()));
    members.into()
}
