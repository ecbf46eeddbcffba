//! Manifests of backups, in the formats of all versions from 0.1.0 on.

use serde::{Deserialize, Serialize};
use serde_json::json;

use askwhen_domain::webhook::endpoint::SealedSecret;
use askwhen_store::bucket::{Bucket, Object, Stored};
use askwhen_store::snapshot::SnapshotRepository;
use askwhen_wire::seal::ClusterKey;
use askwhen_wire::sealed_file::FileKey;
use askwhen_wire::topic::Topic;

/// Format of a backup. In 1, that of 0.1.0, log and state are not sealed.
pub(super) const FORMAT: u32 = 2;
const FIRST_FORMAT: u32 = 1;
const SEALED_SINCE: u32 = 2;
/// The folder of sealed snapshots in the bucket.
pub(super) const STATE: &str = "sealed-state";
/// The folder of snapshots of format 1.
pub(super) const UNSEALED_STATE: &str = "state";

/// What a backup consists of. It is written last: without it there is no backup.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    pub(super) format: u32,
    /// Begins with the time.
    pub name: String,
    pub created_at: String,
    pub(super) program: String,
    /// `embedded` or `kafka`.
    pub log_kind: String,
    pub(super) incarnation: String,
    pub(super) partitions: u32,
    pub(super) log: Vec<BackedUpPartition>,
    /// Names of the snapshots in the bucket.
    pub(super) state: Vec<String>,
    /// The secrets of the data directory.
    pub(super) sealed: SealedSecret,
    /// Shows the owner of the key that nobody else wrote the manifest.
    #[serde(skip)]
    pub(super) mac: Option<String>,
}

/// The copied records of a partition.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct BackedUpPartition {
    pub(super) topic: String,
    pub(super) partition: u32,
    pub(super) end: u64,
    pub(super) segments: Vec<Segment>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Segment {
    pub(super) base: u64,
    /// In the order of their bytes.
    pub(super) chunks: Vec<Chunk>,
}

/// Some bytes of a segment, as an object that is named by its contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Chunk {
    pub(super) bytes: u64,
    pub(super) crc32c: u32,
    pub(super) object: String,
    /// Size and checksum of the sealed object; `None` in format 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) stored: Option<Stored>,
}

impl Chunk {
    pub(super) fn object(&self) -> Object<'_> {
        Object { name: &self.object, bytes: self.bytes, crc32c: self.crc32c, stored: self.stored }
    }
}

/// A manifest as it is stored.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredManifest {
    /// Checksum of the manifest as JSON without spaces.
    pub(super) crc32c: u32,
    /// MAC of the same text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) mac: Option<String>,
    pub(super) manifest: Manifest,
}

/// The members of a stored manifest that every version can read.
#[derive(Deserialize)]
pub(super) struct AnyVersion {
    pub(super) manifest: AnyManifest,
}

#[derive(Deserialize)]
pub(super) struct AnyManifest {
    pub(super) format: u32,
    #[serde(default)]
    pub(super) program: String,
}

/// Why the manifest of a backup cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ManifestError {
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error(
        "it is of format {format}, made by askwhen {program}, and this is askwhen {}, which reads {FIRST_FORMAT} to \
         {FORMAT}",
        env!("CARGO_PKG_VERSION")
    )]
    OtherFormat { format: u32, program: String },
    #[error("it is not as it was written")]
    Checksum,
    /// Its file has the name of one backup, and it names another.
    #[error("it is of another backup")]
    OtherBackup,
}

impl StoredManifest {
    /// Reads the manifest of a backup of any version from 0.1.0 on up to this
    /// program's own.
    ///
    /// # Errors
    /// What is wrong with it; of a later version, both versions.
    pub(super) fn read(bytes: &[u8]) -> Result<Manifest, ManifestError> {
        let AnyManifest { format, program } = serde_json::from_slice::<AnyVersion>(bytes)?.manifest;
        if !(FIRST_FORMAT..=FORMAT).contains(&format) {
            return Err(ManifestError::OtherFormat { format, program });
        }
        let checked: StoredManifest = serde_json::from_slice(bytes)?;
        if checked.crc32c != checked.manifest.crc32c() {
            return Err(ManifestError::Checksum);
        }
        Ok(Manifest { mac: checked.mac, ..checked.manifest })
    }
}

impl Manifest {
    pub(super) fn text(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a manifest serialises")
    }

    pub(super) fn crc32c(&self) -> u32 {
        crc32c::crc32c(&self.text())
    }

    pub(super) fn is_sealed(&self) -> bool {
        self.format >= SEALED_SINCE
    }

    /// The snapshots of the backup, which are opened with the key.
    pub(super) fn repository(&self, bucket: &Bucket, key: Option<&ClusterKey>) -> SnapshotRepository {
        let place = bucket.below(if self.is_sealed() { STATE } else { UNSEALED_STATE });
        SnapshotRepository::in_bucket(match key.filter(|_| self.is_sealed()) {
            Some(key) => place.sealed(FileKey::of(key)),
            None => place,
        })
    }

    pub(super) fn chunks(&self) -> impl Iterator<Item = &Chunk> {
        self.log.iter().flat_map(|part| &part.segments).flat_map(|segment| &segment.chunks)
    }

    pub fn bytes(&self) -> u64 {
        self.chunks().map(|chunk| chunk.bytes).sum()
    }

    /// The JSON that `askwhen backup` prints.
    pub fn summary(&self) -> serde_json::Value {
        let ends = self.log.iter().filter(|part| part.topic == Topic::Events.name());
        json!({
            "name": self.name,
            "created_at": self.created_at,
            "log_kind": self.log_kind,
            "partitions": self.partitions,
            "journal_records": ends.map(|part| part.end).sum::<u64>(),
            "log_bytes": self.bytes(),
            "snapshots": self.state.len(),
        })
    }
}
