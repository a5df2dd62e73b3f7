//! How far long work is: a bar on a terminal, a line for every change elsewhere. The only file that names indicatif.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

use super::output::aside;

/// The sessions that are left of so many.
#[derive(Debug)]
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    most: u64,
    last: Option<u64>,
}

impl Progress {
    /// Begins with so many left.
    pub(super) fn of(left: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:40} {msg} · {elapsed}");
            ProgressBar::new(left).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Self { bar, most: left, last: None }
    }

    /// Tells how many are left now.
    pub(super) fn left(&mut self, left: u64) {
        if self.last.replace(left) == Some(left) {
            return;
        }
        self.most = self.most.max(left);
        match &self.bar {
            Some(bar) => {
                bar.set_length(self.most);
                bar.set_message(format!("sessions left: {left}"));
                bar.set_position(self.most - left);
            }
            None if left > 0 => aside(format_args!("sessions left: {left}")),
            None => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
