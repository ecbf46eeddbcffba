//! Encrypted files that nobody without the key can read or change unnoticed: the STREAM
//! construction over XChaCha20-Poly1305. A file is a version byte, 19 bytes that begin its
//! nonces, then pieces of 64 KiB, each with its tag. The last piece is marked, so that a
//! file cannot be cut off, and each file is bound to its name, so that two cannot be
//! exchanged.

use aead_stream::{DecryptorBE32, EncryptorBE32};
use chacha20poly1305::XChaCha20Poly1305;
use chacha20poly1305::aead::Payload;

use super::seal::ClusterKey;

const VERSION: u8 = 1;
const NONCE_BYTES: usize = 19;
const HEAD_BYTES: usize = 1 + NONCE_BYTES;
const PIECE_BYTES: usize = 64 << 10;
const TAG_BYTES: usize = 16;

/// The key of sealed files.
#[derive(Clone)]
pub struct FileKey([u8; 32]);

impl std::fmt::Debug for FileKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FileKey(…)")
    }
}

/// A file that cannot be opened: it was sealed with another key or under another name, or
/// was changed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("it does not open with this key: another key, or not as it was written")]
pub struct NotOpened;

/// The length of a sealed file with so many bytes inside.
pub fn sealed_len(bytes: u64) -> u64 {
    // An empty file has one empty piece.
    let pieces = bytes.div_ceil(PIECE_BYTES as u64).max(1);
    HEAD_BYTES as u64 + bytes + pieces * TAG_BYTES as u64
}

impl FileKey {
    pub fn of(key: &ClusterKey) -> FileKey {
        FileKey(key.derived("files"))
    }

    /// A name derived from the contents; without the key it reveals nothing of them.
    pub fn name_of(key: &ClusterKey, bytes: &[u8]) -> String {
        hex::encode(&key.derived_from("file name", bytes)[..16])
    }

    /// Begins a file. `nonce` must be fresh random bytes, or be derived from the key, the
    /// name and all contents.
    pub fn seal(&self, name: &str, nonce: [u8; NONCE_BYTES]) -> Sealer {
        let stream = EncryptorBE32::new(&self.0.into(), &nonce.into());
        let head = [&[VERSION], nonce.as_slice()].concat();
        Sealer { stream: Some(stream), name: name.to_owned(), waiting: Vec::new(), head }
    }

    /// Seals bytes in memory. The same bytes under the same name give the same file.
    pub fn seal_whole(&self, name: &str, bytes: &[u8]) -> Vec<u8> {
        let own = ClusterKey::new(self.0).derived_from("nonce", &[name.as_bytes(), &[0], bytes].concat());
        let nonce = own[..NONCE_BYTES].try_into().expect("19 of 32 bytes");
        let mut sealer = self.seal(name, nonce);
        let mut sealed = sealer.push(bytes);
        sealed.extend(sealer.finish());
        sealed
    }

    pub fn open(&self, name: &str) -> Opener {
        Opener { key: self.clone(), stream: None, name: name.to_owned(), waiting: Vec::new() }
    }
}

/// Seals a file piece by piece.
pub struct Sealer {
    /// `None` once it is finished.
    stream: Option<EncryptorBE32<XChaCha20Poly1305>>,
    name: String,
    waiting: Vec<u8>,
    head: Vec<u8>,
}

impl Sealer {
    /// Adds bytes; returns the sealed pieces that are complete.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = std::mem::take(&mut self.head);
        self.waiting.extend_from_slice(bytes);
        let mut done = 0;
        // One piece is kept back until it is known whether it is the last, which is marked.
        while self.waiting.len() - done > PIECE_BYTES {
            let payload = Payload { msg: &self.waiting[done..done + PIECE_BYTES], aad: self.name.as_bytes() };
            let stream = self.stream.as_mut().expect("it is not finished");
            out.extend(stream.encrypt_next(payload).expect("a file has fewer than 2^32 pieces"));
            done += PIECE_BYTES;
        }
        self.waiting.drain(..done);
        out
    }

    /// Returns the last piece.
    pub fn finish(mut self) -> Vec<u8> {
        let mut out = self.push(&[]);
        let payload = Payload { msg: &self.waiting, aad: self.name.as_bytes() };
        let stream = self.stream.take().expect("it is finished once");
        out.extend(stream.encrypt_last(payload).expect("a file has fewer than 2^32 pieces"));
        out
    }
}

/// Opens a file piece by piece. Its output is genuine as far as it goes; whether the file
/// is complete is known at the end.
pub struct Opener {
    key: FileKey,
    stream: Option<DecryptorBE32<XChaCha20Poly1305>>,
    name: String,
    waiting: Vec<u8>,
}

impl Opener {
    /// Adds sealed bytes; returns what is open so far.
    ///
    /// # Errors
    /// When they were not sealed with this key under this name.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<u8>, NotOpened> {
        self.waiting.extend_from_slice(bytes);
        let mut done = 0;
        if self.stream.is_none() {
            let Some(head) = self.waiting.get(..HEAD_BYTES) else { return Ok(Vec::new()) };
            if head[0] != VERSION {
                return Err(NotOpened);
            }
            let nonce: [u8; NONCE_BYTES] = head[1..].try_into().expect("19 bytes");
            self.stream = Some(DecryptorBE32::new(&self.key.0.into(), &nonce.into()));
            done = HEAD_BYTES;
        }
        let mut out = Vec::new();
        while self.waiting.len() - done > PIECE_BYTES + TAG_BYTES {
            let piece = &self.waiting[done..done + PIECE_BYTES + TAG_BYTES];
            let payload = Payload { msg: piece, aad: self.name.as_bytes() };
            let stream = self.stream.as_mut().expect("begun above");
            out.extend(stream.decrypt_next(payload).map_err(|_| NotOpened)?);
            done += piece.len();
        }
        self.waiting.drain(..done);
        Ok(out)
    }

    /// Returns the rest.
    ///
    /// # Errors
    /// When the file is not complete.
    pub fn finish(self) -> Result<Vec<u8>, NotOpened> {
        let payload = Payload { msg: &self.waiting, aad: self.name.as_bytes() };
        self.stream.ok_or(NotOpened)?.decrypt_last(payload).map_err(|_| NotOpened)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(key: &FileKey, name: &str, sealed: &[u8], step: usize) -> Result<Vec<u8>, NotOpened> {
        let mut opener = key.open(name);
        let mut out = Vec::new();
        for bytes in sealed.chunks(step) {
            out.extend(opener.push(bytes)?);
        }
        out.extend(opener.finish()?);
        Ok(out)
    }

    #[test]
    fn files_of_every_length_open_in_steps_of_every_length() {
        let key = FileKey::of(&ClusterKey::new([7; 32]));
        for len in [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES, 3 * PIECE_BYTES + 100] {
            let plain: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
            let whole = key.seal_whole("a", &plain);
            assert_eq!(whole.len() as u64, sealed_len(len as u64));
            assert_eq!(whole, key.seal_whole("a", &plain), "the same file");
            for step in [1_000, PIECE_BYTES, PIECE_BYTES + TAG_BYTES, usize::MAX >> 1] {
                let mut sealer = key.seal("a", [3; NONCE_BYTES]);
                let mut sealed = Vec::new();
                for bytes in plain.chunks(step) {
                    sealed.extend(sealer.push(bytes));
                }
                sealed.extend(sealer.finish());
                assert_eq!(sealed.len(), whole.len());
                assert!(opened(&key, "a", &sealed, step).is_ok_and(|out| out == plain), "{len} in steps of {step}");
            }
        }
    }

    #[test]
    fn a_file_that_was_cut_changed_or_exchanged_does_not_open() {
        let key = FileKey::of(&ClusterKey::new([7; 32]));
        let plain = vec![9; 2 * PIECE_BYTES + 50];
        let sealed = key.seal_whole("a", &plain);
        for len in [0, 1, HEAD_BYTES, HEAD_BYTES + PIECE_BYTES + TAG_BYTES, sealed.len() - 1] {
            assert_eq!(opened(&key, "a", &sealed[..len], 1 << 20), Err(NotOpened), "cut at {len}");
        }
        for at in [0, 5, HEAD_BYTES, sealed.len() / 2, sealed.len() - 1] {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(opened(&key, "a", &changed, 1 << 20), Err(NotOpened), "changed at {at}");
        }
        assert_eq!(opened(&key, "b", &sealed, 1 << 20), Err(NotOpened));
        assert_eq!(opened(&FileKey::of(&ClusterKey::new([8; 32])), "a", &sealed, 1 << 20), Err(NotOpened));
    }
}
