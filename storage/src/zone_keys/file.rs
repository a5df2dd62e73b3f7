//! The keys on disk: a line each, sealed; written whole or not at all, and readable by nobody else.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::zone_key::{KEYS_MAX, SEALED_MAX_BYTES, Sealer, UnsealError, ZoneKey};

/// In the data folder.
pub(crate) const NAME: &str = "zone.keys";
/// The first line. A file that does not begin so was emptied or cut, and a zone's key with it.
const HEADER: &str = "# The keys that zones are signed with, sealed with the mesh's key. Keep this file whole: the parent zones name what is in it.\n";
/// The last line, with the count of the lines between.
const FOOTER: &str = "# end: ";
/// All keys twice over, as text.
const MAX_BYTES: u64 = 2 * (KEYS_MAX * SEALED_MAX_BYTES * 4 / 3) as u64;

/// A line of the file.
pub(crate) struct Line {
    number: usize,
    text: String,
}

/// A line that holds no key that this node can read. It stays in the file.
#[derive(Debug, Clone)]
pub(crate) struct Unreadable {
    /// From 1.
    pub(crate) number: usize,
    pub(crate) error: UnsealError,
    text: String,
}

impl Line {
    /// The key, and whether it should be sealed anew.
    pub(crate) fn open(self, sealer: &Sealer) -> Result<(ZoneKey, bool), Unreadable> {
        let sealed = STANDARD.decode(&self.text).map_err(|_| UnsealError::Damaged);
        let opened = sealed.and_then(|sealed| Ok((sealer.open(&sealed)?, !sealer.is_current(&sealed))));
        opened.map_err(|error| Unreadable { number: self.number, error, text: self.text })
    }
}

/// Reads the file; no lines when there is none.
///
/// # Errors
/// When it cannot be read, or is not whole: what is missing may be the key that a parent zone names.
pub(crate) fn read(data: &Path) -> io::Result<Vec<Line>> {
    let path = data.join(NAME);
    match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Ok(meta) if meta.len() > MAX_BYTES => {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{NAME} is too large")));
        }
        other => other.map(drop)?,
    }
    let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
    let lines = (1..).zip(text.lines()).map(|(number, text)| Line { number, text: text.trim().to_owned() });
    let lines: Vec<Line> =
        lines.filter(|line| !line.text.is_empty() && !line.text.starts_with('#')).collect();
    let count = text.lines().rev().find_map(|line| line.strip_prefix(FOOTER)?.trim().parse::<usize>().ok());
    if !text.starts_with(HEADER) || count != Some(lines.len()) {
        let error = "it is not whole: its first or last line is missing, or a line between";
        return Err(io::Error::new(io::ErrorKind::InvalidData, error));
    }
    Ok(lines)
}

/// Writes and syncs all keys, and the lines that could not be read behind them.
pub(crate) fn write(data: &Path, sealed: &[Vec<u8>], unreadable: &[Unreadable]) -> io::Result<()> {
    let next = data.join(format!(".{NAME}.new"));
    let mut text = HEADER.to_owned();
    let count = sealed.len() + unreadable.len();
    let sealed = sealed.iter().map(|sealed| STANDARD.encode(sealed));
    for line in sealed.chain(unreadable.iter().map(|line| line.text.clone())) {
        text.push_str(&line);
        text.push('\n');
    }
    text.push_str(&format!("{FOOTER}{count}\n"));
    // A file of that name that lies there already keeps its mode, so it must not lie there.
    match fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&next)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&next, data.join(NAME))?;
    File::open(data)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use gossip::clock::Wall;
    use gossip::keyring::Keyring;

    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_cannot_be_read_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, theirs) = (Sealer::fixed(), Sealer::new(&Keyring::generate()));
        let key = |made| ZoneKey { zone: "a.example".into(), made: Wall(made), secret: vec![8; 30] };
        assert!(read(folder.path()).unwrap().is_empty());
        let sealed = [ours.seal(&key(1)).unwrap(), theirs.seal(&key(2)).unwrap(), b"nonsense".to_vec()];
        write(folder.path(), &sealed, &[]).unwrap();
        let mode = fs::metadata(folder.path().join(NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let opened: Vec<_> = read(folder.path()).unwrap().into_iter().map(|line| line.open(&ours)).collect();
        assert!(matches!(&opened[0], Ok((found, false)) if *found == key(1)));
        let unreadable: Vec<Unreadable> = opened.into_iter().filter_map(Result::err).collect();
        assert_eq!(unreadable.iter().map(|line| line.number).collect::<Vec<_>>(), [3, 4]);
        assert!(matches!(unreadable[0].error, UnsealError::Unknown(_)));
        write(folder.path(), &sealed[..1], &unreadable).unwrap();
        let path = folder.path().join(NAME);
        let whole = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = whole.lines().collect();
        for left in 0..lines.len() {
            fs::write(&path, lines[..left].join("\n")).unwrap();
            assert!(read(folder.path()).is_err(), "{left} lines are left");
        }
        fs::write(&path, lines[1..].join("\n")).unwrap();
        assert!(read(folder.path()).is_err());
        fs::write(&path, whole).unwrap();
        let kept: Vec<_> = read(folder.path()).unwrap().into_iter().map(|line| line.open(&theirs)).collect();
        assert!(matches!(&kept[1], Ok((found, _)) if *found == key(2)));
    }
}
