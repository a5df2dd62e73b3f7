//! `pool.*.scale`

use std::time::Duration;

use crate::config::model::{DockerTemplate, Scale, ScaleTarget, ScaleVia};
use crate::config::read::{self, ms, secs};
use crate::config::walk::{Table, Value};

/// How long a load must have been low where the file says nothing.
const COOLDOWN: Duration = secs(60);
const VIA: &str = "via = { exec = [\"/usr/local/bin/scale\"] }, { webhook = \"http://127.0.0.1:9000/scale\" }, or \
                   { docker = { image = \"shop:1\", port = 8080 } }";
const TARGET: &str = "target = { in_flight = 20 }, { requests = 100 }, or { p99 = \"200ms\" }";

pub(super) fn read(value: &Value<'_>) -> Option<Scale> {
    let mut table = value.table()?;
    let min = table.optional("min", read::integer::<u32>(1..=10_000)).unwrap_or(1);
    let max = table.required("max", read::located(read::integer::<u32>(1..=10_000)));
    if let Some(max) = max.as_ref().filter(|max| max.value < min) {
        table.sink().error(max.span.clone(), format!("`max` is less than `min`, which is {min}"), None);
    }
    let target = table.required("target", target);
    let cooldown = table.optional("cooldown", read::duration(secs(1)..=secs(86_400)));
    let via = table.required("via", via);
    let dry_run = table.optional("dry_run", read::boolean);
    table.finish();
    Some(Scale {
        min,
        max: max?.value,
        target: target?,
        cooldown: cooldown.unwrap_or(COOLDOWN),
        via: via?,
        dry_run: dry_run.unwrap_or(false),
    })
}

fn target(value: &Value<'_>) -> Option<ScaleTarget> {
    let mut table = value.table()?;
    let in_flight = table.optional("in_flight", read::number(0.1..=1e6)).map(ScaleTarget::InFlight);
    let requests = table.optional("requests", read::number(0.1..=1e6)).map(ScaleTarget::Requests);
    let p99 = table.optional("p99", read::duration(ms(1)..=secs(3600))).map(ScaleTarget::P99);
    one(value, table, [in_flight, requests, p99], TARGET)
}

fn via(value: &Value<'_>) -> Option<ScaleVia> {
    let mut table = value.table()?;
    let exec = table.optional("exec", program).map(ScaleVia::Exec);
    let webhook = table.optional("webhook", url).map(ScaleVia::Webhook);
    let docker = table.optional("docker", docker).map(ScaleVia::Docker);
    one(value, table, [exec, webhook, docker], VIA)
}

/// The one of three that is there.
fn one<T>(value: &Value<'_>, table: Table<'_>, found: [Option<T>; 3], hint: &str) -> Option<T> {
    table.finish();
    let mut found: Vec<T> = found.into_iter().flatten().collect();
    if found.len() > 1 {
        value.wrong_but(format!("`{}` names several", value.name), format!("one of: {hint}"));
        return None;
    }
    let one = found.pop();
    if one.is_none() {
        value.sink.absent(value.span.clone(), format!("`{}` names nothing", value.name), Some(hint.into()));
    }
    one
}

fn program(value: &Value<'_>) -> Option<Vec<String>> {
    let words = read::list(read::text)(value)?;
    if words.first().is_none_or(|program| !program.starts_with('/')) {
        value.wrong_but("a program is named by its whole path", "exec = [\"/usr/local/bin/scale\", \"web\"]");
        return None;
    }
    Some(words)
}

fn url(value: &Value<'_>) -> Option<String> {
    let text = read::text(value)?;
    let fits = |uri: &http::Uri| uri.scheme_str() == Some("http") && uri.host().is_some();
    if !text.parse().is_ok_and(|uri| fits(&uri)) {
        value.wrong_but(
            format!("`{text}` is no http:// URL"),
            "something on the node's own machine or network; what is farther is best called by `exec`",
        );
        return None;
    }
    Some(text)
}

fn docker(value: &Value<'_>) -> Option<DockerTemplate> {
    let mut table = value.table()?;
    let image = table.required("image", read::text);
    let port = table.required("port", read::integer::<u16>(1..=65_535));
    let network = table.optional("network", read::text);
    let env = table.optional("env", read::list(read::text));
    table.finish();
    Some(DockerTemplate { image: image?, port: port?, network, env: env.unwrap_or_default() })
}
