//! What real and simulated disks are both asked with, and answer.

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// To read what is there.
    Read,
    /// To read and to append; it must be there.
    Append,
    /// To read and to append; it must not be there yet.
    New,
    /// To write from the beginning; what was there is gone.
    Replace,
    /// To write again what is there, in its place.
    Rewrite,
}

/// Bytes of the disk that holds a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    pub free_bytes: u64,
    pub total_bytes: u64,
}
