//! Which service a request asks for: by host, then by path (pure).
//!
//! Hosts are compared without case and port; an exact name goes before a wildcard, a wildcard before any. Under one
//! host the longest path prefix wins, matched at segment borders: `/api` serves `/api` and `/api/x`, not `/apix`. When
//! no path under a host fits, the next less specific host is tried.
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use gossip::id::ListenerName;

use super::sni::SniTable;
use crate::config::model::{Listener, ListenerProtocol, Service, Services};

/// The routes of one revision. Compiled once, shared by all workers.
#[derive(Debug, Default)]
pub struct RouteTable {
    exact: HashMap<String, Paths>,
    /// By what follows the first label.
    wildcard: HashMap<String, Paths>,
    any: Paths,
    by_name: BTreeMap<ListenerName, SniTable>,
}

/// Longest prefix first.
#[derive(Debug, Default)]
struct Paths(Vec<(String, Arc<Service>)>);

impl RouteTable {
    /// Compiles the routes of all services but those behind TCP listeners, which are asked for by port, and those that
    /// TLS listeners name.
    pub fn compile(services: &Services) -> Self {
        let (by_port, by_tls) = (services.behind_tcp(), services.behind_tls());
        let mut table = Self::default();
        let tls = |listener: &&Arc<Listener>| listener.protocol == ListenerProtocol::Tls;
        for listener in services.listeners.values().filter(tls) {
            table.by_name.insert(listener.name.clone(), SniTable::compile(services, listener));
        }
        let unopened = |name| by_port.contains(name) || by_tls.contains(name);
        for service in services.services.values().filter(|service| !unopened(&service.name)) {
            if service.hosts.is_empty() {
                table.any.add(service);
            }
            for host in &service.hosts {
                let paths = match host.strip_prefix("*.") {
                    Some(rest) => table.wildcard.entry(rest.to_ascii_lowercase()),
                    None => table.exact.entry(host.to_ascii_lowercase()),
                };
                paths.or_default().add(service);
            }
        }
        table.exact.values_mut().for_each(Paths::sort);
        table.wildcard.values_mut().for_each(Paths::sort);
        table.any.sort();
        table
    }

    /// The service for a name that a connection to a TLS listener asks for.
    pub(super) fn find_by_name(&self, listener: &ListenerName, name: Option<&str>) -> Option<&Arc<Service>> {
        self.by_name.get(listener)?.find(name)
    }

    /// The service for a Host (with or without a port) and a path (without its query).
    pub fn find(&self, host: &str, path: &str) -> Option<&Arc<Service>> {
        let host = bare_host(host);
        let path = normal_path(path)?;
        let exact = || self.exact.get(&*host)?.find(&path);
        let wildcard = || self.wildcard.get(host.split_once('.')?.1)?.find(&path);
        exact().or_else(wildcard).or_else(|| self.any.find(&path))
    }
}

impl Paths {
    fn add(&mut self, service: &Arc<Service>) {
        for path in &service.paths {
            self.0.push((path.clone(), service.clone()));
        }
        if service.paths.is_empty() {
            self.0.push(("/".into(), service.clone()));
        }
    }

    fn sort(&mut self) {
        self.0.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
    }

    fn find(&self, path: &str) -> Option<&Arc<Service>> {
        if path == "*" {
            // Of the server as a whole: the most general service speaks for it.
            return self.0.last().map(|(_, service)| service);
        }
        self.0.iter().find(|(prefix, _)| covers(prefix, path)).map(|(_, service)| service)
    }
}

fn covers(prefix: &str, path: &str) -> bool {
    let Some(rest) = path.strip_prefix(prefix) else { return false };
    rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/')
}

/// A Host value without port and final dot, in lower case. Allocates only for upper case.
fn bare_host(host: &str) -> Cow<'_, str> {
    let name = match host.strip_prefix('[') {
        // An IPv6 literal keeps its colons.
        Some(literal) => literal.split(']').next().unwrap_or(literal),
        None => host.split(':').next().unwrap_or(host),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

/// The path as the backend will understand it, for the choice alone (what is sent stays as it came): unreserved
/// characters unescaped and dot segments removed (RFC 3986 §6.2.2), and empty segments too, which many servers pass over;
/// so no spelling of `/admin` avoids its service. `None`: servers differ about what `..` after an empty segment leaves.
fn normal_path(path: &str) -> Option<Cow<'_, str>> {
    if !path.contains('%') && !path.contains("/.") && !path.contains("//") {
        return Some(Cow::Borrowed(path));
    }
    let plain = unescape_unreserved(path);
    let mut segments: Vec<&str> = Vec::new();
    let mut last_is_folder = false;
    for segment in plain.split('/').skip(1) {
        last_is_folder = matches!(segment, "" | "." | "..");
        match segment {
            "." => {}
            ".." if segments.pop() == Some("") => return None,
            ".." => {}
            other => segments.push(other),
        }
    }
    let mut normal = String::with_capacity(plain.len());
    for segment in segments.iter().filter(|segment| !segment.is_empty()) {
        normal.push('/');
        normal.push_str(segment);
    }
    if last_is_folder || normal.is_empty() {
        normal.push('/');
    }
    Some(Cow::Owned(normal))
}

fn unescape_unreserved(path: &str) -> String {
    let mut plain = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        plain.push_str(&rest[..at]);
        rest = &rest[at..];
        let byte = rest.get(1..3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match byte {
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                plain.push(char::from(byte));
                rest = &rest[3..];
            }
            _ => {
                plain.push('%');
                rest = &rest[1..];
            }
        }
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proxy::fixture;

    fn table(services: &[(&str, &[&str], &[&str])]) -> RouteTable {
        let mut all = Services::default();
        for (name, hosts, paths) in services {
            let mut service = fixture::service(name, &[]);
            service.hosts = hosts.iter().map(ToString::to_string).collect();
            service.paths = paths.iter().map(ToString::to_string).collect();
            all.services.insert(service.name.clone(), Arc::new(service));
        }
        RouteTable::compile(&all)
    }

    fn found<'a>(table: &'a RouteTable, host: &str, path: &str) -> Option<&'a str> {
        table.find(host, path).map(|service| service.name.as_str())
    }

    #[test]
    fn hosts_from_the_most_to_the_least_specific() {
        let table = table(&[
            ("www", &["www.example.com"], &["/"]),
            ("wild", &["*.example.com"], &["/"]),
            ("any", &[], &["/"]),
        ]);
        assert_eq!(found(&table, "WWW.Example.com:8080", "/"), Some("www"));
        assert_eq!(found(&table, "www.example.com.", "/"), Some("www"));
        assert_eq!(found(&table, "shop.example.com", "/"), Some("wild"));
        assert_eq!(found(&table, "a.shop.example.com", "/"), Some("any"));
        assert_eq!(found(&table, "example.com", "/"), Some("any"));
        assert_eq!(found(&table, "[::1]:80", "/"), Some("any"));
    }

    #[test]
    fn the_longest_prefix_wins_at_segment_borders() {
        let table = table(&[("root", &[], &["/"]), ("api", &[], &["/api"]), ("v2", &[], &["/api/v2/"])]);
        assert_eq!(found(&table, "x", "/api"), Some("api"));
        assert_eq!(found(&table, "x", "/api/x"), Some("api"));
        assert_eq!(found(&table, "x", "/apix"), Some("root"));
        assert_eq!(found(&table, "x", "/api/v2"), Some("api"));
        assert_eq!(found(&table, "x", "/api/v2/"), Some("v2"));
        assert_eq!(found(&table, "x", "*"), Some("root"), "the most general one speaks for all");
    }

    #[test]
    fn no_spelling_of_a_path_avoids_its_service() {
        let table = table(&[("root", &[], &["/"]), ("admin", &[], &["/admin"])]);
        for path in [
            "/admin",
            "/x/../admin",
            "/%61dmin",
            "/./admin/",
            "/x/%2e%2E/admin/y",
            "/../admin",
            "//admin",
            "///admin//y",
        ] {
            assert_eq!(found(&table, "x", path), Some("admin"), "{path}");
        }
        for path in ["/x//../admin", "/admin//../x", "/admin//%2e."] {
            assert_eq!(found(&table, "x", path), None, "{path}");
        }
        for path in ["//", "/admin/..", "/%zz", "/%", "/%e2%82%ac", "/.hidden"] {
            assert_eq!(found(&table, "x", path), Some("root"), "{path}");
        }
    }

    #[test]
    fn a_host_without_a_fitting_path_falls_back() {
        let table = table(&[("www", &["www.example.com"], &["/shop"]), ("any", &[], &["/"])]);
        assert_eq!(found(&table, "www.example.com", "/shop/1"), Some("www"));
        assert_eq!(found(&table, "www.example.com", "/"), Some("any"));
    }

    #[test]
    fn services_behind_tcp_listeners_have_no_routes() {
        let mut all = Services::default();
        let service = Arc::new(fixture::service("pg", &[]));
        all.services.insert(service.name.clone(), service);
        let listener = fixture::tcp_listener("pg", 5432, "pg");
        all.listeners.insert(listener.name.clone(), Arc::new(listener));
        assert_eq!(found(&RouteTable::compile(&all), "x", "/"), None);
    }

    proptest! {
        #[test]
        fn any_host_and_path_are_answered(host in ".{0,40}", path in ".{0,60}") {
            let table = table(&[("root", &[], &["/"])]);
            let service = found(&table, &host, &format!("/{path}"));
            prop_assert_eq!(service, Some("root"));
        }
    }
}
