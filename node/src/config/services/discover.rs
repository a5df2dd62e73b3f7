//! `pool.*.discover` and `pool.*.lease`

use std::time::Duration;

use gossip::id::RegionName;

use super::pool::{Regions, is_name, region_of};
use crate::config::model::{
    DnsSpec, DockerSpec, FileSpec, KubernetesSpec, LeaseRule, RecordKind, SourceSpec,
};
use crate::config::read::{self, ms, secs};
use crate::config::walk::{At, Table, Value};

/// How often DNS is asked at least, where the file says nothing: a TTL may be a day.
const REFRESH: Duration = secs(60);

const RECORDS: &[(&str, RecordKind)] =
    &[("srv", RecordKind::Srv), ("a", RecordKind::A), ("aaaa", RecordKind::Aaaa)];

/// Reads `discover`; the regions it names are added to `regions`.
pub(super) fn read(
    value: &Value<'_>,
    declared: Regions<'_>,
    regions: &mut Vec<At<RegionName>>,
) -> Option<Vec<SourceSpec>> {
    let mut table = value.table()?;
    let mut specs = Vec::new();
    for member in members(&mut table, "file") {
        specs.extend(file(&member, declared, regions).map(SourceSpec::File));
    }
    for member in members(&mut table, "dns") {
        specs.extend(dns(&member, declared, regions).map(SourceSpec::Dns));
    }
    for member in members(&mut table, "docker") {
        specs.extend(docker(&member).map(SourceSpec::Docker));
    }
    for member in members(&mut table, "kubernetes") {
        specs.extend(kubernetes(&member, declared, regions).map(SourceSpec::Kubernetes));
    }
    table.finish();
    let twice = specs.iter().enumerate().find(|(at, spec)| {
        specs[..*at].iter().any(|other| other.kind() == spec.kind() && other.scope() == spec.scope())
    });
    if let Some((_, spec)) = twice {
        let (kind, scope) = (spec.kind().as_str(), spec.scope());
        value.wrong(format!("`discover.{kind}` names {scope} twice"));
    }
    Some(specs)
}

/// `lease = { ttl }`
pub(super) fn lease(value: &Value<'_>) -> Option<LeaseRule> {
    let mut table = value.table()?;
    let ttl = table.required("ttl", read::duration(secs(1)..=secs(86_400)));
    table.finish();
    Some(LeaseRule { ttl: ttl? })
}

/// One table, or a list of tables.
fn members<'t>(table: &mut Table<'t>, key: &'static str) -> Vec<Value<'t>> {
    let Some(value) = table.value(key) else { return Vec::new() };
    match value.is_table() {
        true => vec![value],
        false => value.list().into_iter().flatten().collect(),
    }
}

/// The region that a source names, else the only one there is.
fn region(
    table: &mut Table<'_>,
    of: &Value<'_>,
    declared: Regions<'_>,
    regions: &mut Vec<At<RegionName>>,
) -> Option<RegionName> {
    let region = match table.value("region") {
        Some(value) => read::located(read::name::<RegionName>)(&value),
        None => region_of(of, declared),
    };
    regions.extend(region.clone());
    region.map(|region| region.value)
}

fn file(value: &Value<'_>, declared: Regions<'_>, regions: &mut Vec<At<RegionName>>) -> Option<FileSpec> {
    let mut table = value.table()?;
    let path = table.required("path", read::path);
    // Entries may each name their own: only what is written, or what cannot be meant otherwise.
    let named = table.place("region").is_some() || declared.len() < 2;
    let region = if named { region(&mut table, value, declared, regions) } else { None };
    table.optional("region", |_| Some(()));
    table.finish();
    Some(FileSpec { path: path?, region })
}

fn dns(value: &Value<'_>, declared: Regions<'_>, regions: &mut Vec<At<RegionName>>) -> Option<DnsSpec> {
    let mut table = value.table()?;
    let name = table.required("name", domain);
    let asked = table.optional("type", read::choice(RECORDS, &[]));
    let service = name.as_ref().is_some_and(|name| name.starts_with('_'));
    let record = asked.unwrap_or(if service { RecordKind::Srv } else { RecordKind::A });
    let port = table.optional("port", read::located(read::integer::<u16>(1..=65_535)));
    match (&port, record) {
        (Some(port), RecordKind::Srv) => {
            let message = "SRV records have ports of their own";
            table.sink().error(port.span.clone(), message, Some("addresses alone: type = \"a\"".into()));
        }
        (None, RecordKind::A | RecordKind::Aaaa) if name.is_some() => {
            let message = "`port` is missing here: A and AAAA records have none";
            table.sink().absent(table.span(), message, Some("port = 8080, or type = \"srv\"".into()));
        }
        _ => {}
    }
    let resolvers = table.optional("resolvers", read::list(read::socket));
    let refresh = table.optional("refresh", read::duration(secs(1)..=secs(86_400)));
    let region = region(&mut table, value, declared, regions);
    table.finish();
    Some(DnsSpec {
        name: name?,
        record,
        port: port.map(|port| port.value),
        resolvers: resolvers.unwrap_or_default(),
        region: region?,
        refresh: refresh.unwrap_or(REFRESH),
    })
}

/// A domain name, taken as absolute.
fn domain(value: &Value<'_>) -> Option<String> {
    let text = read::text(value)?;
    let name = text.strip_suffix('.').unwrap_or(&text);
    let labels = name.split('.').all(|label| (1..=63).contains(&label.len()));
    if !is_name(name) || !labels || name.len() > 253 {
        value.wrong(format!("`{text}` is no domain name"));
        return None;
    }
    Some(name.to_ascii_lowercase())
}

fn docker(value: &Value<'_>) -> Option<DockerSpec> {
    let mut table = value.table()?;
    let label = table.required("label", label);
    let network = table.optional("network", read::text);
    let published = table.optional("published", read::boolean);
    table.finish();
    Some(DockerSpec { label: label?, network, published: published.unwrap_or(false) })
}

fn label(value: &Value<'_>) -> Option<String> {
    let text = read::text(value)?;
    if !text.split_once('=').is_some_and(|(key, value)| !key.is_empty() && !value.is_empty()) {
        value.wrong_but(format!("`{text}` is no label"), "a label is written \"meridian.pool=web\"");
        return None;
    }
    Some(text)
}

fn kubernetes(
    value: &Value<'_>,
    declared: Regions<'_>,
    regions: &mut Vec<At<RegionName>>,
) -> Option<KubernetesSpec> {
    let mut table = value.table()?;
    let service = table.required("service", kubernetes_name);
    let namespace = table.optional("namespace", kubernetes_name);
    let port = table.optional("port", read::text);
    let region = region(&mut table, value, declared, regions);
    table.finish();
    let namespace = namespace.unwrap_or_else(|| "default".to_owned());
    Some(KubernetesSpec { service: service?, namespace, port, region: region? })
}

/// A name as Kubernetes has them (RFC 1123): it becomes part of a URL.
fn kubernetes_name(value: &Value<'_>) -> Option<String> {
    let text = read::text(value)?;
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    if !text.bytes().all(fits) || text.len() > 253 {
        value.wrong(format!("`{text}` is no name of Kubernetes: lower-case letters, digits, `-` and `.`"));
        return None;
    }
    Some(text)
}

/// The shortest and longest drain.
pub(super) fn drain(value: &Value<'_>) -> Option<Duration> {
    read::duration(ms(0)..=secs(86_400))(value)
}
