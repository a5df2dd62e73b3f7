//! `meridian pools [POOL]`

use clap::Args;
use http::Method;

use super::exit::{CliError, Exit};
use super::output::{json, line, table};
use super::{Format, Global};
use crate::admin::api::{BackendStatus, PoolStatus};

#[derive(Debug, Args)]
pub(super) struct PoolsArgs {
    /// Only this pool.
    pool: Option<String>,
}

pub(super) async fn run(global: &Global, args: &PoolsArgs) -> Result<(), CliError> {
    let mut pools: Vec<PoolStatus> = global.client()?.json(Method::GET, "/v1/pools").await?;
    if let Some(wanted) = &args.pool {
        let names: Vec<String> = pools.iter().map(|pool| pool.name.clone()).collect();
        pools.retain(|pool| pool.name == *wanted);
        if pools.is_empty() {
            let error = CliError::new(Exit::Failure, format!("there is no pool {wanted:?}"));
            return Err(match names.is_empty() {
                true => error.hint("no configuration is in force yet: meridian apply services.toml"),
                false => error.hint(format!("the pools are {}", names.join(", "))),
            });
        }
    }
    match global.output {
        Format::Json => json(&pools),
        Format::Table => {
            print(&pools);
            Ok(())
        }
    }
}

/// How many sessions stay on a backend, and whether others serve them meanwhile.
fn sessions(backend: &BackendStatus) -> String {
    let BackendStatus { sessions, sessions_lent, .. } = backend;
    if *sessions_lent > 0 { format!("{sessions} (lent)") } else { sessions.to_string() }
}

/// Where it stands: `REGION`, `REGION/ZONE` or `REGION/ZONE/RACK`, with a dash for a zone that has no name.
fn place(backend: &BackendStatus) -> String {
    match (&backend.zone, &backend.rack) {
        (None, None) => backend.region.clone(),
        (Some(zone), None) => format!("{}/{zone}", backend.region),
        (zone, Some(rack)) => format!("{}/{}/{rack}", backend.region, zone.as_deref().unwrap_or("-")),
    }
}

/// The table that `status` shows too.
pub(super) fn print(pools: &[PoolStatus]) {
    if pools.is_empty() {
        line("no pools");
        return;
    }
    table(
        &[
            "pool",
            "backend",
            "region",
            "state",
            "source",
            "weight",
            "in flight",
            "sessions",
            "requests",
            "reason",
        ],
        pools.iter().flat_map(|pool| {
            pool.backends.iter().map(|backend| {
                vec![
                    pool.name.clone(),
                    backend.address.clone(),
                    place(backend),
                    backend.state.clone(),
                    backend.source.clone(),
                    backend.weight.to_string(),
                    backend.in_flight.to_string(),
                    sessions(backend),
                    backend.requests.to_string(),
                    backend.reason.clone(),
                ]
            })
        }),
    );
}
