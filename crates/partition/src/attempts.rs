//! Notes which records a process was applying when it died: a few bytes beside the state,
//! written before and after each batch, so that a record that kills the process is found.
//! They are not synced: they survive the death of the process, and the death of the machine
//! is not a record's fault.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::checkpoint::PROGRAM;

/// How many deaths of the process at one record stop its partition.
pub const MAX_DEATHS: u8 = 3;

const APPLYING: u8 = 1;
/// The current batch: first offset, end, and whether it is being applied.
const CURRENT_BYTES: usize = 17;
/// Offset in the file of the suspect records: first offset, end, deaths.
const SUSPECT_AT: u64 = 24;
const SUSPECT_BYTES: usize = 17;
/// Offset in the file of the version that died: another version may not die.
const PROGRAM_AT: u64 = 48;

/// A range of records, one of which has killed the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SuspectRecords {
    from: u64,
    to: u64,
    deaths: u8,
}

/// Bits of an offset in notes that are about several topics.
const OFFSET_BITS: u32 = 48;

/// A record's place for notes that are about several logs at once, one after the other: the
/// number of its log stands above its offset.
pub fn place(log: u16, offset: u64) -> u64 {
    u64::from(log) << OFFSET_BITS | offset
}

/// The notes of one reader of records: about one partition, or, by [`place`], several.
#[derive(Debug, Default)]
pub struct Attempts {
    /// `None` where no notes are kept: in tests, and when state is in memory only.
    file: Option<File>,
    suspect: Option<SuspectRecords>,
}

fn region(from: u64, to: u64, last: u8) -> [u8; CURRENT_BYTES] {
    let mut bytes = [0; CURRENT_BYTES];
    bytes[..8].copy_from_slice(&from.to_le_bytes());
    bytes[8..16].copy_from_slice(&to.to_le_bytes());
    bytes[16] = last;
    bytes
}

fn read(bytes: &[u8]) -> (u64, u64, u8) {
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    (number(0), number(8), bytes[16])
}

impl Attempts {
    /// Reads what the previous process was applying and counts its death.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn open(path: &Path) -> io::Result<Attempts> {
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(path)?;
        let program = crc32c::crc32c(PROGRAM.as_bytes()).to_le_bytes();
        let mut bytes = [0; PROGRAM_AT as usize + 4];
        let mut filled = 0;
        while filled < bytes.len() {
            match file.read_at(&mut bytes[filled..], filled as u64)? {
                0 => break,
                count => filled += count,
            }
        }
        let (from, to, state) = read(&bytes[..CURRENT_BYTES]);
        let (suspect_from, suspect_to, deaths) = read(&bytes[SUSPECT_AT as usize..][..SUSPECT_BYTES]);
        let same_program = bytes[PROGRAM_AT as usize..] == program;
        let before =
            (deaths > 0 && same_program).then_some(SuspectRecords { from: suspect_from, to: suspect_to, deaths });
        file.write_all_at(&program, PROGRAM_AT)?;
        let mut attempts = Attempts { file: Some(file), suspect: before };
        if state == APPLYING {
            // The range shrinks with each death; the deaths belong to the one record in it.
            let same = before.filter(|suspect| suspect.from <= from && to <= suspect.to);
            let deaths = same.map_or(1, |suspect| suspect.deaths.saturating_add(1));
            attempts.suspect = Some(SuspectRecords { from, to, deaths });
            attempts.write_suspect()?;
            attempts.end(from)?;
        } else if !same_program {
            attempts.write_suspect()?;
        }
        Ok(attempts)
    }

    fn write_suspect(&self) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let SuspectRecords { from, to, deaths } = self.suspect.unwrap_or(SuspectRecords { from: 0, to: 0, deaths: 0 });
        file.write_all_at(&region(from, to, deaths), SUSPECT_AT)
    }

    /// The offset of the record that killed the process [`MAX_DEATHS`] times.
    pub fn poison(&self) -> Option<u64> {
        self.suspect.filter(|s| s.deaths >= MAX_DEATHS && s.to == s.from + 1).map(|s| s.from)
    }

    /// The end of a batch that begins at `next`: suspect records are applied one at a time.
    pub fn limit(&self, next: u64) -> u64 {
        match self.suspect {
            Some(suspect) if next < suspect.from => suspect.from,
            Some(suspect) if next < suspect.to => next + 1,
            _ => u64::MAX,
        }
    }

    /// Notes that the records from `from` up to `to` are being applied.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn begin(&self, from: u64, to: u64) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        file.write_all_at(&region(from, to, APPLYING), 0)
    }

    /// Notes that nothing is being applied any more: it failed, and the process did not die.
    pub fn forgive(&self) {
        if let Some(file) = &self.file
            && let Err(error) = file.write_all_at(&[0], CURRENT_BYTES as u64 - 1)
        {
            tracing::warn!(%error, "a note of what was being applied stays");
        }
    }

    /// Notes that everything of its log below `next` is applied.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn end(&mut self, next: u64) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        file.write_all_at(&[0], CURRENT_BYTES as u64 - 1)?;
        // Of another log nothing is known by it.
        let is_of = |suspect: SuspectRecords| suspect.from >> OFFSET_BITS == next.saturating_sub(1) >> OFFSET_BITS;
        if self.suspect.is_some_and(|suspect| next >= suspect.to && is_of(suspect)) {
            self.suspect = None;
            self.write_suspect()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Opens the note again and again; each time the process dies at `poison`,
    /// or at nothing. Returns what is known at the end.
    fn deaths(path: &Path, checkpoint: u64, poison: u64, times: u32) -> Attempts {
        for _ in 0..times {
            let mut attempts = Attempts::open(path).expect("a file");
            let mut next = checkpoint;
            'life: while attempts.poison() != Some(next) {
                let to = attempts.limit(next).min(next + 10);
                attempts.begin(next, to).expect("written");
                if (next..to).contains(&poison) {
                    break 'life;
                }
                attempts.end(to).expect("written");
                next = to;
            }
        }
        Attempts::open(path).expect("a file")
    }

    #[test]
    fn the_third_death_at_a_record_names_it() {
        let folder = tempfile::tempdir().expect("a folder");
        for (n, poison) in [3_u64, 0, 9, 10, 47].into_iter().enumerate() {
            let path = folder.path().join(n.to_string());
            assert_eq!(deaths(&path, 0, poison, 1).poison(), None, "one");
            // The note of the first is still there.
            assert_eq!(deaths(&path, 0, poison, 1).poison(), None, "two");
            assert_eq!(deaths(&path, 0, poison, 1).poison(), Some(poison), "three");
        }
    }

    #[test]
    fn what_is_read_of_another_log_clears_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("attempt");
        for _ in 0..MAX_DEATHS {
            let mut attempts = Attempts::open(&path).expect("a file");
            for (log, next) in [(0, 1_000), (2, 30), (7, 1)] {
                attempts.begin(place(log, 0), place(log, next)).expect("written");
                attempts.end(place(log, next)).expect("written");
            }
            attempts.begin(place(1, 17), attempts.limit(place(1, 17)).min(place(1, 40))).expect("written");
        }
        let attempts = Attempts::open(&path).expect("a file");
        assert_eq!(attempts.poison(), Some(place(1, 17)));
        assert_eq!(attempts.limit(place(0, 5)), place(1, 17));
        assert_eq!(attempts.limit(place(2, 5)), u64::MAX);
    }

    #[test]
    fn deaths_elsewhere_are_no_records_fault() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("attempt");
        for round in 0..10 {
            // Killed each time while another batch is applied.
            let attempts = deaths(&path, 100 * round, 100 * round + 5, 1);
            assert_eq!(attempts.poison(), None);
        }
        let mut attempts = Attempts::open(&path).expect("a file");
        attempts.begin(905, 906).expect("written");
        attempts.end(910).expect("written");
        for _ in 0..5 {
            // Killed while it rests.
            let attempts = Attempts::open(&path).expect("a file");
            assert_eq!((attempts.poison(), attempts.limit(0)), (None, u64::MAX));
        }
    }
}
