//! A file's bytes, mapped from a copy of its own. The only file that names memmap2, and one of two with `unsafe`.
//!
//! Whoever changes or cuts a file under a map changes what stands behind a reference, or ends the process that reads (SIGBUS). An
//! operator's file may be written in place at any time. So it is copied first, into a file that has no name any more and that
//! nobody else has open, and that copy is mapped: its pages can be given back to the disk as those of any file, and
//! they stay what they are. Where no copy can be made (a full disk) the bytes are read into memory instead.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use memmap2::{Mmap, MmapOptions};

/// The longest file that is taken; the largest city databases have a tenth of it.
const MAX_BYTES: u64 = 1 << 30;

/// The bytes of a file as it once was.
#[derive(Debug)]
pub(super) enum Bytes {
    /// From a copy on disk.
    Mapped(Mmap),
    /// In memory.
    Read(Vec<u8>),
}

impl Bytes {
    /// Takes the file at `path` as it is now; the copy lies in `scratch`.
    ///
    /// # Errors
    /// The file cannot be read, or is none, or too long.
    pub(super) fn of(path: &Path, scratch: &Path) -> io::Result<Self> {
        // Before it is opened: opening a pipe would wait for its writer.
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::other("it is not a file"));
        }
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        if length > MAX_BYTES {
            return Err(io::Error::other(format!("it has more than {MAX_BYTES} bytes")));
        }
        match copy(&file, scratch) {
            Ok(map) => Ok(Self::Mapped(map)),
            Err(error) => {
                tracing::warn!(%error, folder = %scratch.display(), "no copy can be mapped; it is read into memory");
                let mut bytes = Vec::new();
                File::open(path)?.take(MAX_BYTES).read_to_end(&mut bytes)?;
                Ok(Self::Read(bytes))
            }
        }
    }

    /// True when the bytes lie on disk.
    pub(super) fn is_mapped(&self) -> bool {
        matches!(self, Self::Mapped(_))
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Read(bytes) => bytes,
        }
    }
}

fn copy(file: &File, scratch: &Path) -> io::Result<Mmap> {
    let mut copy = tempfile::tempfile_in(scratch)?;
    io::copy(&mut file.take(MAX_BYTES), &mut copy)?;
    // SAFETY: the bytes behind a map must not change or vanish while it stands. This file was made a moment ago without a name
    // (or lost it at once), its only descriptor is ours and closed with the end of this function, and nothing writes to it
    // after this line. The map alone keeps it.
    unsafe { MmapOptions::new().map(&copy) }
}
