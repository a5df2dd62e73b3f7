//! `meridian status`

use http::Method;

use super::exit::CliError;
use super::output::{hint, item, json, line};
use super::{Format, Global, members, pools, problems, rtt};
use crate::admin::api::{IntentStatus, Status};

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
    let sessions = sessions(&status);
    line(format_args!("mesh {verdict} · {revision} · {sessions} · asked {}", status.node));
    for problem in problems::grouped(&status.problems, &status.members) {
        item("!", &problem);
    }
    for warning in &status.warnings {
        item("~", warning);
    }
    for IntentStatus { kind, name, order, by, at, .. } in &status.intents {
        item("-", &format!("{kind} {name}: {order}, ordered on {by} at {at}"));
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

/// How many sessions there are, and how many of them are of backends and services that are gone.
fn sessions(status: &Status) -> String {
    let count = status.sessions.count;
    let there: u64 =
        status.pools.iter().flat_map(|pool| &pool.backends).map(|backend| backend.sessions).sum();
    match count.saturating_sub(there) {
        0 => format!("{count} sessions"),
        gone => format!("{count} sessions ({gone} of what the configuration no longer has)"),
    }
}
