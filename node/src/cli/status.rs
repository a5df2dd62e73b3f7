//! `meridian status`

use http::Method;

use super::exit::CliError;
use super::output::{hint, json, line};
use super::{Format, Global, members, pools, rtt};
use crate::admin::api::Status;

pub(super) async fn run(global: &Global) -> Result<(), CliError> {
    let status: Status = global.client()?.json(Method::GET, "/v1/status").await?;
    if global.output == Format::Json {
        return json(&status);
    }
    let revision = match &status.revision {
        Some(revision) => format!(
            "revision {} ({}) on {} of {} nodes",
            revision.epoch,
            &revision.hash.get(..12).unwrap_or(&revision.hash),
            revision.nodes_on,
            revision.nodes
        ),
        None => "no configuration yet".to_owned(),
    };
    let verdict = if status.degraded { "degraded" } else { "healthy" };
    line(format_args!(
        "mesh {verdict} · {revision} · {} sessions · asked {}",
        status.sessions.count, status.node
    ));
    for problem in &status.problems {
        line(format_args!("  ! {problem}"));
    }
    for warning in &status.warnings {
        line(format_args!("  ~ {warning}"));
    }
    for intent in &status.intents {
        line(format_args!(
            "  - {} {}: {}, ordered on {} at {}",
            intent.kind, intent.name, intent.order, intent.by, intent.at
        ));
    }
    line("");
    members::print(&status.members);
    rtt::print_regions(&status);
    if !status.pools.is_empty() {
        line("");
        pools::print(&status.pools);
    }
    if status.revision.is_none() {
        hint("give the mesh something to serve: meridian apply services.toml");
    }
    Ok(())
}
