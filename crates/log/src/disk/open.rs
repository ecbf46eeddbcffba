//! Types that real and simulated disks share.

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// To read what is there.
    Read,
    /// For reading and appending; the file must exist.
    Append,
    /// For reading and appending; the file must not exist yet.
    New,
    /// For writing from the beginning; the file becomes empty.
    Replace,
    /// For overwriting bytes in place.
    Rewrite,
}

/// Bytes of the disk that holds a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    pub free_bytes: u64,
    pub total_bytes: u64,
}
