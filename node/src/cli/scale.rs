//! `meridian scale [POOL]`

use clap::Args;
use http::Method;

use super::exit::{CliError, Exit};
use super::output::{json, line, or_dash, table};
use super::{Format, Global};
use crate::admin::api::backends::ScaleStatus;
use crate::alike;

#[derive(Debug, Clone, Args)]
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
    let unable: Vec<String> = pools.iter().flat_map(cannot).collect();
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
    unable.into_iter().for_each(line);
    Ok(())
}

/// The nodes that cannot act for a pool, a line for each reason.
fn cannot(pool: &ScaleStatus) -> Vec<String> {
    let name = &pool.pool;
    reasons(pool).iter().map(|each| format!("pool {name}: cannot act: {each}")).collect()
}

/// Each reason once, after the nodes that have it.
fn reasons(pool: &ScaleStatus) -> Vec<String> {
    alike::grouped(pool.unable.iter().map(|(node, why)| (Some(node.as_str()), why.as_str())))
}

/// What the load of this moment asks for, with its numbers; or why nobody would do it.
fn would(pool: &ScaleStatus) -> String {
    let ScaleStatus { pool: name, total, coming, wanted, target, each, measured, ready, .. } = pool;
    let counted = total + coming;
    let what = match *wanted {
        wanted if wanted > counted => format!("add {}, {counted} to {wanted}", wanted - counted),
        wanted if wanted < *total => format!("remove {}, {total} to {wanted}", total - wanted),
        _ => format!("stay, {counted} to {counted}"),
    };
    let numbers = format!("{target} is {measured} each over {ready} ready, {each} is wanted");
    let coming = match coming {
        0 => String::new(),
        coming => format!(", {coming} of them on their way"),
    };
    if pool.actor.is_some() {
        return format!("pool {name}: would {what}{coming}: {numbers}");
    }
    let nobody = match reasons(pool) {
        reasons if reasons.is_empty() => "no node has said yet that it can act".to_owned(),
        reasons => format!("no node can act: {}", reasons.join("; ")),
    };
    format!("pool {name}: nothing would be done: {nobody}. Otherwise it would {what}{coming}: {numbers}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> ScaleStatus {
        ScaleStatus {
            pool: "web".into(),
            min: 2,
            max: 8,
            ready: 2,
            total: 2,
            coming: 0,
            wanted: 6,
            target: "in_flight".into(),
            each: 20.0,
            measured: 60.0,
            dry_run: false,
            actor: Some("eu-1".into()),
            unable: std::collections::BTreeMap::new(),
            waits: None,
        }
    }

    #[test]
    fn what_would_be_done() {
        let numbers = "in_flight is 60 each over 2 ready, 20 is wanted";
        assert_eq!(would(&pool()), format!("pool web: would add 4, 2 to 6: {numbers}"));
        let coming = ScaleStatus { coming: 3, ..pool() };
        assert_eq!(
            would(&coming),
            format!("pool web: would add 1, 5 to 6, 3 of them on their way: {numbers}")
        );
        let fewer = ScaleStatus { total: 7, ..pool() };
        assert_eq!(would(&fewer), format!("pool web: would remove 1, 7 to 6: {numbers}"));
        let enough = ScaleStatus { total: 6, ..pool() };
        assert_eq!(would(&enough), format!("pool web: would stay, 6 to 6: {numbers}"));
    }

    #[test]
    fn where_nobody_can_act_that_is_said_and_why() {
        let nobody = ScaleStatus { actor: None, ..pool() };
        assert!(would(&nobody).starts_with("pool web: nothing would be done: no node has said yet"));
        let unable = (1..=6).map(|n| (format!("eu-{n}"), "no Docker Engine answers".to_owned())).collect();
        let said = would(&ScaleStatus { unable, ..nobody });
        let why = "no node can act: eu-1, eu-2 and 4 more: no Docker Engine answers. Otherwise it would add 4, 2 to 6";
        assert!(said.starts_with(&format!("pool web: nothing would be done: {why}")), "{said}");
    }
}
