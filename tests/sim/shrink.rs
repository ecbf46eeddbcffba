//! From a list of operations that fails to a short one that fails, by leaving
//! out as much as can be left out.

use std::time::{Duration, Instant};

use crate::ops::Op;

/// How long is looked for a shorter list.
const PATIENCE: Duration = Duration::from_secs(60);

/// Delta debugging: stretches are left out, ever shorter ones, as long as
/// `fails` still says so.
pub fn shrink(ops: &[Op], mut fails: impl FnMut(&[Op]) -> bool) -> Vec<Op> {
    let begun = Instant::now();
    let mut ops = ops.to_vec();
    let mut stretch = ops.len().div_ceil(2);
    while stretch > 0 && begun.elapsed() < PATIENCE {
        let mut at = 0;
        let mut shorter = false;
        while at < ops.len() && begun.elapsed() < PATIENCE {
            let end = (at + stretch).min(ops.len());
            let without: Vec<Op> = ops[..at].iter().chain(&ops[end..]).copied().collect();
            if fails(&without) {
                ops = without;
                shorter = true;
            } else {
                at = end;
            }
        }
        stretch = if stretch == 1 && shorter { 1 } else { stretch / 2 };
    }
    ops
}
