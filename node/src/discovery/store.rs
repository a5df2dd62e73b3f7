//! What is known of all sources, kept over a restart: a node that starts while its sources cannot be asked goes on with
//! their last answers. A file that is lost or damaged costs only that.

use std::io::{ErrorKind, Write};
use std::path::Path;

use super::claims::{Claim, ClaimKey};
use super::wire::{self, MESSAGE_MAX_BYTES, Message};

const NAME: &str = "backends.claims";

/// Reads the file. Nothing when there is none.
///
/// # Errors
/// Why it cannot be read; it stays where it is until the next write.
pub(crate) fn load(data: &Path) -> Result<Vec<(ClaimKey, Claim)>, String> {
    let bytes = match std::fs::read(data.join(NAME)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.to_string()),
    };
    match Some(&bytes).filter(|bytes| bytes.len() <= MESSAGE_MAX_BYTES).and_then(|bytes| wire::decode(bytes))
    {
        Some(Message::Tell(claims)) => Ok(claims),
        _ => Err("it is no list of claims of this version".into()),
    }
}

/// Replaces the file. Blocks.
///
/// # Errors
/// Why it cannot be written; the old one is as it was.
pub(crate) fn write(data: &Path, claims: Vec<(ClaimKey, Claim)>) -> Result<(), String> {
    let bytes = wire::encode(&Message::Tell(claims)).ok_or("there is more than the file may hold")?;
    let written = || -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(data)?;
        file.write_all(&bytes)?;
        file.persist(data.join(NAME)).map_err(|error| error.error)?;
        Ok(())
    };
    written().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(load(folder.path()), Ok(Vec::new()));
        let Some(Message::Tell(claims)) = wire::decode(&wire::golden()[0]) else {
            unreachable!("a message of that kind")
        };
        write(folder.path(), claims.clone()).unwrap();
        assert_eq!(load(folder.path()), Ok(claims));
        std::fs::write(folder.path().join(NAME), b"\x01garbage").unwrap();
        assert!(load(folder.path()).is_err());
    }
}
