//! The program's log: to standard error, as text or JSON.

use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;

use crate::config::model::{LogConfig, LogFormat};

/// A level that cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("[log] level {level:?} is not understood: {reason}; for example \"info\" or \"gossip=debug,info\"")]
pub(crate) struct LogLevelError {
    level: String,
    reason: String,
}

/// Gives the running log another filter; whether that worked.
type Reload = Box<dyn Fn(EnvFilter) -> bool + Send + Sync>;

static RELOAD: OnceLock<Reload> = OnceLock::new();

/// Begins to log. A second call in one process changes nothing.
pub(crate) fn start(config: &LogConfig) -> Result<(), LogLevelError> {
    let filter = filter(&config.level)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // Told on standard error as well, by a macro that panics when that is the broken one.
        .log_internal_errors(false);
    // An error means that a log was started before: by a test.
    match config.format {
        LogFormat::Text => {
            let builder = builder.with_ansi(false).with_filter_reloading();
            let handle = builder.reload_handle();
            if builder.try_init().is_ok() {
                let _ = RELOAD.set(Box::new(move |filter| handle.reload(filter).is_ok()));
            }
        }
        LogFormat::Json => {
            let builder = builder.json().with_filter_reloading();
            let handle = builder.reload_handle();
            if builder.try_init().is_ok() {
                let _ = RELOAD.set(Box::new(move |filter| handle.reload(filter).is_ok()));
            }
        }
    }
    Ok(())
}

/// Takes another level from now on.
pub(crate) fn set_level(level: &str) -> Result<(), LogLevelError> {
    let filter = filter(level)?;
    match RELOAD.get().is_some_and(|reload| reload(filter)) {
        true => Ok(()),
        false => {
            Err(LogLevelError { level: level.to_owned(), reason: "the log was not started here".into() })
        }
    }
}

fn filter(level: &str) -> Result<EnvFilter, LogLevelError> {
    let refused = |reason: String| LogLevelError { level: level.to_owned(), reason };
    let filter = EnvFilter::builder().parse(level).map_err(|error| refused(error.to_string()))?;
    // chitchat warns about every peer it has not heard of yet; its state is reported by this program's own events.
    Ok(filter.add_directive("chitchat=error".parse().map_err(|_| refused("chitchat".into()))?))
}
