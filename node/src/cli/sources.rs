//! `meridian sources`

use http::Method;

use super::exit::CliError;
use super::output::{json, line, table};
use super::{Format, Global};
use crate::admin::api::backends::SourceStatus;

pub(super) async fn run(global: &Global) -> Result<(), CliError> {
    let sources: Vec<SourceStatus> = global.client()?.json(Method::GET, "/v1/sources").await?;
    if global.output == Format::Json {
        return json(&sources);
    }
    if sources.is_empty() {
        line("all backends stand in the configuration");
        return Ok(());
    }
    table(
        &["pool", "source", "node", "state", "backends", "of"],
        sources.into_iter().map(|source| {
            let of = match (&source.failing_since, &source.error) {
                (Some(since), Some(error)) => format!("{}: since {since}: {error}", source.of),
                _ => source.of,
            };
            vec![source.pool, source.source, source.node, source.state, source.backends.to_string(), of]
        }),
    );
    Ok(())
}
