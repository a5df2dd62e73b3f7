//! `[dns.zone."NAME"]`

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use gossip::id::{RegionName, ServiceName};
use storage::zone_keys::Known;

use super::record;
use super::zone_file::{self, ZoneText};
use crate::config::diagnostics::Span;
use crate::config::model::{DnsRecord, DnsZone, Steer, SteerPolicy};
use crate::config::read::{self, secs};
use crate::config::services_file::ZoneFiles;
use crate::config::walk::{At, Table, Value};
use crate::signing::RetiredKeys;
use crate::steering;

/// A zone and the places of what other sections may contradict.
pub(super) struct Draft {
    pub(super) zone: DnsZone,
    /// The services that steer, with their places.
    pub(super) services: Vec<At<ServiceName>>,
    /// The regions that fail-over orders name.
    pub(super) regions: Vec<At<RegionName>>,
}

/// `name` is absolute and in lower case already.
pub(super) fn read(name: String, value: &Value<'_>, files: &ZoneFiles) -> Option<Draft> {
    let before = value.sink.errors();
    let mut table = value.table()?;
    let ttl = table.optional("ttl", read::seconds(secs(1)..=MAX_TTL)).unwrap_or(secs(30));
    let named = table.place("file").is_some();
    let file = table.optional("file", |value| zone_file::read(&name, ttl, value, files));
    let contact = contact_of(&name, file.as_ref(), &mut table);
    let nameservers = match &file {
        Some(file) if file.has_nameservers => refuse_beside(&mut table, "nameserver", "name servers (NS)"),
        // Perhaps they stand in the file that could not be read.
        None if named => table.optional("nameserver", |value| nameservers(&name, value)),
        Some(_) if table.place("nameserver").is_none() => {
            let hint =
                "nameserver = { ns1 = [\"198.51.100.10\"] }, or NS records of the zone itself in the file";
            table.sink().absent(table.span(), "`nameserver` is missing here", Some(hint.into()));
            None
        }
        _ => table.required("nameserver", |value| nameservers(&name, value)),
    }
    .unwrap_or_default();
    let steered = table.optional("steer", |value| steer(&name, value)).unwrap_or_default();
    let records =
        table.optional("record", read::list(|value| static_record(&name, value))).unwrap_or_default();
    let dnssec = table.optional("dnssec", read::boolean).unwrap_or(false);
    table.finish();

    check_names(&nameservers, &steered, &records, value);
    let places: Vec<_> = records.iter().map(|record| record.span.clone()).collect();
    let zone = DnsZone {
        nameservers: nameservers.into_iter().map(|(label, glue)| (label.value, glue)).collect(),
        contact,
        ttl,
        steer: steered.iter().map(|(label, draft)| (label.value.clone(), draft.steer.clone())).collect(),
        records: records.into_iter().map(|record| record.value).collect(),
        file: file.as_ref().map(|file| Arc::clone(&file.content)),
        dnssec,
        name,
    };
    if value.sink.errors() == before {
        check_served(&zone, &places, file.as_ref(), value);
    }
    let services = steered.iter().map(|(_, draft)| draft.service.clone()).collect();
    let regions = steered.into_iter().flat_map(|(_, draft)| draft.order).collect();
    Some(Draft { zone, services, regions })
}

/// The mailbox: the file's SOA has one of its own.
fn contact_of(name: &str, file: Option<&ZoneText>, table: &mut Table<'_>) -> String {
    let has_soa = file.is_some_and(|file| file.content.soa.is_some());
    let written = match has_soa {
        true => refuse_beside(table, "contact", "SOA"),
        false => table.optional("contact", contact),
    };
    written.unwrap_or_else(|| format!("hostmaster@{name}"))
}

/// A key whose place the zone file takes.
fn refuse_beside<T>(table: &mut Table<'_>, key: &'static str, what: &str) -> Option<T> {
    let sink = table.sink();
    if let Some((span, _)) = table.keyed(key) {
        let hint = format!("take `{key}` out, or the {what} out of the file");
        sink.error(span, format!("the zone file has the zone's {what}, which `{key}` says too"), Some(hint));
    }
    None
}

/// Asks the name server itself whether it can serve a zone that seems sound: it knows what records may stand together.
fn check_served(zone: &DnsZone, records: &[Span], file: Option<&ZoneText>, value: &Value<'_>) {
    let spec = dns::TableSpec {
        zones: vec![steering::zone_spec(zone, &Known::default(), &RetiredKeys::new())],
        ..dns::TableSpec::default()
    };
    for fault in dns::Table::build(&spec).err().unwrap_or_default() {
        let span = match (fault.place, file) {
            (dns::Place::File { span, .. }, Some(file)) => {
                file.error(span, format!("this record {}", fault.message), value.sink);
                continue;
            }
            (dns::Place::Record { index, .. }, _) => records.get(index).cloned(),
            (place, _) => {
                value.sink.error(value.span.clone(), format!("{place}: {}", fault.message), None);
                continue;
            }
        };
        value.sink.error(span.unwrap_or_else(|| value.span.clone()), fault.message, None);
    }
}

/// RFC 2181 §8 allows more; nobody means more than a week.
const MAX_TTL: Duration = secs(7 * 86_400);

/// Name server labels and their glue.
fn nameservers(zone: &str, value: &Value<'_>) -> Option<Vec<(At<String>, Vec<IpAddr>)>> {
    let mut servers = Vec::new();
    let table = value.table()?;
    for (key, value) in table.entries() {
        let glue = read::list(read::ip)(&value);
        if glue.is_some() && value.list()?.next().is_none() {
            value.wrong("a name server needs at least one address");
        }
        match record::relative(zone, key.value).and_then(record::no_wildcard) {
            Ok(label) => {
                if label.contains('.') {
                    let hint = format!(
                        "the names here are relative to the zone and in it; name servers of other zones stand as NS records in a zone \
                         file (`file`): @ NS {label}."
                    );
                    let message = format!("`{label}` is {label}.{zone}, below the zone {zone}");
                    value.sink.warning(key.span.clone(), message, Some(hint));
                }
                servers.push((At { span: key.span, value: label }, glue.unwrap_or_default()));
            }
            Err(error) => {
                let outside =
                    key.value.ends_with('.') && error.ends_with(&format!("is not in the zone {zone}"));
                let hint = "name servers of other zones stand as NS records in a zone file (`file`)";
                value.sink.error(key.span, error, outside.then(|| hint.to_owned()));
            }
        }
    }
    if servers.is_empty() {
        value.sink.absent(value.span.clone(), "a zone needs at least one name server", None);
    }
    Some(servers)
}

/// The mailbox of the SOA record, RFC 1035 §3.3.13, as people write it.
fn contact(value: &Value<'_>) -> Option<String> {
    let text = read::text(value)?;
    let parts = text.split_once('@');
    let local =
        |local: &str| (1..=63).contains(&local.len()) && local.bytes().all(|byte| byte.is_ascii_graphic());
    if !parts.is_some_and(|(mailbox, domain)| local(mailbox) && record::absolute(domain).is_ok()) {
        value.wrong_but(format!("`{text}` is no mail address"), "hostmaster@example.com");
        return None;
    }
    Some(text)
}

struct SteerDraft {
    steer: Steer,
    service: At<ServiceName>,
    order: Vec<At<RegionName>>,
}

fn steer(zone: &str, value: &Value<'_>) -> Option<Vec<(At<String>, SteerDraft)>> {
    let mut steered = Vec::new();
    for (key, value) in value.table()?.entries() {
        let draft = steered_name(&value);
        match record::relative(zone, key.value) {
            Ok(label) => steered.extend(draft.map(|draft| (At { span: key.span, value: label }, draft))),
            Err(error) => value.sink.error(key.span, error, None),
        }
    }
    Some(steered)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Policy {
    Nearest,
    Latency,
    Weighted,
    Failover,
}

const POLICIES: &[(&str, Policy)] = &[
    ("nearest", Policy::Nearest),
    ("latency", Policy::Latency),
    ("weighted", Policy::Weighted),
    ("failover", Policy::Failover),
];

fn steered_name(value: &Value<'_>) -> Option<SteerDraft> {
    let mut table = value.table()?;
    let service = table.required("service", read::located(read::name::<ServiceName>));
    let policy = table.optional("policy", read::choice(POLICIES, &[])).unwrap_or(Policy::Nearest);
    let answers = table.optional("answers", read::integer(1..=8)).unwrap_or(2);
    let order = order(policy, &mut table);
    let shed = shed(policy, &mut table);
    table.finish();
    let service = service?;
    let names = order.iter().map(|region| region.value.clone()).collect();
    let policy = match policy {
        Policy::Nearest => SteerPolicy::Nearest,
        Policy::Latency => SteerPolicy::Latency,
        Policy::Weighted => SteerPolicy::Weighted,
        Policy::Failover => SteerPolicy::Failover(names),
    };
    Some(SteerDraft {
        steer: Steer { service: service.value.clone(), policy, answers, shed },
        service,
        order,
    })
}

fn order(policy: Policy, table: &mut Table<'_>) -> Vec<At<RegionName>> {
    let sink = table.sink();
    let Some((key, value)) = table.keyed("order") else {
        if policy == Policy::Failover {
            let hint = "order = [\"eu\", \"us\"]";
            sink.absent(table.span(), "`order` is missing here: failover needs it", Some(hint.into()));
        }
        return Vec::new();
    };
    if policy != Policy::Failover {
        sink.error(key, "`order` is for the policy `failover`", None);
    }
    let order: Vec<At<RegionName>> = read::list(read::located(read::name))(&value).unwrap_or_default();
    if order.is_empty() && policy == Policy::Failover {
        value.wrong("`order` names no region");
    }
    for (at, region) in order.iter().enumerate() {
        if order[..at].iter().any(|earlier| earlier.value == region.value) {
            sink.error(region.span.clone(), format!("`{}` is already in this order", region.value), None);
        }
    }
    order
}

/// The watermarks, in shares of the capacity; the name server counts in thousandths.
fn shed(policy: Policy, table: &mut Table<'_>) -> Option<dns::Shed> {
    let sink = table.sink();
    let (key, value) = table.keyed("shed")?;
    if policy == Policy::Weighted {
        sink.error(
            key,
            "`shed` has no meaning with the policy `weighted`, which follows the free capacity anyway",
            None,
        );
    }
    let mut table = value.table()?;
    let low = table.required("low", read::number(0.0..=1.0));
    let high = table.required("high", read::number(0.0..=1.0));
    table.finish();
    let [low_permille, high_permille] = [low?, high?].map(|share| (share * 1000.0).round() as u16);
    if low_permille >= high_permille {
        value.wrong("`low` must be less than `high`, by a thousandth at least");
        return None;
    }
    Some(dns::Shed { low_permille, high_permille })
}

fn static_record(zone: &str, value: &Value<'_>) -> Option<At<DnsRecord>> {
    let mut table = value.table()?;
    let name = table.required("name", |value| read::parsed(value, |text| record::relative(zone, text)));
    let kind = table.required("type", record::kind);
    let content = table.required("value", read::located(read::text));
    let ttl = table.optional("ttl", read::seconds(secs(0)..=MAX_TTL));
    table.finish();
    let (name, kind, content) = (name?, kind?, content?);
    if let Err(error) = record::check_record(zone, &name, &kind, &content.value) {
        value.sink.error(content.span, error, None);
        return None;
    }
    Some(At { span: value.span.clone(), value: DnsRecord { name, kind, value: content.value, ttl } })
}

/// A name is steered, or static, or a name server; an alias stands alone (RFC 2181 §10.1).
fn check_names(
    nameservers: &[(At<String>, Vec<IpAddr>)],
    steered: &[(At<String>, SteerDraft)],
    records: &[At<DnsRecord>],
    value: &Value<'_>,
) {
    let sink = value.sink;
    let servers: BTreeSet<&str> = nameservers.iter().map(|(label, _)| label.value.as_str()).collect();
    let mut kinds: BTreeMap<&str, Vec<&DnsRecord>> = BTreeMap::new();
    for (label, _) in steered {
        if servers.contains(label.as_str()) {
            let message = format!("`{}` is a name server: its addresses are never steered", label.value);
            sink.error(label.span.clone(), message, None);
        }
    }
    let steered: BTreeSet<&str> = steered.iter().map(|(label, _)| label.value.as_str()).collect();
    for At { span, value: record } in records {
        let name = record.name.as_str();
        let others = kinds.entry(name).or_default();
        let exclusive = matches!(record.kind.as_str(), "A" | "AAAA" | "CNAME");
        let fault = if record.kind == "CNAME" && name == "@" {
            Some("the apex of a zone holds SOA and NS: no CNAME can stand beside them".into())
        } else if exclusive && steered.contains(name) {
            Some(format!("`{name}` is steered: no {} can stand beside that", record.kind))
        } else if exclusive && servers.contains(name) {
            Some(format!("`{name}` is a name server: its addresses stand in `nameserver`"))
        } else {
            beside(record, others)
        };
        match fault {
            Some(message) => sink.error(span.clone(), message, None),
            None => others.push(record),
        }
    }
}

/// Why a record cannot stand beside others of its name.
fn beside(record: &DnsRecord, others: &[&DnsRecord]) -> Option<String> {
    let same = |other: &&DnsRecord| other.kind == record.kind && other.value == record.value;
    let alias = |other: &&DnsRecord| other.kind == "CNAME";
    if others.iter().any(same) {
        Some("this record is there twice".into())
    } else if !others.is_empty() && (record.kind == "CNAME" || others.iter().any(alias)) {
        Some(format!("`{}` has a CNAME and other records: a CNAME stands alone", record.name))
    } else {
        None
    }
}
