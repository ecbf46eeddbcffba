//! Gauges of the memory that tables of partitions take.

use prometheus::IntGauge;

/// The part of one partition in a gauge over all partitions. Dropping it subtracts the part.
pub struct Gauge {
    all: &'static IntGauge,
    reported: i64,
}

impl Gauge {
    pub fn of(all: &'static IntGauge) -> Gauge {
        Gauge { all, reported: 0 }
    }

    pub fn set(&mut self, bytes: usize) {
        let change = bytes as i64 - self.reported;
        self.reported += change;
        self.all.add(change);
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        self.all.sub(self.reported);
    }
}
