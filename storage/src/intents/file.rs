//! The orders as a plain file beside the store, for a start that has no store: on a full disk it cannot be opened.
//!
//! ```text
//!   DATA/orders      as a `put` of the exchange: version 1 │ 1 │ (length 4 │ entry)*
//! ```
//!
//! It is written half a second after a change and may lag behind; the store has all of it, and the later of both holds.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use super::MAP_MAX_BYTES;
use super::task;
use crate::intent::Entry;

const NAME: &str = "orders";
const STAGED: &str = ".orders.new";
/// The map with the lengths of its entries.
const FILE_MAX_BYTES: u64 = 2 * MAP_MAX_BYTES as u64;

/// Writes them whole or not at all.
pub(super) fn write(data: &Path, entries: &[Entry]) -> io::Result<()> {
    let staged = data.join(STAGED);
    // What a link leads to is not to be written.
    let _ = fs::remove_file(&staged);
    let written = File::create_new(&staged).and_then(|mut file| {
        file.write_all(&task::put(entries))?;
        file.sync_all()
    });
    if let Err(error) = written {
        // It takes room that others need.
        let _ = fs::remove_file(&staged);
        return Err(error);
    }
    fs::rename(staged, data.join(NAME))
}

/// What lies there; nothing when it cannot be read, which is logged.
pub(super) fn read(data: &Path) -> Vec<Entry> {
    let mut bytes = Vec::new();
    let open = |path: &Path| match fs::symlink_metadata(path)?.is_file() {
        true => File::open(path),
        // A pipe in its place would be waited for.
        false => Err(io::Error::other(format!("{} is not a file", path.display()))),
    };
    let read = open(&data.join(NAME)).and_then(|file| file.take(FILE_MAX_BYTES).read_to_end(&mut bytes));
    match read.map(|_| task::read_put(&bytes)) {
        Ok(Some(entries)) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Ok(None) => {
            tracing::warn!(file = NAME, "the file of orders cannot be read; the store has them");
            Vec::new()
        }
        Err(error) => {
            tracing::warn!(file = NAME, %error, "the file of orders cannot be read; the store has them");
            Vec::new()
        }
    }
}
