//! The access log: one line a request or TCP connection, written by a thread of its own.
//!
//! ```text
//!   worker ──(bounded queue; full: the line is dropped and counted)──▶ writer ──▶ standard output, or a file
//!                                                                        └ opened anew when its file was renamed, or on SIGHUP
//! ```
//!
//! Workers never wait: when the disk is slower than the traffic, lines are lost and requests are not.
mod line;
mod writer;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, sync_channel};

pub(super) use self::line::Line;
use self::writer::{Out, Work};
use super::outcome::Counters;
use crate::config::model::{AccessFormat, AccessLog};

/// Lines that may wait for the writer.
const QUEUE: usize = 8192;

/// Where workers put lines. Clones feed the same writer, which ends when the last is dropped.
#[derive(Debug, Clone)]
pub(super) struct AccessLogger {
    queue: SyncSender<Work>,
    counters: Arc<Counters>,
}

impl AccessLogger {
    /// Opens the log and starts its writer; `None` when the log is off.
    ///
    /// # Errors
    /// When the file cannot be opened or the thread not started.
    pub(super) fn open(
        to: &AccessLog,
        format: AccessFormat,
        counters: Arc<Counters>,
    ) -> io::Result<Option<Self>> {
        let Some(out) = Out::open(to)? else { return Ok(None) };
        let (queue, work) = sync_channel(QUEUE);
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || writer::run(&work, out, format))?;
        Ok(Some(Self { queue, counters }))
    }

    /// Hands a line over, or drops it.
    pub(super) fn log(&self, line: Box<Line>) {
        if self.queue.try_send(Work::Line(line)).is_err() {
            self.counters.log_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes to this from now on, opened anew. Waits for a place in the queue: not for workers.
    ///
    /// # Errors
    /// When the file cannot be opened; the lines then go where they went.
    pub(super) fn redirect(&self, to: &AccessLog, format: AccessFormat) -> io::Result<()> {
        if let Some(out) = Out::open(to)? {
            // The writer ends with the last logger, and this is one.
            let _ = self.queue.send(Work::Redirect(out, format));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
