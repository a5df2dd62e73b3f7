//! Style as a test: what reviewers would otherwise have to say again and again.
//!
//! Each rule reads the source as text, without comments where comments may say what code may not. An exception
//! stands in a list with its reason; one that is no longer needed is a failure too, so the lists only shrink.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Lines without tests that a file may have.
const LONGEST: usize = 500;

/// Files that may be longer, and why.
const LONGER: &[(&str, &str)] = &[];

/// Files that may hold `unsafe`, and which system call they need it for.
const UNSAFE: &[(&str, &str)] = &[
    ("dns/src/geo/map.rs", "mmap of a file that nobody else can change"),
    ("dns/src/mmsg.rs", "recvmmsg and sendmmsg with the address that was asked"),
    ("tests/mesh_sim/src/chance.rs", "getrandom, which is replaced by the C library's name for it"),
    ("tests/chaos/src/tun.rs", "TUNSETIFF, which attaches to a TUN device"),
    ("dns/tests/no_allocation.rs", "an allocator that counts: the trait is unsafe"),
];

/// Words of code that belong to one place: a foreign library to its adapter, the clocks to the clock. Beside those,
/// the log filter names libraries by their log targets, and the tests of dns, which knows no clock, need a moment.
const HOMES: &[(&str, &[&str])] = &[
    ("chitchat", &["gossip/src/membership", "node/src/app/logging.rs"]),
    ("similar", &["node/src/cli/diff.rs"]),
    ("sled", &["storage/src/disk"]),
    ("maxminddb", &["dns/src/geo"]),
    ("bollard", &["node/src/docker.rs"]),
    ("trust_dns_resolver", &["node/src/discovery/sources/dns.rs"]),
    ("memmap2", &["dns/src/geo/map.rs"]),
    ("prometheus_client", &["node/src/admin/metrics/page.rs"]),
    ("indicatif", &["node/src/cli/progress.rs"]),
    ("sd_notify", &["node/src/cli/supervisor.rs"]),
    ("clap_mangen", &["node/src/cli/shell.rs"]),
    ("fantoccini", &["tests/src/chromium.rs", "tests/tests/proofs/dashboard.rs"]),
    (
        concat!("Instant::", "now"),
        &["gossip/src/clock.rs", "dns/src/fixtures.rs", "dns/tests", "dns/benches"],
    ),
    (concat!("SystemTime::", "now"), &["gossip/src/clock.rs"]),
    (concat!("thread::", "sleep"), &[]),
];

/// Words that never land.
const BANNED: &[&str] = &[
    concat!("to", "do!"),
    concat!("unimple", "mented!"),
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("db", "g!"),
];

/// Paths outside of the repository, and the files that may name one: each works without what is there.
const OUTSIDE: &[(&str, &[&str])] =
    &[(concat!("/wo", "rk/"), &[]), (concat!("../sha", "red"), &["dns/src/fixtures.rs"])];

/// Which crates of the workspace a crate may name, whatever for.
const DEPENDENCIES: &[(&str, &[&str])] = &[
    ("gossip", &[]),
    ("dns", &[]),
    ("storage", &["gossip"]),
    ("node", &["gossip", "storage", "dns"]),
    ("tests", &["gossip", "storage", "dns", "node"]),
    ("tests/bench/sessions", &["gossip", "storage"]),
    ("tests/chaos", &["gossip", "tests"]),
    ("tests/mesh_sim", &["gossip", "node"]),
    ("tests/mutate", &[]),
    ("tests/sim", &["gossip", "storage"]),
];

struct Source {
    /// From the top of the repository, with `/`.
    path: String,
    text: String,
}

impl Source {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Lines of code with their numbers: no comments, no empty lines.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let numbered = self.text.lines().enumerate();
        numbered
            .map(|(index, line)| (index + 1, before_comment(line).trim_end()))
            .filter(|(_, line)| !line.is_empty())
    }

    fn lines_without_tests(&self) -> usize {
        let in_tests = self.path.ends_with("tests.rs")
            || self.path.contains("/tests/") && !self.path.starts_with("tests/");
        let tests_at = self.text.find("#[cfg(test)]\nmod ");
        match tests_at {
            _ if in_tests => 0,
            Some(at) => self.text[..at].lines().count(),
            None => self.text.lines().count(),
        }
    }
}

/// A line without its comment. A `//` inside a string is one too, which at worst hides the end of a line.
fn before_comment(line: &str) -> &str {
    if line.trim_start().starts_with("//") {
        return "";
    }
    line.find(" //").map_or(line, |at| &line[..at])
}

/// Whether `word` stands in `line` by itself and not inside a longer name.
fn says(line: &str, word: &str) -> bool {
    let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].ends_with(part_of_name) && !line[at + word.len()..].starts_with(part_of_name)
    })
}

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is above this crate").to_owned()
}

fn collect(folder: &Path, top: &Path, into: &mut Vec<Source>) {
    for entry in std::fs::read_dir(folder).expect("a folder that can be read") {
        let entry = entry.expect("an entry that can be read");
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if name == "target" || name == ".git" || name == "Cargo.lock" {
            continue;
        }
        if path.is_dir() {
            collect(&path, top, into);
        } else if let Ok(text) = std::fs::read_to_string(&path) {
            let path = path.strip_prefix(top).expect("below the top").to_string_lossy().replace('\\', "/");
            into.push(Source { path, text });
        }
    }
}

fn sources() -> Vec<Source> {
    let top = top();
    let mut sources = Vec::new();
    collect(&top, &top, &mut sources);
    assert!(sources.iter().any(|source| source.path == "gossip/src/lib.rs"), "the sources are found");
    sources
}

fn report(rule: &str, complaints: &[String]) {
    assert!(complaints.is_empty(), "{rule}\n  {}", complaints.join("\n  "));
}

#[test]
fn no_file_is_too_long() {
    let mut complaints = Vec::new();
    let mut needed = BTreeSet::new();
    for source in sources().iter().filter(|source| source.is_rust()) {
        let lines = source.lines_without_tests();
        if lines <= LONGEST {
            continue;
        }
        if LONGER.iter().any(|(path, _)| *path == source.path) {
            needed.insert(source.path.clone());
        } else {
            complaints.push(format!("{} has {lines}", source.path));
        }
    }
    let idle = LONGER.iter().filter(|(path, _)| !needed.contains(*path));
    complaints.extend(idle.map(|(path, _)| format!("{path} no longer needs its exception")));
    report(
        &format!("at most {LONGEST} lines without tests: split the file, or say in LONGER why not"),
        &complaints,
    );
}

#[test]
fn one_adapter_a_library_and_one_reader_of_clocks() {
    let mut complaints = Vec::new();
    for source in sources().iter().filter(|source| source.is_rust() && source.path != "tests/tests/tidy.rs") {
        for (number, line) in source.code() {
            for (word, homes) in HOMES {
                if says(line, word) && !homes.iter().any(|home| source.path.starts_with(home)) {
                    complaints.push(format!("{}:{number} says {word}; its home is {homes:?}", source.path));
                }
            }
        }
    }
    report("each of these belongs to one place", &complaints);
}

#[test]
fn nothing_unfinished_lands() {
    let mut complaints = Vec::new();
    for source in sources().iter().filter(|source| source.is_rust()) {
        for (index, line) in source.text.lines().enumerate() {
            for word in BANNED.iter().filter(|word| says(line, word)) {
                complaints.push(format!("{}:{} says {word}", source.path, index + 1));
            }
        }
    }
    report("finish it, or leave it out", &complaints);
}

#[test]
fn unsafe_stays_where_a_system_call_needs_it() {
    let mut complaints = Vec::new();
    let mut needed = BTreeSet::new();
    for source in sources().iter().filter(|source| source.is_rust() && source.path != "tests/tests/tidy.rs") {
        for (number, _) in source.code().filter(|(_, line)| says(line, "unsafe")) {
            if UNSAFE.iter().any(|(path, _)| *path == source.path) {
                needed.insert(source.path.clone());
            } else {
                complaints.push(format!("{}:{number}", source.path));
            }
        }
    }
    let idle = UNSAFE.iter().filter(|(path, _)| !needed.contains(*path));
    complaints.extend(idle.map(|(path, _)| format!("{path} no longer needs its exception")));
    report("unsafe outside of UNSAFE", &complaints);
}

#[test]
fn crates_depend_downwards_only() {
    let mut complaints = Vec::new();
    for (name, allowed) in DEPENDENCIES {
        let manifest = std::fs::read_to_string(top().join(name).join("Cargo.toml")).unwrap();
        let manifest: toml::Table = manifest.parse().unwrap();
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(section) = manifest.get(section).and_then(toml::Value::as_table) else { continue };
            let ours = section.keys().filter(|key| DEPENDENCIES.iter().any(|(name, _)| name == key));
            for key in ours.filter(|key| !allowed.contains(&key.as_str())) {
                complaints.push(format!("{name} depends on {key}"));
            }
        }
    }
    report(
        "gossip and dns know nobody, storage knows gossip, node knows all three, only tests knows node",
        &complaints,
    );
}

#[test]
fn every_crate_forbids_what_the_workspace_forbids() {
    for (name, _) in DEPENDENCIES {
        let manifest = std::fs::read_to_string(top().join(name).join("Cargo.toml")).unwrap();
        let manifest: toml::Table = manifest.parse().unwrap();
        let inherits = manifest["lints"].get("workspace").and_then(toml::Value::as_bool);
        let own = manifest["lints"].get("rust").is_some();
        assert!(inherits == Some(true) || own, "{name} has no lints");
    }
}

#[test]
fn every_file_is_part_of_its_crate() {
    let sources = sources();
    let mut complaints = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust() && source.path.contains("/src/")) {
        let (folder, file) = source.path.rsplit_once('/').expect("a path with a folder");
        if ["lib.rs", "main.rs"].contains(&file) || folder.ends_with("/bin") {
            continue;
        }
        let (parent, name) = match file {
            "mod.rs" => folder.rsplit_once('/').expect("a folder in src"),
            file => (folder, file.trim_end_matches(".rs")),
        };
        let by_path = format!("#[path = \"{file}\"]");
        let parents = ["lib.rs", "main.rs", "mod.rs"].map(|file| format!("{parent}/{file}"));
        let beside = format!("{parent}.rs");
        let named = sources.iter().any(|other| {
            let above = parents.contains(&other.path) || other.path == beside;
            let by_name = || other.code().any(|(_, line)| line.trim().ends_with(&format!("mod {name};")));
            above && by_name() || other.path.starts_with(folder) && other.text.contains(&by_path)
        });
        if !named {
            complaints.push(format!("{} is named by no mod", source.path));
        }
    }
    report("dead files", &complaints);
}

#[test]
fn no_path_of_one_machine_is_written_down() {
    let mut complaints = Vec::new();
    for source in &sources() {
        for (index, line) in source.text.lines().enumerate() {
            // Part of a longer path is somebody else's, as in a URL.
            let written = |path: &str| {
                line.match_indices(path).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric()))
            };
            for (path, may) in OUTSIDE {
                if written(path) && !may.contains(&source.path.as_str()) {
                    complaints.push(format!("{}:{} has {path}", source.path, index + 1));
                }
            }
        }
    }
    report("works here only", &complaints);
}

/// Two rooms that listen on one channel of the mesh take each other's words.
#[test]
fn every_channel_has_a_number_of_its_own() {
    let mut numbers: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    let sources = sources();
    let rooms = sources.iter().filter(|source| {
        source.is_rust() && source.path.contains("/src/") && !source.path.ends_with("tests.rs")
    });
    for source in rooms {
        for (number, line) in source.code() {
            let Some((_, rest)) = line.split_once("Channel { id: ") else { continue };
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            let place = format!("{}:{number}", source.path);
            numbers.entry(digits.parse().expect("a channel's number")).or_default().push(place);
        }
    }
    assert!(numbers.len() > 5, "channels are found");
    let twice: Vec<String> = numbers
        .iter()
        .filter(|(_, places)| places.len() > 1)
        .map(|(id, places)| format!("{id}: {places:?}"))
        .collect();
    report("channels with one number", &twice);
}

#[test]
fn a_word_inside_a_longer_name_is_not_that_word() {
    assert!(says("use sled::Db;", "sled"));
    assert!(!says("let assled = 1;", "sled") && !says("unsafe_code", "unsafe"));
    assert_eq!(before_comment("let a = 1; // unsafe"), "let a = 1;");
    assert_eq!(before_comment("    /// says sled"), "");
}
