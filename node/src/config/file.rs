//! A configuration file before anybody knows what it says.

use std::io::{self, Read};
use std::path::Path;

use toml::de::DeTable;

use super::walk::MAX_BYTES;

/// Which of the two schemas a file follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `node.toml`.
    Node,
    /// `services.toml`.
    Services,
}

impl Kind {
    /// Guesses from the sections that a text has. A text without any telling section is taken for services.
    pub fn of(text: &str) -> Self {
        let (tree, _) = DeTable::parse_recoverable(text);
        let sections = tree.get_ref();
        let has = |keys: &[&str]| keys.iter().any(|key| sections.contains_key(*key));
        let dns = sections.get("dns").and_then(|dns| dns.get_ref().as_table());
        let dns_sockets = dns.is_some_and(|dns| !dns.contains_key("zone"));
        if has(&["region", "listener", "service", "pool"]) {
            Self::Services
        } else if has(&["node", "mesh", "proxy", "admin", "log"]) || dns_sockets {
            Self::Node
        } else {
            Self::Services
        }
    }
}

/// The text of a file; `-` is standard input. Stops reading just past the greatest size that validation takes.
///
/// # Errors
/// As the operating system says, or the file is not UTF-8.
pub fn read_file(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    let limit = MAX_BYTES as u64 + 1;
    if path.as_os_str() == "-" {
        io::stdin().lock().take(limit).read_to_end(&mut bytes)?;
    } else {
        std::fs::File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    }
    if bytes.len() > MAX_BYTES {
        // Cut in the middle of a character, perhaps; validation refuses it by its size.
        return Ok(String::from_utf8_lossy(&bytes).into_owned());
    }
    String::from_utf8(bytes).map_err(|error| {
        let line = error.as_bytes()[..error.utf8_error().valid_up_to()]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count();
        io::Error::new(io::ErrorKind::InvalidData, format!("line {} is not UTF-8", line + 1))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sections_tell_which_file_it_is() {
        for text in ["", "[pool.x]", "[dns.zone.\"x.de\"]", "[service.x]\n[node]", "[region.eu"] {
            assert_eq!(Kind::of(text), Kind::Services, "{text}");
        }
        for text in ["[node]", "[mesh]\nseeds = [", "[dns]\nlisten = []", "[log]"] {
            assert_eq!(Kind::of(text), Kind::Node, "{text}");
        }
    }

    #[test]
    fn a_file_is_read_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.toml");
        std::fs::write(&path, b"a = 1\nb = \xff").unwrap();
        assert_eq!(read_file(&path).unwrap_err().to_string(), "line 2 is not UTF-8");
        std::fs::write(&path, "é".repeat(MAX_BYTES)).unwrap();
        assert!(read_file(&path).unwrap().len() > MAX_BYTES);
        assert_eq!(read_file(&folder.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
