//! The reader interface of all logs.

use std::time::{Duration, Instant};

use crate::error::Error;
use crate::record::{Record, TopicPartition};
use askwhen_process::thread::Notify;

/// How long [`Fetch::read_or_wait`] waits for a record that should be there.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes that a scan reads at a time.
const SCAN_BYTES: usize = 1 << 20;

/// The result of one read.
#[derive(Debug, Clone, Default)]
pub struct FetchBatch {
    pub records: Vec<Record>,
    /// One past the last record that is known to be in the log.
    pub end: u64,
    /// Whether the records reach `end`, as far as is known.
    pub at_end: bool,
}

pub trait Fetch {
    /// The records from an offset on that are there now. A notification follows when there
    /// are more.
    ///
    /// # Errors
    /// As [`crate::Log::read`].
    fn read(&mut self, at: TopicPartition, from: u64, max_bytes: usize) -> Result<FetchBatch, Error>;

    /// Notified when there is more to read.
    fn notify(&self) -> &Notify;

    /// As [`Fetch::read`], but empty only at the end.
    ///
    /// # Errors
    /// As [`Fetch::read`]; [`Error::Unavailable`] when nothing comes for half a minute.
    fn read_or_wait(&mut self, at: TopicPartition, from: u64, max_bytes: usize) -> Result<FetchBatch, Error> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let chunk = self.read(at, from, max_bytes)?;
            if !chunk.records.is_empty() || chunk.at_end {
                return Ok(chunk);
            }
            if Instant::now() >= deadline {
                return Err(Error::Unavailable(format!(
                    "{at} gives nothing from {from} on for {} s",
                    PATIENCE.as_secs()
                )));
            }
            self.notify().wait(Duration::from_millis(100));
        }
    }

    /// Passes all records from an offset up to a known end to `each`. Blocks until it is
    /// done.
    ///
    /// # Errors
    /// As [`Fetch::read_or_wait`], and errors of `each`.
    fn scan<E: From<Error>>(
        &mut self,
        at: TopicPartition,
        from: u64,
        end: u64,
        mut each: impl FnMut(Record) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut next = from;
        while next < end {
            let chunk = self.read_or_wait(at, next, SCAN_BYTES)?;
            if chunk.records.is_empty() {
                // The rest are offsets without records.
                return Ok(());
            }
            for record in chunk.records {
                next = record.offset + 1;
                if record.offset < end {
                    each(record)?;
                }
            }
        }
        Ok(())
    }
}
