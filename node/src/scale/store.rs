//! What was started and has not appeared, kept over a restart: a node that forgot it would start as many again. A file that is
//! lost or damaged costs only that.

use std::path::Path;

use gossip::clock::Wall;
use gossip::id::PoolName;
use serde::{Deserialize, Serialize};

use super::coming::By;
use crate::data_file;

const NAME: &str = "scale.started";
/// The longest file: some starts of each of some thousand pools.
const FILE_MAX_BYTES: usize = 1 << 20;

/// What one decision started, as far as it has not appeared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) pool: PoolName,
    /// Of the decision.
    pub(super) number: u64,
    /// Whose it was; this node's own when there is nobody.
    pub(super) by: By,
    /// So many have not been seen.
    pub(super) missing: u32,
    /// Until when they are counted on.
    pub(super) until: Wall,
}

/// Reads the file. Nothing when there is none.
///
/// # Errors
/// Why it cannot be read; it stays where it is until the next write.
pub(super) fn load(data: &Path) -> Result<Vec<Kept>, String> {
    match data_file::read(data, NAME, FILE_MAX_BYTES).map_err(|error| error.to_string())? {
        Some(bytes) => serde_json::from_slice(&bytes).map_err(|error| error.to_string()),
        None => Ok(Vec::new()),
    }
}

/// Replaces the file. Blocks.
///
/// # Errors
/// Why it cannot be written; the old one is as it was.
pub(super) fn write(data: &Path, kept: &[Kept]) -> Result<(), String> {
    let bytes = serde_json::to_vec(kept).map_err(|error| error.to_string())?;
    data_file::replace(data, NAME, &bytes).map_err(|error| error.to_string())
}

impl Kept {
    /// Whether one need not be written in the place of the other: times are worked out anew each time, to some milliseconds.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let apart = self.until.0.abs_diff(other.until.0);
        apart < 1_000 && Self { until: other.until, ..self.clone() } == *other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(load(folder.path()), Ok(Vec::new()));
        let kept =
            vec![Kept { pool: "web".parse().unwrap(), number: 7, by: None, missing: 3, until: Wall(5_000) }];
        write(folder.path(), &kept).unwrap();
        assert_eq!(load(folder.path()), Ok(kept.clone()));
        let later = |millis: u64| Kept { until: Wall(5_000 + millis), ..kept[0].clone() };
        assert!(kept[0].is_like(&later(9)) && !kept[0].is_like(&later(50_000)));
        for damaged in ["[{", r#"[{"pool":"../etc","number":1,"missing":1,"until":1}]"#] {
            std::fs::write(folder.path().join(NAME), damaged).unwrap();
            assert!(load(folder.path()).is_err(), "{damaged}");
        }
    }
}
