//! How far long work is: a bar on a terminal, a line for every change elsewhere. The only file that names indicatif.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

use super::escape::Cell;
use super::output::aside;

/// What is left of so many.
#[derive(Debug)]
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    most: u64,
    last: Option<String>,
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

    /// Tells how many are left now, in these words.
    pub(super) fn left(&mut self, left: u64, words: String) {
        if self.last.as_ref() == Some(&words) {
            return;
        }
        self.last = Some(words.clone());
        self.most = self.most.max(left);
        match &self.bar {
            Some(bar) => {
                bar.set_length(self.most);
                bar.set_message(Cell(words).to_string());
                bar.set_position(self.most - left);
            }
            None if left > 0 => aside(words),
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
