//! What the defaults take from the machine.

use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

const SYSTEM_DATA: &str = "/var/lib/meridian";

/// What the defaults take from the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// The host name.
    pub host_name: String,
    /// The data folder when nobody names one.
    pub data: PathBuf,
}

impl Machine {
    /// Looks at this machine: its name, and whether `/var/lib/meridian` can be written or made. Changes nothing.
    pub fn probe() -> Self {
        let host_name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let absolute =
            |variable| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
        let user = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")));
        let data = data_folder(usable(Path::new(SYSTEM_DATA)), user);
        Self { host_name, data }
    }
}

/// DESIGN §11. Without a user's folder the system's one stays, and whoever opens it says what is wrong.
fn data_folder(system_usable: bool, user: Option<PathBuf>) -> PathBuf {
    match user {
        Some(user) if !system_usable => user.join("meridian"),
        _ => PathBuf::from(SYSTEM_DATA),
    }
}

fn usable(folder: &Path) -> bool {
    let writable = |folder: &Path| access(folder, Access::WRITE_OK | Access::EXEC_OK).is_ok();
    if folder.exists() { folder.is_dir() && writable(folder) } else { folder.parent().is_some_and(writable) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_folder_is_the_systems_else_the_users() {
        let user = Some(PathBuf::from("/home/ada/.local/share"));
        assert_eq!(data_folder(true, user.clone()), Path::new("/var/lib/meridian"));
        assert_eq!(data_folder(false, user), Path::new("/home/ada/.local/share/meridian"));
        assert_eq!(data_folder(false, None), Path::new("/var/lib/meridian"));
    }

    #[test]
    fn a_folder_that_can_be_made_is_usable() {
        let root = tempfile::tempdir().unwrap();
        assert!(usable(&root.path().join("new")));
        assert!(usable(root.path()));
        assert!(!usable(&root.path().join("missing/new")));
        let file = root.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(!usable(&file));
    }
}
