//! Configuration: file → validated, immutable model.
//!
//! ```text
//! services.toml ── services::parse ──┐                            ┌─▶ model::Services + warnings
//!                                    ├─ walk (spanned tree) ──────┤
//! node.toml ────── node_file::parse ─┘    └ read (one value)      └─▶ Report: every error, line and caret
//! ```
//!
//! A file is validated whole: all its errors are found in one pass, and a file with an error changes nothing (I12).
//! Nothing here touches the machine but [`read_file`], [`ServicesFile::read`], [`node_file::load`] and [`node_file::Machine::probe`].

mod diagnostics;
mod file;
pub mod model;
pub mod node_file;
pub mod prefixes;
mod read;
mod report;
pub mod services;
mod services_file;
mod suggest;
mod walk;

pub use file::{Kind, read_file};
pub use report::{Entry, Report, Severity};
pub use services_file::ServicesFile;
pub(crate) use suggest::nearest;

/// The data folder when nobody names one.
pub fn default_data() -> std::path::PathBuf {
    node_file::Machine::probe().data
}
