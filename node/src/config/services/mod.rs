//! `services.toml`: what the whole mesh serves.
//!
//! ```text
//! text ─▶ spanned tree ─▶ sections: region zone listener service pool ─▶ Draft ─▶ check (across sections) ─▶ Services
//!                          └ one file each: keys, types, ranges            └ values with their places
//! ```

mod behind;
mod check;
mod discover;
mod ejection;
mod hash;
mod health;
mod listener;
mod pool;
mod record;
mod region;
mod route;
mod scale;
mod service;
#[cfg(test)]
mod tests;
mod zone;
mod zone_file;

use std::collections::BTreeSet;
use std::str::FromStr;
use std::sync::Arc;

use gossip::id::{ListenerName, NameError, PoolName, RegionName, ServiceName};
use toml::de::DeTable;

use super::diagnostics::Diagnostics;
use super::model::Services;
use super::report::Report;
use super::services_file::ZoneFiles;
use super::walk::{self, At, Table, Value};

/// A file without errors.
#[derive(Debug, Clone)]
pub struct Validated {
    /// What it says.
    pub services: Services,
    /// What somebody should look at; often empty.
    pub warnings: Report,
}

/// Reads and validates a whole `services.toml` that stands alone, as a revision does. Pure: looks at nothing but `text`.
///
/// # Errors
/// Every error and warning of the file.
pub fn parse(source_name: &str, text: &str) -> Result<Validated, Report> {
    parse_with(source_name, text, &ZoneFiles::default())
}

/// As [`parse`], with the files that `text` names.
///
/// # Errors
/// Every error and warning of all the files, each with the name of the one it stands in.
pub fn parse_with(source_name: &str, text: &str, files: &ZoneFiles) -> Result<Validated, Report> {
    let sink = Diagnostics::default();
    let tree = walk::parse(text, &sink);
    let draft = read(&tree, files, &sink);
    if !sink.has_syntax_errors() {
        check::check(&draft, &sink);
    }
    let services = draft.assemble();
    let warnings = sink.into_report(source_name, text);
    if warnings.has_errors() { Err(warnings) } else { Ok(Validated { services, warnings }) }
}

/// One `[kind.NAME]`. Without a body when the body could not even be read as a table.
struct Section<'t, N, D> {
    key: At<&'t str>,
    name: N,
    body: Option<D>,
}

/// All sections with the places of what they say.
struct Draft<'t> {
    regions: Vec<Section<'t, RegionName, region::Draft>>,
    zones: Vec<Section<'t, String, zone::Draft>>,
    listeners: Vec<Section<'t, ListenerName, listener::Draft>>,
    services: Vec<Section<'t, ServiceName, service::Draft>>,
    pools: Vec<Section<'t, PoolName, pool::Draft>>,
}

fn read<'t>(tree: &'t toml::Spanned<DeTable<'t>>, files: &ZoneFiles, sink: &'t Diagnostics) -> Draft<'t> {
    let mut root = Table::root(tree, sink);
    let regions = sections(root.value("region"), region::read);
    let declared: Vec<&str> = regions.iter().map(|region| region.key.value).collect();
    let zones = root.optional("dns", |value| zones(value, files)).unwrap_or_default();
    let listeners = sections(root.value("listener"), listener::read);
    let services = sections(root.value("service"), service::read);
    let pools = sections(root.value("pool"), |name, value| pool::read(name, value, &declared));
    for key in ["node", "mesh", "proxy", "admin", "log"] {
        if let Some((span, _)) = root.misplaced(key) {
            let hint = format!("`[{key}]` belongs to node.toml; this file is the same on every node");
            sink.error(span, format!("unknown key `{key}`"), Some(hint));
        }
    }
    root.finish();
    Draft { regions, zones, listeners, services, pools }
}

/// Every entry under one top-level key. A section whose name is none is read for its faults and left out.
fn sections<'t, N, D>(
    value: Option<Value<'t>>,
    read: impl Fn(N, &Value<'t>) -> Option<D>,
) -> Vec<Section<'t, N, D>>
where
    N: FromStr<Err = NameError> + Clone,
{
    let mut sections = Vec::new();
    for (key, value) in value.and_then(|value| value.table()).into_iter().flat_map(Table::entries) {
        match N::from_str(key.value) {
            Ok(name) => {
                let body = read(name.clone(), &value);
                sections.push(Section { key, name, body });
            }
            Err(error) => value.sink.error(key.span, error.to_string(), None),
        }
    }
    sections
}

fn zones<'t>(value: &Value<'t>, files: &ZoneFiles) -> Option<Vec<Section<'t, String, zone::Draft>>> {
    let mut dns = value.table()?;
    let zones = dns.value("zone").and_then(|value| value.table());
    for key in ["listen", "geoip", "transfer", "rate_limit"] {
        if let Some((span, _)) = dns.misplaced(key) {
            let hint = "it belongs to node.toml; this file is the same on every node";
            value.sink.error(span, format!("unknown key `{key}`"), Some(hint.into()));
        }
    }
    dns.finish();
    let mut sections: Vec<Section<'t, String, zone::Draft>> = Vec::new();
    let mut names = BTreeSet::new();
    for (key, value) in zones.into_iter().flat_map(Table::entries) {
        match record::absolute(key.value) {
            Ok(name) if !names.insert(name.clone()) => {
                value.sink.error(key.span, format!("the zone `{name}` is there twice"), None);
            }
            Ok(name) => {
                let body = zone::read(name.clone(), &value, files);
                sections.push(Section { key, name, body });
            }
            Err(error) => value.sink.error(key.span, error, None),
        }
    }
    Some(sections)
}

impl Draft<'_> {
    /// The model; of use only when there was no error.
    fn assemble(self) -> Services {
        let regions = self.regions.into_iter().filter_map(|section| Some(section.body?.region));
        let zones = self.zones.into_iter().filter_map(|section| Some(section.body?.zone));
        let https_port = check::https_port(&self.listeners);
        let listeners = self.listeners.into_iter().filter_map(|section| {
            let listener::Draft { mut listener, redirects, .. } = section.body?;
            listener.redirect_https = https_port.filter(|_| redirects.is_some());
            Some((section.name, Arc::new(listener)))
        });
        let services = self.services.into_iter();
        let pools = self.pools.into_iter();
        Services {
            regions: regions.collect(),
            zones: zones.collect(),
            listeners: listeners.collect(),
            services: services.filter_map(|s| Some((s.name, Arc::new(s.body?.service)))).collect(),
            pools: pools.filter_map(|s| Some((s.name, Arc::new(s.body?.pool)))).collect(),
        }
    }
}
