//! Whether somebody sets this machine's clock, by what the system says of it.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::{Finding, ok, warn};

/// What systemd's own time service leaves once it has the time.
const MARKER: &str = "/run/systemd/timesync/synchronized";
/// timedatectl waits for a bus that may not answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks the system; nothing where it cannot be asked, as in most containers: the clock is the host's there.
pub(super) async fn look() -> Option<Finding> {
    let mut command = Command::new("timedatectl");
    command.args(["show", "--property=NTPSynchronized", "--value"]).kill_on_drop(true);
    let ran = command.stdin(Stdio::null()).stderr(Stdio::null()).output();
    let said = tokio::time::timeout(PATIENCE, ran).await.ok().and_then(Result::ok);
    let said = said.filter(|output| output.status.success());
    let said = said.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    judge(said.as_deref(), Path::new(MARKER).exists())
}

fn judge(said: Option<&str>, marked: bool) -> Option<Finding> {
    match (said, marked) {
        (Some("yes"), _) | (None, true) => Some(ok("clock", "set by a time server")),
        (Some("no"), _) => Some(warn(
            "clock",
            "no time server sets it",
            "timedatectl set-ntp true; a node whose clock is 500 ms off the mesh's is told of in status",
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn a_clock_that_nobody_sets_is_told_of() {
        let verdict = |said, marked| judge(said, marked).map(|finding| finding.verdict);
        assert_eq!(verdict(Some("yes"), false), Some(Verdict::Ok));
        assert_eq!(verdict(Some("no"), true), Some(Verdict::Warn));
        assert_eq!(verdict(None, true), Some(Verdict::Ok));
        assert_eq!(verdict(None, false), None);
        assert_eq!(verdict(Some(""), false), None, "an old timedatectl says nothing");
    }
}
