//! What every reader of a log gives: records from an offset on.

use std::time::{Duration, Instant};

use crate::error::Error;
use crate::record::{Record, TopicPartition};
use askwhen_process::thread::Notify;

/// How long [`Fetch::read_or_wait`] waits for a record that should be there.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a scan reads at a time.
const SCAN_BYTES: usize = 1 << 20;

/// What one read gave.
#[derive(Debug, Clone, Default)]
pub struct FetchBatch {
    pub records: Vec<Record>,
    /// One past the last record that is known to be in the log.
    pub end: u64,
    /// Whether the records reach that end, as last heard.
    pub at_end: bool,
}

pub trait Fetch {
    /// The records from an offset on that are there now. A notification comes when
    /// there are more.
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

    /// Hands all records from an offset up to an end that was seen to `each`.
    /// Blocks until it is through.
    ///
    /// # Errors
    /// As [`Fetch::read_or_wait`], and what `each` says.
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
                // What is left are gaps.
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
