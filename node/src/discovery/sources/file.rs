//! `discover.file`: a list that somebody else writes.
//!
//! The file is looked at, not subscribed to: that sees a rename over it, a link turned to another file, a network file
//! system and an overlay alike, and a look costs one system call. What changes is read once it has been the same for two
//! looks in a row, so a file that is written in place is seldom met half written; one that is renamed into place never is.

use std::fs::OpenOptions;
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use gossip::id::{RackName, RegionName, ZoneName};
use rustix::fs::OFlags;
use serde::Deserialize;
use tokio::time::MissedTickBehavior;

use super::{Following, Reporter, Said, Source};
use crate::config::model::FileSpec;
use crate::discovery::found::{FOUND_MAX, Found, is_reachable};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The largest file that is read.
const FILE_MAX_BYTES: u64 = 4 << 20;

/// A list in a file.
pub(super) struct File {
    spec: FileSpec,
}

/// What tells one content of a path from another.
type Identity = (u64, u64, u64, i64, i64);

impl File {
    pub(super) fn new(spec: FileSpec) -> Self {
        Self { spec }
    }
}

impl Source for File {
    fn follow(self, reporter: Reporter) -> Following {
        Box::pin(async move {
            let mut looks = tokio::time::interval(LOOK_EVERY);
            looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let (mut last_look, mut read): (Option<Result<Identity, String>>, _) = (None, None);
            loop {
                looks.tick().await;
                let seen = off_thread({
                    let path = self.spec.path.clone();
                    move || identity(&path)
                })
                .await;
                let is_still = last_look.as_ref().is_none_or(|last| *last == seen);
                last_look = Some(seen.clone());
                if !is_still || read.as_ref() == Some(&seen) {
                    continue;
                }
                let said = match &seen {
                    Ok(_) => {
                        off_thread({
                            let spec = self.spec.clone();
                            move || load(&spec)
                        })
                        .await
                    }
                    Err(error) => Err(error.clone()),
                };
                read = Some(seen);
                reporter.say(said).await;
            }
        })
    }
}

/// File systems may be slow; the control runtime must not be.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string()).and_then(|result| result)
}

fn identity(path: &PathBuf) -> Result<Identity, String> {
    let file = std::fs::metadata(path).map_err(|error| error.to_string())?;
    Ok((file.dev(), file.ino(), file.len(), file.mtime(), file.mtime_nsec()))
}

fn load(spec: &FileSpec) -> Said {
    let text = whole(&spec.path)?;
    parse(&spec.path, &text, spec.region.as_ref())
}

/// The text of a regular file; of nothing that has no end, or that waits for a writer.
fn whole(path: &Path) -> Result<String, String> {
    let told = |error: std::io::Error| error.to_string();
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    let file = options.open(path).map_err(told)?;
    if !file.metadata().map_err(told)?.is_file() {
        return Err("it is no regular file".into());
    }
    let mut text = String::new();
    file.take(FILE_MAX_BYTES + 1).read_to_string(&mut text).map_err(told)?;
    match text.len() as u64 {
        0..=FILE_MAX_BYTES => Ok(text),
        _ => Err(format!("it has more than the {FILE_MAX_BYTES} bytes that are read")),
    }
}

/// `backend = [{ address = "10.0.1.11:8080", region = "eu", zone = "eu-a", rack = "r12", weight = 100 }]`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    backend: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    address: SocketAddr,
    region: Option<RegionName>,
    zone: Option<ZoneName>,
    rack: Option<RackName>,
    weight: Option<u16>,
}

/// Reads a list; the whole of it counts or nothing does.
fn parse(path: &Path, text: &str, region: Option<&RegionName>) -> Said {
    let is_json = path.extension().is_some_and(|extension| extension == "json");
    if text.trim().is_empty() {
        let nothing = if is_json { "{\"backend\": []}" } else { "backend = []" };
        return Err(format!("it is empty; a list without backends is written {nothing}"));
    }
    let entries = if is_json { json(text)? } else { toml(text)? };
    if entries.len() > FOUND_MAX {
        return Err(format!("it lists {} backends, and at most {FOUND_MAX} are taken", entries.len()));
    }
    let found = entries.into_iter().map(|entry| {
        let address = entry.address;
        if !is_reachable(address) {
            return Err(format!("nothing can be reached at {address}"));
        }
        let region = entry.region.or_else(|| region.cloned());
        let region = region.ok_or_else(|| format!("{address} says no region, and several are declared"))?;
        let weight = entry.weight.unwrap_or(100);
        Ok(Found { zone: entry.zone, rack: entry.rack, weight, ..Found::at(address, region) })
    });
    found.collect()
}

fn toml(text: &str) -> Result<Vec<Entry>, String> {
    toml::from_str(text).map(|list: List| list.backend).map_err(|error| error.message().to_owned())
}

/// The same as an object, or the list alone.
fn json(text: &str) -> Result<Vec<Entry>, String> {
    let list = if text.trim_start().starts_with('[') {
        serde_json::from_str(text)
    } else {
        serde_json::from_str(text).map(|list: List| list.backend)
    };
    list.map_err(|error| error.to_string())
}

/// A list of either kind, whatever it is: what comes of it is within bounds and can be reached.
#[cfg(any(test, fuzzing))]
pub(crate) fn survives(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let region = RegionName::new("eu").expect("a name");
    for path in ["list.toml", "list.json"] {
        let found = parse(Path::new(path), &text, Some(&region)).unwrap_or_default();
        assert!(found.len() <= FOUND_MAX && found.iter().all(|found| is_reachable(found.address)));
    }
}

/// One list of each kind.
#[cfg(any(test, fuzzing))]
pub(crate) fn golden() -> Vec<Vec<u8>> {
    let toml = "backend = [{ address = \"10.0.1.11:8080\", region = \"eu\", zone = \"a\", rack = \"r\", weight = 7 }]\n";
    let json = r#"[{"address":"[fd00::1]:80","region":"eu","zone":"a","rack":"r","weight":7}]"#;
    vec![toml.into(), json.into(), format!("{{\"backend\":{json}}}").into()]
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::super::Report;
    use super::*;
    use crate::config::model::SourceSpec;
    use crate::registry::fixture::region;

    fn read(name: &str, text: &str) -> Said {
        parse(Path::new(name), text, Some(&region("eu")))
    }

    #[test]
    fn both_formats_say_the_same() {
        let toml = read(
            "list.toml",
            "backend = [{ address = \"10.0.0.1:80\", zone = \"a\", rack = \"r1\", weight = 7 }]\n\
             [[more]]\n",
        );
        assert!(toml.unwrap_err().contains("more"), "what is not known is told");
        let toml = read(
            "list.toml",
            "[[backend]]\naddress = \"10.0.0.1:80\"\nregion = \"us\"\nzone = \"a\"\nrack = \"r1\"\nweight = 7\n",
        );
        let entry = r#"{"address": "10.0.0.1:80", "region": "us", "zone": "a", "rack": "r1", "weight": 7}"#;
        let object = read("list.json", &format!("{{\"backend\": [{entry}]}}"));
        let list = read("list.json", &format!("[{entry}]"));
        assert_eq!(toml, object);
        assert_eq!(toml, list);
        let found = toml.unwrap().swap_remove(0);
        assert_eq!((found.weight, found.region.as_str()), (7, "us"));
        assert_eq!(read("a", "backend = []"), Ok(Vec::new()), "an empty list is a list");
    }

    #[test]
    fn what_is_no_list_changes_nothing() {
        for (text, why) in [
            ("", "empty"),
            ("backend = [{ address = \"10.0.0.1\" }]", "socket address"),
            ("backend = [{ address = \"0.0.0.0:80\" }]", "nothing can be reached"),
            ("backend = [{ address = \"10.0.0.1:80\", wieght = 3 }]", "wieght"),
            ("backend = [", ""),
        ] {
            let error = read("list.toml", text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!(parse(Path::new("a"), "backend = [{ address = \"10.0.0.1:80\" }]", None).is_err());
    }

    #[test]
    fn what_has_no_end_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let large = folder.path().join("large");
        std::fs::File::create(&large).unwrap().set_len(FILE_MAX_BYTES + 1).unwrap();
        assert!(whole(&large).unwrap_err().contains("more than"));
        std::fs::File::create(&large).unwrap().set_len(FILE_MAX_BYTES).unwrap();
        assert_eq!(whole(&large).unwrap().len() as u64, FILE_MAX_BYTES);
        let pipe = folder.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
        for endless in [Path::new("/dev/zero"), &pipe, folder.path()] {
            assert!(whole(endless).unwrap_err().contains("regular"), "{}", endless.display());
        }
    }

    #[tokio::test]
    async fn a_rename_over_the_file_is_seen_and_a_bad_one_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list.toml");
        let put = |text: &str| {
            let new = folder.path().join("new");
            std::fs::write(&new, text).unwrap();
            std::fs::rename(&new, &path).unwrap();
        };
        let spec = FileSpec { path: path.clone(), region: Some(region("eu")) };
        let (to, mut reports) = mpsc::channel::<Report>(1);
        let pool = gossip::id::PoolName::new("web").unwrap();
        let reporter = Reporter { pool, spec: SourceSpec::File(spec.clone()), to };
        let task = tokio::spawn(File::new(spec).follow(reporter));
        let mut next = async || reports.recv().await.unwrap().said;
        assert!(next().await.is_err(), "there is no file yet");
        put("backend = [{ address = \"10.0.0.1:80\" }]");
        assert_eq!(next().await.unwrap().len(), 1);
        put("backend = [{ address = \"10.0.0.1:80\" }, { address = \"10.0.0.2:80\" }]");
        assert_eq!(next().await.unwrap().len(), 2);
        put("backend = [{");
        assert!(next().await.is_err());
        std::fs::remove_file(&path).unwrap();
        assert!(next().await.is_err());
        task.abort();
    }
}
