//! The program's log: to standard error, as text or JSON.

use tracing_subscriber::EnvFilter;

use crate::config::model::{LogConfig, LogFormat};

/// A level that cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("[log] level {level:?} is not understood: {reason}; for example \"info\" or \"gossip=debug,info\"")]
pub(crate) struct LogLevelError {
    level: String,
    reason: String,
}

/// Begins to log. A second call in one process changes nothing.
pub(crate) fn start(config: &LogConfig) -> Result<(), LogLevelError> {
    let refused = |reason: String| LogLevelError { level: config.level.clone(), reason };
    let filter = EnvFilter::builder().parse(&config.level).map_err(|error| refused(error.to_string()))?;
    // chitchat warns about every peer it has not heard of yet; its state is reported by this program's own events.
    let filter = filter.add_directive("chitchat=error".parse().map_err(|_| refused("chitchat".into()))?);
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // Told on standard error as well, by a macro that panics when that is the broken one.
        .log_internal_errors(false);
    // An error means that a log was started before: by a test.
    let _ = match config.format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    Ok(())
}
