//! `--watch`: an answer shown again and again, until Ctrl-C.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use super::exit::CliError;
use super::output::aside;
use super::{Format, Global};

/// Nodes are asked no more often.
const AT_LEAST: Duration = Duration::from_millis(200);

/// What `--watch` takes.
pub(super) fn every(text: &str) -> Result<Duration, String> {
    let every = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let least = humantime::format_duration(AT_LEAST);
    if every < AT_LEAST { Err(format!("the shortest is {least}")) } else { Ok(every) }
}

/// Runs a command once, or every so often where that is asked for. Its first failure is the command's; later ones are shown,
/// and it goes on: what is watched may be starting anew.
pub(super) async fn watched(
    global: &Global,
    show: impl AsyncFn() -> Result<(), CliError>,
) -> Result<(), CliError> {
    let Some(every) = global.watch else { return show().await };
    clear(global);
    show().await?;
    loop {
        tokio::time::sleep(every).await;
        clear(global);
        if let Err(error) = show().await {
            aside(format_args!("error: {error}"));
        }
    }
}

/// A new page on a terminal, an empty line elsewhere; between JSON values nothing is needed.
fn clear(global: &Global) {
    let mut out = std::io::stdout();
    let page: &[u8] = match (global.output, out.is_terminal()) {
        (Format::Json, _) => b"",
        (Format::Table, true) => b"\x1b[H\x1b[2J\x1b[3J",
        (Format::Table, false) => b"\n",
    };
    // Whoever closed the output does not look any more.
    let _ = out.write_all(page).and_then(|()| out.flush());
}
