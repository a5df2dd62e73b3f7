//! What is known of all sources, kept over a restart: a node that starts while its sources cannot be asked goes on with
//! their last answers. A file that is lost or damaged costs only that.

use std::path::Path;

use super::claims::{Claim, ClaimKey};
use super::wire::{self, Message};
use crate::data_file;

const NAME: &str = "backends.claims";
/// The longest file: as many claims and backends as are kept, with the longest names.
const FILE_MAX_BYTES: usize = 64 << 20;

/// Reads the file. Nothing when there is none.
///
/// # Errors
/// Why it cannot be read; it stays where it is until the next write.
pub(crate) fn load(data: &Path) -> Result<Vec<(ClaimKey, Claim)>, String> {
    let read = data_file::read(data, NAME, FILE_MAX_BYTES).map_err(|error| error.to_string())?;
    let Some(bytes) = read else { return Ok(Vec::new()) };
    match wire::decode_within(&bytes, FILE_MAX_BYTES) {
        Some(Message::Tell(claims)) => Ok(claims),
        _ => Err("it is no list of claims of this version".into()),
    }
}

/// Replaces the file. Blocks.
///
/// # Errors
/// Why it cannot be written; the old one is as it was.
pub(crate) fn write(data: &Path, claims: Vec<(ClaimKey, Claim)>) -> Result<(), String> {
    let bytes = wire::encode_within(&Message::Tell(claims), FILE_MAX_BYTES)
        .ok_or("there is more than the file may hold")?;
    data_file::replace(data, NAME, &bytes).map_err(|error| error.to_string())
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
        assert_eq!(load(folder.path()), Ok(claims.clone()));
        // More than any message holds.
        let many = vec![claims[0].1.answer.found[0].clone(); 10_000];
        let mut large = claims;
        for n in 0..100 {
            let (mut key, mut claim) = large[0].clone();
            key.scope = format!("f-{n}").into();
            claim.answer.found.clone_from(&many);
            large.push((key, claim));
        }
        write(folder.path(), large.clone()).unwrap();
        assert_eq!(load(folder.path()), Ok(large));
        std::fs::write(folder.path().join(NAME), b"\x01garbage").unwrap();
        assert!(load(folder.path()).is_err());
    }
}
