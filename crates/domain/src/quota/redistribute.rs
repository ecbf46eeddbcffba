//! Quotas for another number of partitions.

use std::collections::BTreeMap;

use super::allocator::QuotaAllocator;
use super::coordinator::QuotaCoordinator;
use super::lease::QuotaLease;
use super::message::COORDINATOR_PARTITION;
use crate::refs::SurveyKey;
use crate::time::Millis;

/// How many grants offers hold, by quota and by the time at which they lapse.
pub type Holds = BTreeMap<SurveyKey, BTreeMap<Millis, u64>>;

/// Distributes quotas over another number of partitions. `leases` are those of all old
/// partitions; `holds` has, for each new partition, the grants that its users hold. All
/// used grants are counted in the lease of the coordinator's partition.
pub fn redistribute(
    leases: impl IntoIterator<Item = (SurveyKey, QuotaLease)>,
    holds: Vec<Holds>,
) -> Vec<QuotaAllocator> {
    let mut all: BTreeMap<SurveyKey, QuotaLease> = BTreeMap::new();
    for (key, lease) in leases {
        let sum = all.entry(key).or_default();
        (sum.epoch, sum.limit) = (sum.epoch, sum.limit).max((lease.epoch, lease.limit));
        sum.used += lease.used;
    }
    let partitions = holds.len() as u32;
    let mut allocators: Vec<QuotaAllocator> =
        (0..partitions).map(|partition| QuotaAllocator::new(partition, partitions)).collect();
    for (key, sum) in all {
        let mut out = Vec::new();
        for (allocator, holds) in allocators.iter_mut().zip(&holds) {
            let used = if allocator.partition() == COORDINATOR_PARTITION { sum.used } else { 0 };
            let holds = holds.get(&key).cloned().unwrap_or_default();
            let lease =
                QuotaLease { epoch: sum.epoch, limit: sum.limit, used, holds, scarce: true, ..QuotaLease::default() };
            out.push(lease.used_or_held());
            allocator.install(key.clone(), lease);
        }
        if let Some(limit) = sum.limit {
            let coordinator = QuotaCoordinator::reported(sum.epoch, limit, out, sum.used);
            allocators[COORDINATOR_PARTITION as usize].restore(key, None, Some(coordinator));
        }
    }
    allocators
}
