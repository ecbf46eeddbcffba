//! The one bound on memory, and who gets what of it. Most of what grows keeps to
//! its share by counting; what counting cannot see (fragments, copies of the
//! moment) is measured: while the process is near its bound, caches shrink.

use std::sync::Arc;

use crate::bridge::Budget;
use crate::config::Config;
use crate::engine::CacheLimit;
use askwhen_store::Shared;

/// What a process takes that holds nothing yet: code, stacks, and what the stores
/// have for each of their tables (measured: 60 MiB with eight partitions).
const BASE_BYTES: usize = 64 << 20;
/// What a connection takes beside its request and answer: the buffers of the
/// HTTP library, its task. Reckoned, not measured alone: 8,192 unfinished senders
/// and 8,192 who read nothing took 140 of 512 MiB in all.
const CONNECTION_BYTES: usize = 24 << 10;
/// Above this part of the bound, caches shrink; below the other, they grow again.
const HIGH_PERCENT: usize = 90;
const LOW_PERCENT: usize = 75;
/// Caches keep at least this part of their share, in percent.
const LEAST_PERCENT: usize = 10;
/// Changed users of a partition that bring its next checkpoint forward.
const CHECKPOINT_BYTES: (usize, usize) = (1 << 20, 32 << 20);

/// How `[engine] memory` is shared out, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryBudget {
    pub total: usize,
    /// Blocks and write buffers of all stores together.
    pub stores: usize,
    /// Decoded users, all partitions together.
    pub users: usize,
    /// Changed users of one partition that bring its next checkpoint forward.
    pub checkpoint: usize,
    /// Requests that come in and answers that wait to be read.
    pub requests: usize,
    /// Messages that wait in memory or are under way.
    pub delivery: usize,
    /// Places for connections that this pays for.
    pub connections: usize,
}

impl MemoryBudget {
    pub fn of(config: &Config) -> MemoryBudget {
        let total = config.memory;
        let rest = total.saturating_sub(BASE_BYTES).max(total / 4);
        let users = rest / 100 * 25;
        let (least, most) = CHECKPOINT_BYTES;
        MemoryBudget {
            total,
            stores: rest / 100 * 30,
            users,
            checkpoint: (users / (2 * config.partitions.max(1) as usize)).clamp(least, most),
            requests: rest / 100 * 10,
            delivery: rest / 100 * 10,
            connections: rest / 100 * 10 / CONNECTION_BYTES,
        }
    }
}

/// Keeps the process below its bound; asked every turn of the housekeeping.
pub struct MemoryGovernor {
    budget: MemoryBudget,
    partitions: usize,
    users: CacheLimit,
    stores: Shared,
    requests: Arc<Budget>,
    /// Of their shares, what caches may have now.
    percent: usize,
}

impl MemoryGovernor {
    pub fn new(
        budget: MemoryBudget,
        partitions: u32,
        users: CacheLimit,
        stores: Shared,
        requests: Arc<Budget>,
    ) -> MemoryGovernor {
        let governor =
            MemoryGovernor { budget, partitions: partitions as usize, users, stores, requests, percent: 100 };
        governor.apply();
        governor
    }

    fn apply(&self) {
        self.users.set(self.budget.users / 100 * self.percent / self.partitions.max(1));
        self.stores.set_capacity(self.budget.stores / 100 * self.percent);
    }

    /// Measures and adjusts.
    pub fn turn(&mut self) {
        let resident = askwhen_process::resident_bytes();
        let percent = next_percent(self.percent, resident, self.budget.total);
        if percent != self.percent {
            self.percent = percent;
            self.apply();
        }
        let memory = &askwhen_process::metrics::get().memory_bytes;
        for (part, bytes) in [
            ("bound", self.budget.total),
            ("resident", resident),
            ("stores", self.stores.memory_bytes()),
            ("requests", self.requests.used_bytes()),
        ] {
            memory.with_label_values(&[part]).set(bytes as i64);
        }
    }
}

/// Down in large steps, up in small ones.
fn next_percent(percent: usize, resident: usize, total: usize) -> usize {
    if resident > total / 100 * HIGH_PERCENT {
        (percent * 3 / 4).max(LEAST_PERCENT)
    } else if resident < total / 100 * LOW_PERCENT {
        (percent + 1).min(100)
    } else {
        percent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_stay_within_the_whole() {
        for memory in ["128MiB", "512MiB", "8GiB"] {
            let flag = [("ASKWHEN__ENGINE__MEMORY".to_owned(), memory.to_owned())];
            let config = crate::config::load(None, flag, &crate::config::Overrides::default()).unwrap();
            let budget = MemoryBudget::of(&config);
            let connections = budget.connections * CONNECTION_BYTES;
            let shared = budget.stores + budget.users + budget.requests + budget.delivery + connections;
            assert!(shared + BASE_BYTES / 2 <= budget.total, "{budget:?}");
            assert!(budget.requests > 2 << 20 && budget.connections > 256, "{budget:?}");
        }
    }

    #[test]
    fn caches_shrink_near_the_bound_and_grow_again() {
        let mut percent = 100;
        for _ in 0..20 {
            percent = next_percent(percent, 95, 100);
        }
        assert_eq!((percent, next_percent(percent, 80, 100)), (LEAST_PERCENT, LEAST_PERCENT));
        for _ in 0..200 {
            percent = next_percent(percent, 10, 100);
        }
        assert_eq!(percent, 100);
    }
}
