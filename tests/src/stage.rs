//! Where one proof plays: its network, its folder, its bound, its turn on the machine.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Resource, getrlimit, setrlimit};
use tempfile::TempDir;

use crate::cli::Cli;
use crate::net::{Net, lock_file, shared_folder};
use crate::process::tail;

/// How much of the machine a proof needs. Proofs wait for their turn: six nodes at once are enough for two cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// A node or two, or only the command line.
    Light,
    /// A whole mesh.
    Heavy,
}

/// What a proof is given.
#[derive(Debug)]
pub struct Stage {
    /// Its addresses.
    pub net: Net,
    program: PathBuf,
    folder: TempDir,
    _turn: File,
}

impl Stage {
    fn set(program: &str, weight: Weight) -> Result<Self> {
        let turn = take_turn(weight)?;
        raise_file_limit();
        let folder = tempfile::Builder::new().prefix("meridian-test-").tempdir()?;
        Ok(Self { net: Net::claim()?, program: program.into(), folder, _turn: turn })
    }

    /// The program under test.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// A folder that goes when the proof has held.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The command line, asking no node in particular.
    pub fn cli(&self) -> Cli {
        Cli::new(&self.program)
    }

    /// Writes a file into the folder.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.folder().join(name);
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    fn print_logs(&self) {
        let Ok(entries) = std::fs::read_dir(self.folder()) else { return };
        let mut logs: Vec<PathBuf> = entries
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
            .collect();
        logs.sort();
        for log in logs {
            let text = std::fs::read(&log).unwrap_or_default();
            let name = log.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            eprintln!("──── {name}\n{}", tail(&String::from_utf8_lossy(&text), LOG_LINES));
        }
    }
}

const LOG_LINES: usize = 40;

/// A thousand users at once need more than the usual soft limit of 1,024 open files; the hard one is enough.
fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Waits until the machine has room, and holds that room: a whole mesh waits for one of the heavy places, all
/// others for a light one. The places are locked files, so they count over all test processes.
fn take_turn(weight: Weight) -> Result<File> {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let (kind, places) = match weight {
        Weight::Light => ("light", cores.div_ceil(2)),
        Weight::Heavy => ("heavy", cores.div_ceil(4)),
    };
    let folder = shared_folder()?;
    let place = |index: usize| lock_file(&folder.join(format!("{kind}-{index}.lock")));
    for index in 0..places {
        let file = place(index)?;
        if file.try_lock().is_ok() {
            return Ok(file);
        }
    }
    let file = place(std::process::id() as usize % places)?;
    file.lock().context("waiting for a turn")?;
    Ok(file)
}

/// Runs a proof on a stage of its own, within a bound that begins when it is its turn. On failure the ends of all
/// logs are printed first. Use [`prove!`](crate::prove), which knows the program.
///
/// # Panics
/// When the proof fails, panics or takes longer.
pub fn prove<P>(program: &str, weight: Weight, within: Duration, proof: P)
where
    P: AsyncFnOnce(&Stage) -> Result<()>,
{
    let stage = Stage::set(program, weight).expect("a stage can be set");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be built");
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async { tokio::time::timeout(within, proof(&stage)).await })
    }));
    runtime.shutdown_background();
    match outcome {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => {
            stage.print_logs();
            panic!("{error:?}");
        }
        Ok(Err(_)) => {
            stage.print_logs();
            panic!("the proof took longer than {within:?}");
        }
        Err(panic) => {
            stage.print_logs();
            resume_unwind(panic);
        }
    }
}

/// Prints why a proof cannot be made here, so that a skip is never silent.
///
/// # Panics
/// With `MERIDIAN_REQUIRE_PEERS=1`, as in CI: there no proof may be left out.
pub fn skip(reason: &str) {
    assert!(
        std::env::var_os("MERIDIAN_REQUIRE_PEERS").is_none_or(|value| value != "1"),
        "may not skip: {reason}"
    );
    eprintln!("SKIPPED: {reason}");
}

/// A proof with real processes: `prove!(Heavy, secs(90), async |stage| { ... Ok(()) })`.
#[macro_export]
macro_rules! prove {
    ($weight:ident, $within:expr, $proof:expr) => {
        $crate::stage::prove(
            env!("CARGO_BIN_EXE_meridian-under-test"),
            $crate::stage::Weight::$weight,
            $within,
            $proof,
        )
    };
}
