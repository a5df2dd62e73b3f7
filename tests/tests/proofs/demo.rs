//! `meridian demo`: one command shows the whole story and leaves nothing behind.

use anyhow::{Result, ensure};
use tests::cli::code;
use tests::prove;
use tests::wait::{eventually, secs};

/// Processes other than this one that were started from the program under test with this word in their command line.
fn left_over(word: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if pid != std::process::id() && command.contains(word) {
            found.push(command);
        }
    }
    Ok(found)
}

#[test]
fn the_demo_tells_its_story_ends_by_itself_and_leaves_nothing_behind() {
    prove!(Heavy, secs(120), async |stage| {
        let temporary = stage.folder().join("tmp");
        std::fs::create_dir(&temporary)?;
        let mut command =
            stage.cli().command(&["demo", "--kill", "eu-1@1s", "--fail", "us@3s", "--for", "14s"]);
        command.env("TMPDIR", &temporary).env("HOME", &temporary);
        let log = stage.folder().join("demo.log");
        let mut demo = tests::process::Process::spawn("demo", command, &log)?;
        let status = demo.exit(secs(90)).await?;
        let said = demo.log();
        ensure!(status.success(), "the demo ends with {status}:\n{said}");
        for node in ["eu-1", "eu-2", "us-1", "us-2", "ap-1", "ap-2"] {
            ensure!(said.contains(node), "{node} is not shown:\n{said}");
        }
        for tried in ["curl", "dig", "+subnet=", "status"] {
            ensure!(said.contains(tried), "{tried} is not among the commands to try:\n{said}");
        }
        for measured in ["eu-1", "users"] {
            let timed =
                |line: &str| line.contains(measured) && line.contains(" after ") && line.ends_with(" s");
            ensure!(said.lines().any(timed), "no measured time for {measured}:\n{said}");
        }

        let left: Vec<_> = std::fs::read_dir(&temporary)?.flatten().map(|entry| entry.path()).collect();
        ensure!(left.is_empty(), "left behind: {left:?}");
        let word = temporary.to_string_lossy().into_owned();
        eventually("no process is left", secs(5), async || {
            let left = left_over(&word)?;
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })
        .await
    });
}

#[test]
fn control_c_stops_the_demo_and_cleans_up() {
    prove!(Heavy, secs(90), async |stage| {
        let temporary = stage.folder().join("tmp");
        std::fs::create_dir(&temporary)?;
        let mut command = stage.cli().command(&["demo", "--regions", "2", "--nodes", "1"]);
        command.env("TMPDIR", &temporary).env("HOME", &temporary);
        let mut demo = tests::process::Process::spawn("demo", command, &stage.folder().join("demo.log"))?;
        eventually("the demo is ready", secs(40), async || {
            demo.must_run()?;
            ensure!(demo.log().contains("curl"), "{}", demo.log_tail(3));
            Ok(())
        })
        .await?;
        demo.signal(rustix::process::Signal::INT)?;
        let status = demo.exit(secs(20)).await?;
        ensure!(status.code() == Some(code::OK), "{status}:\n{}", demo.log());
        let left: Vec<_> = std::fs::read_dir(&temporary)?.flatten().map(|entry| entry.path()).collect();
        ensure!(left.is_empty(), "left behind: {left:?}");
        Ok(())
    });
}
