//! The writer's thread: it owns the file.
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use super::line::{Line, put};
use crate::config::model::{AccessFormat, AccessLog};

/// Bytes that are written at once.
const BUFFER_BYTES: usize = 64 * 1024;
/// How often an idle writer looks whether its file was renamed.
const LOOK: Duration = Duration::from_secs(1);
/// Lines between two looks while there is no pause.
const LINES_A_LOOK: usize = 4096;

/// What the writer is told.
#[derive(Debug)]
pub(super) enum Work {
    Line(Box<Line>),
    Redirect(Out, AccessFormat),
}

/// Where lines go.
#[derive(Debug)]
pub(super) enum Out {
    Stdout(BufWriter<io::Stdout>),
    File { path: PathBuf, file: BufWriter<File> },
}

impl Out {
    pub(super) fn open(to: &AccessLog) -> io::Result<Option<Self>> {
        Ok(match to {
            AccessLog::Off => None,
            AccessLog::Stdout => Some(Self::Stdout(BufWriter::with_capacity(BUFFER_BYTES, io::stdout()))),
            AccessLog::File(path) => Some(Self::File { path: path.clone(), file: append(path)? }),
        })
    }

    /// Opens the file anew when another one, or none, has its name now: logrotate has moved it away.
    fn follow(&mut self) -> io::Result<()> {
        let Self::File { path, file } = self else { return Ok(()) };
        let open = file.get_ref().metadata()?;
        let named = std::fs::metadata(&*path);
        if named.is_ok_and(|named| (named.dev(), named.ino()) == (open.dev(), open.ino())) {
            return Ok(());
        }
        // First the new one: when it cannot be had, lines still go into the old.
        let new = append(path)?;
        let old = std::mem::replace(file, new);
        old.into_inner().map_err(|error| error.into_error()).map(drop)
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(out) => out.write(bytes),
            Self::File { file, .. } => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout(out) => out.flush(),
            Self::File { file, .. } => file.flush(),
        }
    }
}

fn append(path: &Path) -> io::Result<BufWriter<File>> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    Ok(BufWriter::with_capacity(BUFFER_BYTES, file))
}

/// Writes until nobody can put anything any more.
pub(super) fn run(work: &Receiver<Work>, mut out: Out, mut format: AccessFormat) {
    let mut failing = false;
    loop {
        let first = match work.recv_timeout(LOOK) {
            Ok(first) => Some(first),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let mut result = out.follow();
        let rest = std::iter::from_fn(|| work.try_recv().ok());
        for one in first.into_iter().chain(rest).take(LINES_A_LOOK) {
            match one {
                Work::Line(line) => result = result.and_then(|()| put(&mut out, &line, format)),
                Work::Redirect(to, as_told) => {
                    result = result.and(out.flush());
                    (out, format) = (to, as_told);
                }
            }
        }
        match result.and(out.flush()) {
            Err(error) if !failing => {
                failing = true;
                tracing::warn!(%error, "the access log cannot be written; lines are lost until it can");
            }
            Err(_) => {}
            Ok(()) => failing = false,
        }
    }
}
