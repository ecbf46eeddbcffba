//! Whether this process can do its work, and if not, why not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::actor::{self, Phase};
use crate::delivery;
use crate::log::Log;

/// What readiness looks at.
pub struct Readiness {
    pub log: Log,
    pub engine: Vec<Arc<actor::Status>>,
    pub delivery: Arc<delivery::Status>,
    /// Set once the group of a role has taken this process in.
    pub joined: Vec<(&'static str, Arc<AtomicBool>)>,
    pub ending: Arc<AtomicBool>,
}

impl Readiness {
    /// Reasons against; empty when ready.
    pub fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.ending.load(Ordering::Acquire) {
            reasons.push("the process is stopping".to_owned());
        }
        if let Err(error) = self.log.is_writable() {
            reasons.push(error.to_string());
        }
        for (role, joined) in &self.joined {
            if !joined.load(Ordering::Acquire) {
                reasons.push(format!("the {role} has not joined its group yet"));
            }
        }
        for (partition, status) in self.engine.iter().enumerate() {
            reasons.extend(reason("engine", partition, status));
        }
        for (partition, status) in self.delivery.partitions.iter().enumerate() {
            reasons.extend(reason("delivery", partition, status));
        }
        reasons
    }

    /// The partitions that this process owns, by role, and which sources of their
    /// state were passed over because they were not sound.
    pub fn owned(&self) -> serde_json::Value {
        let owned = |statuses: &[Arc<actor::Status>]| -> Vec<usize> {
            let here = statuses.iter().enumerate().filter(|(_, status)| status.phase() != Phase::Elsewhere);
            here.map(|(partition, _)| partition).collect()
        };
        let roles = [("engine", &self.engine), ("delivery", &self.delivery.partitions)];
        let passed_over: Vec<serde_json::Value> = roles
            .into_iter()
            .flat_map(|(role, statuses)| statuses.iter().enumerate().map(move |(n, status)| (role, n, status)))
            .map(|(role, partition, status)| (role, partition, status.passed_over()))
            .filter(|(.., reasons)| !reasons.is_empty())
            .map(|(role, partition, reasons)| {
                serde_json::json!({"role": role, "partition": partition, "reasons": reasons})
            })
            .collect();
        serde_json::json!({
            "engine": owned(&self.engine),
            "delivery": owned(&self.delivery.partitions),
            "passed_over": passed_over,
        })
    }
}

fn reason(role: &str, partition: usize, status: &actor::Status) -> Option<String> {
    match status.phase() {
        Phase::Elsewhere => None,
        Phase::Opening(what) => Some(format!("{role} partition {partition}: {what}")),
        Phase::Stopped { why, .. } => Some(format!("{role} partition {partition} has stopped: {why}")),
        Phase::Running => {
            let (next, goal) = (status.next.load(Ordering::Acquire), status.goal.load(Ordering::Acquire));
            (next < goal).then(|| format!("{role} partition {partition} is catching up: {} records to go", goal - next))
        }
    }
}
