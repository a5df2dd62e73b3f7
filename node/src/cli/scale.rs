//! `meridian scale [POOL]`

use clap::Args;
use http::Method;

use super::exit::{CliError, Exit};
use super::output::{json, line, or_dash, table};
use super::{Format, Global};
use crate::admin::api::backends::ScaleStatus;

#[derive(Debug, Args)]
pub(super) struct ScaleArgs {
    /// Only this pool.
    pool: Option<String>,
    /// Say what would be done now. That is all this command ever does: `dry_run = true` in a pool's `scale` makes the mesh
    /// itself decide without acting.
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(global: &Global, args: ScaleArgs) -> Result<(), CliError> {
    let mut pools: Vec<ScaleStatus> = global.client()?.json(Method::GET, "/v1/scale").await?;
    if let Some(wanted) = &args.pool {
        pools.retain(|pool| pool.pool == *wanted);
        if pools.is_empty() {
            let error = CliError::new(Exit::Failure, format!("no pool {wanted:?} scales"));
            return Err(error.hint("[pool.NAME] scale = { max = 8, target = { in_flight = 20 }, via = … }"));
        }
    }
    if global.output == Format::Json {
        return json(&pools);
    }
    if args.dry_run {
        pools.iter().for_each(|pool| line(would(pool)));
        return Ok(());
    }
    if pools.is_empty() {
        line("no pool scales");
        return Ok(());
    }
    table(
        &["pool", "min", "max", "ready", "total", "wanted", "target", "each has", "acts", "waits"],
        pools.into_iter().map(|pool| {
            vec![
                pool.pool,
                pool.min.to_string(),
                pool.max.to_string(),
                pool.ready.to_string(),
                pool.total.to_string(),
                pool.wanted.to_string(),
                format!("{} {}", pool.target, pool.each),
                pool.measured.to_string(),
                or_dash(pool.actor.as_deref()),
                or_dash(pool.waits.as_deref()),
            ]
        }),
    );
    Ok(())
}

/// What the load of this moment asks for, with its numbers.
fn would(pool: &ScaleStatus) -> String {
    let ScaleStatus { pool: name, total, wanted, target, each, measured, ready, .. } = pool;
    let what = match wanted.cmp(total) {
        std::cmp::Ordering::Greater => format!("would add {}", wanted - total),
        std::cmp::Ordering::Less => format!("would remove {}", total - wanted),
        std::cmp::Ordering::Equal => "would stay".to_owned(),
    };
    format!(
        "pool {name}: {what}, {total} to {wanted}: {target} is {measured} each over {ready} ready, {each} is wanted"
    )
}
