//! `meridian pools [POOL]`

use clap::Args;
use http::Method;

use super::exit::{CliError, Exit};
use super::output::{json, line, table};
use super::{Format, Global};
use crate::admin::api::PoolStatus;

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
                    match &backend.zone {
                        Some(zone) => format!("{}/{zone}", backend.region),
                        None => backend.region.clone(),
                    },
                    backend.state.clone(),
                    backend.source.clone(),
                    backend.weight.to_string(),
                    backend.in_flight.to_string(),
                    backend.sessions.to_string(),
                    backend.requests.to_string(),
                    backend.reason.clone(),
                ]
            })
        }),
    );
}
