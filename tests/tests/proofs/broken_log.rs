//! Where the log goes may fill up or go away; the node does not.

use std::process::Command;

use tests::backend::http_backends;
use tests::client::Browser;
use tests::cluster::node_at;
use tests::prove;
use tests::services::Services;
use tests::wait::secs;

#[test]
fn a_log_that_cannot_be_written_stops_nothing() {
    prove!(Light, secs(90), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 1)]).await?;
        let mut node = node_at(stage, 0, "eu-1", "eu", Vec::new(), None);
        let start = node.command()?;
        let mut deaf = Command::new("sh");
        deaf.args(["-c", "exec \"$@\" >/dev/full 2>/dev/full", "sh"])
            .arg(start.get_program())
            .args(start.get_args())
            .args(["--log-level", "debug", "--access-log", "stdout"])
            .envs(start.get_envs().filter_map(|(name, value)| Some((name, value?))));
        node.launch_as(deaf)?;
        node.ready().await?;
        let file = stage.write("services.toml", Services::shop(&stage.net, &backends).text())?;
        node.cli().expect(tests::cli::code::OK, &["apply", tests::cli::text(&file)?]).await?;
        tests::wait::eventually("it serves", secs(20), async || Browser::new().visit(node.http()).await)
            .await?;
        // An orderly end says that no task was lost on the way.
        node.stop(secs(20)).await
    });
}
