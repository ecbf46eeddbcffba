//! Shares out `[engine] memory`. Most of what grows counts its own bytes and stays
//! within its share. Fragments and short-lived copies are not counted: the process's size
//! is measured, and while it is near the bound, caches shrink.

use std::sync::Arc;

use crate::bridge::{Budget, View};
use crate::config::Config;
use crate::engine::{self, CacheLimit};
use askwhen_log::Log;
use askwhen_store::Shared;

/// Bytes of a process that holds nothing yet: code, stacks, and the stores' metadata of
/// their tables. 60 MiB were measured with eight partitions.
const BASE_BYTES: usize = 64 << 20;
/// Bytes of a connection beside its request and response: buffers of the HTTP library, and
/// its task. It is an estimate: 8,192 unfinished senders and 8,192 idle readers took 140
/// of 512 MiB together.
const CONNECTION_BYTES: usize = 24 << 10;
/// Caches shrink while the process takes more than this part of the bound.
const HIGH_PERCENT: usize = 90;
/// Caches grow again while it takes less than this part.
const LOW_PERCENT: usize = 75;
/// Caches keep at least this part of their share.
const MIN_CACHE_PERCENT: usize = 10;
/// The least and the most bytes of changed users that bring a checkpoint forward.
const CHECKPOINT_BYTES: (usize, usize) = (1 << 20, 32 << 20);

/// How `[engine] memory` is shared out, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryBudget {
    pub total: usize,
    /// Block cache and write buffers of all stores together.
    pub stores: usize,
    /// Decoded users of all partitions together.
    pub users: usize,
    /// Changed users of one partition that bring its next checkpoint forward.
    pub checkpoint: usize,
    /// Request bodies that are being received, and responses that wait to be read.
    pub requests: usize,
    /// Messages that wait in memory or are in flight.
    pub delivery: usize,
    /// How many connections fit into their share; not bytes.
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

/// Keeps the process below its bound. The housekeeping calls it every turn.
pub struct MemoryGovernor {
    budget: MemoryBudget,
    partitions: usize,
    users: CacheLimit,
    stores: Shared,
    requests: Arc<Budget>,
    /// How much of their shares caches may take now.
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

    /// Measures the process and sizes its caches.
    pub fn turn(&mut self, log: &Log, view: &View) {
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
            ("write_buffers", self.stores.buffer_bytes()),
            ("definitions", engine::shared::memory_bytes() + view.memory_bytes()),
            ("log", log.memory_bytes()),
            ("requests", self.requests.used_bytes()),
        ] {
            memory.with_label_values(&[part]).set(bytes as i64);
        }
    }
}

/// Caches shrink in large steps, because the bound is near, and grow in small ones.
fn next_percent(percent: usize, resident: usize, total: usize) -> usize {
    if resident > total / 100 * HIGH_PERCENT {
        (percent * 3 / 4).max(MIN_CACHE_PERCENT)
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
        assert_eq!((percent, next_percent(percent, 80, 100)), (MIN_CACHE_PERCENT, MIN_CACHE_PERCENT));
        for _ in 0..200 {
            percent = next_percent(percent, 10, 100);
        }
        assert_eq!(percent, 100);
    }
}
