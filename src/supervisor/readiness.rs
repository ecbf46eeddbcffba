//! Whether this process can do its work, and if not, why not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::console::Console;
use crate::delivery::{self, HoldReason};
use askwhen_log::Log;
use askwhen_partition::Phase;
use askwhen_process::thread::stuck_threads;

/// What readiness depends on.
pub struct Readiness {
    pub log: Log,
    pub engine: Vec<Arc<askwhen_partition::Status>>,
    pub delivery: Arc<delivery::Status>,
    pub console: Option<Arc<Console>>,
    pub groups: Vec<GroupMembership>,
    pub ending: Arc<AtomicBool>,
}

/// The consumer group of a role.
pub struct GroupMembership {
    pub role: &'static str,
    /// Whether the group counts this process in.
    pub joined: Arc<AtomicBool>,
}

impl Readiness {
    /// Why the process is not ready; empty when it is.
    pub fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.ending.load(Ordering::Acquire) {
            reasons.push("the process is stopping".to_owned());
        }
        if let Err(error) = self.log.is_writable() {
            reasons.push(error.to_string());
        }
        reasons.extend(self.log.faults());
        reasons.extend(stuck_threads());
        for GroupMembership { role, joined } in &self.groups {
            if !joined.load(Ordering::Acquire) {
                reasons.push(format!("the {role} is not in its group"));
            }
        }
        for (partition, status) in self.engine.iter().enumerate() {
            reasons.extend(reason("engine", partition, status));
        }
        for (partition, status) in self.delivery.partitions.iter().enumerate() {
            reasons.extend(reason("delivery", partition, status));
        }
        let mut lasting: Vec<HoldReason> =
            self.delivery.held().iter().map(|held| held.reason).filter(|reason| reason.is_lasting()).collect();
        lasting.sort_unstable();
        for of_one in lasting.chunk_by(|a, b| a == b) {
            let (count, name, advice) = (of_one.len(), of_one[0].name(), of_one[0].advice());
            reasons.push(format!("nothing can be sent to {count} endpoints ({name}): {advice}"));
        }
        reasons
    }

    /// The partitions that this process owns, by role, which sources of their state
    /// were passed over because they were not sound, and how the lists are.
    pub fn owned(&self) -> serde_json::Value {
        let owned = |statuses: &[Arc<askwhen_partition::Status>]| -> Vec<usize> {
            let here = statuses.iter().enumerate().filter(|(_, status)| status.phase() != Phase::NotOwned);
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
        let mut all = serde_json::json!({
            "engine": owned(&self.engine),
            "delivery": owned(&self.delivery.partitions),
            "passed_over": passed_over,
        });
        if let Some(console) = &self.console {
            // Lists that are made once more say how far they are.
            all["console"] = match console.is_whole() {
                Ok(()) => "whole".into(),
                Err(left) => serde_json::json!({"records_to_go": left}),
            };
        }
        all
    }
}

fn reason(role: &str, partition: usize, status: &askwhen_partition::Status) -> Option<String> {
    match status.phase() {
        Phase::NotOwned => None,
        Phase::Opening(what) => Some(format!("{role} partition {partition}: {what}")),
        Phase::Stopped { why, .. } => Some(format!("{role} partition {partition} has stopped: {why}")),
        Phase::Running => {
            let (next, goal) = (status.next.load(Ordering::Acquire), status.goal.load(Ordering::Acquire));
            (next < goal).then(|| format!("{role} partition {partition} is catching up: {} records to go", goal - next))
        }
    }
}
