//! The positions of the old journal's records in the new one, in files, because a journal
//! may have more records than fit in memory.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use askwhen_domain::id::RecordPosition;
use askwhen_wire::topics::Source;

/// Partition, checksum, offset, each little-endian.
const ENTRY_BYTES: usize = 16;
/// Marks a record that was not copied.
const NOWHERE: u32 = u32::MAX;

/// Written in the order of each old partition, then read.
pub struct JournalPlaces(Vec<PartitionPlaces>);

struct PartitionPlaces {
    first: u64,
    next: u64,
    /// The file is unlinked as soon as it is open, so that nothing is left however the
    /// export ends.
    file: BufWriter<File>,
}

impl JournalPlaces {
    /// For partitions that begin at these offsets.
    ///
    /// # Errors
    /// When the files cannot be created in `dir`.
    pub fn new(dir: &Path, firsts: &[u64]) -> std::io::Result<JournalPlaces> {
        let part = |first: &u64| {
            let path = dir.join(format!("places-{}", uuid::Uuid::now_v7().simple()));
            let file = File::options().read(true).write(true).create_new(true).open(&path)?;
            std::fs::remove_file(&path)?;
            Ok(PartitionPlaces { first: *first, next: *first, file: BufWriter::new(file) })
        };
        firsts.iter().map(part).collect::<std::io::Result<_>>().map(JournalPlaces)
    }

    /// Notes the position of a record; those of a partition in order.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn note(&mut self, from: RecordPosition, to: Source) -> std::io::Result<()> {
        let part = &mut self.0[from.partition as usize];
        while part.next < from.offset {
            part.write(Source { partition: NOWHERE, offset: 0, crc: 0 })?;
        }
        part.write(to)
    }

    /// To be called when all are noted.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn finish(&mut self) -> std::io::Result<()> {
        self.0.iter_mut().try_for_each(|part| part.file.flush())
    }

    /// The position of an old record in partition `to`; for one that was not copied, that
    /// of the last one before it that was copied there. `None` when there is none.
    pub fn get_at_or_before(&self, from: RecordPosition, to: u32) -> Option<Source> {
        let part = self.0.get(from.partition as usize)?;
        if from.offset >= part.next {
            return None;
        }
        let own = part.read(from.offset);
        own.or_else(|| {
            let before = (part.first..from.offset).rev();
            before.filter_map(|offset| part.read(offset)).find(|source| source.partition == to)
        })
    }
}

impl PartitionPlaces {
    fn read(&self, offset: u64) -> Option<Source> {
        let index = offset.checked_sub(self.first)?;
        let mut entry = [0; ENTRY_BYTES];
        if offset >= self.next {
            return None;
        }
        self.file.get_ref().read_exact_at(&mut entry, index * ENTRY_BYTES as u64).ok()?;
        let (partition, rest) = entry.split_first_chunk()?;
        let (crc, offset) = rest.split_first_chunk()?;
        let partition = u32::from_le_bytes(*partition);
        let offset = u64::from_le_bytes(offset.try_into().ok()?);
        (partition != NOWHERE).then_some(Source { partition, offset, crc: u32::from_le_bytes(*crc) })
    }

    fn write(&mut self, to: Source) -> std::io::Result<()> {
        let entry = [&to.partition.to_le_bytes()[..], &to.crc.to_le_bytes(), &to.offset.to_le_bytes()].concat();
        self.next += 1;
        self.file.write_all(&entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_that_went_over_is_found_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let mut places = JournalPlaces::new(dir.path(), &[100, 0]).unwrap();
        let at = |partition, offset| RecordPosition { partition, offset };
        let to = |offset| Source { partition: 3, offset, crc: 7 };
        places.note(at(0, 100), to(0)).unwrap();
        places.note(at(1, 2), to(1)).unwrap();
        places.note(at(0, 103), to(2)).unwrap();
        places.finish().unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "no file is left behind");
        for (from, found) in [
            (at(0, 99), None),
            (at(0, 100), Some(to(0))),
            (at(0, 101), None),
            (at(0, 103), Some(to(2))),
            (at(0, 104), None),
            (at(1, 0), None),
            (at(1, 2), Some(to(1))),
            (at(1, 3), None),
            (at(2, 0), None),
        ] {
            assert_eq!(places.get_at_or_before(from, NOWHERE), found, "{from:?}");
        }
        for (from, partition, found) in [
            (at(0, 99), 3, None),
            (at(0, 102), 3, Some(to(0))),
            (at(0, 103), 3, Some(to(2))),
            (at(0, 104), 3, None),
            (at(0, 102), 2, None),
            (at(1, 1), 3, None),
        ] {
            assert_eq!(places.get_at_or_before(from, partition), found, "{from:?} in {partition}");
        }
    }
}
