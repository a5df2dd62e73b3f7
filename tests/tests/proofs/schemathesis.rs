//! The admin API against its own description: requests made by schemathesis, valid and not; no 5xx, and every answer as described.

use anyhow::ensure;
use tests::backend::http_backends;
use tests::cluster::Cluster;
use tests::peer;
use tests::prove;
use tests::services::Services;
use tests::wait::secs;

#[test]
fn the_api_is_as_it_describes_itself() {
    prove!(Heavy, secs(240), async |stage| {
        if !peer::has_python_module("schemathesis", "schemathesis").await {
            return Ok(());
        }
        let backends = http_backends(&stage.net, &[("eu", 2)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 2)]).await?;
        mesh.apply("eu-1", &Services::shop(&stage.net, &backends)).await?;
        mesh.healthy().await?;
        let node = mesh.node("eu-1");
        let url = format!("http://{}/v1/openapi.json", node.admin());
        let checks =
            "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";
        let mut command = tokio::process::Command::new("python3");
        let words = [
            "-m",
            "schemathesis.cli",
            "run",
            &url,
            "--checks",
            checks,
            "--max-examples",
            "15",
            "--seed",
            "7",
            "--exclude-path",
            "/v1/events",
            "--request-timeout",
            "10",
            "--phases",
            "examples,coverage,fuzzing",
        ];
        command.args(words).current_dir(stage.folder()).kill_on_drop(true);
        command.env("NO_COLOR", "1").env("COLUMNS", "160");
        let ran = command.output().await?;
        let said = String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
        ensure!(ran.status.success(), "schemathesis finds:\n{said}");
        ensure!(said.contains("Tested: ") || said.contains("operations"), "it has tested nothing:\n{said}");
        node.cli().status().await.map(drop)
    });
}
