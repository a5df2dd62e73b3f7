//! Small files of the data folder that are read and replaced whole. Both block.

use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;

/// Reads a file of at most so many bytes; of a longer one the beginning. `None` when there is none.
///
/// # Errors
/// Why it cannot be read.
pub(crate) fn read(data: &Path, name: &str, max_bytes: usize) -> io::Result<Option<Vec<u8>>> {
    match std::fs::File::open(data.join(name)) {
        Ok(file) => {
            let mut bytes = Vec::new();
            file.take(max_bytes as u64).read_to_end(&mut bytes)?;
            Ok(Some(bytes))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Replaces a file: whoever reads it sees the old one or the new one.
///
/// # Errors
/// Why it cannot be written; the old one is as it was.
pub(crate) fn replace(data: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(data)?;
    file.write_all(bytes)?;
    file.persist(data.join(name)).map_err(|error| error.error)?;
    Ok(())
}
