//! Which service a TLS connection asks for that nobody opens here: by the name it asks for (pure).
//!
//! An exact name goes before a wildcard, a wildcard before the listener's own service, that before a service without
//! hosts. A connection that asks for no name gets one of the last two.
use std::collections::HashMap;
use std::sync::Arc;

use crate::config::model::{Listener, Service, Services};

/// The names of one tls listener.
#[derive(Debug, Default)]
pub(super) struct SniTable {
    exact: HashMap<String, Arc<Service>>,
    /// By what follows the first label.
    wildcard: HashMap<String, Arc<Service>>,
    rest: Option<Arc<Service>>,
}

impl SniTable {
    /// Compiles the names of the services that a tls listener serves.
    pub(super) fn compile(services: &Services, listener: &Listener) -> Self {
        let mut table = Self::default();
        let mut any = None;
        for service in services.served_by_tls(listener) {
            if service.hosts.is_empty() {
                any.get_or_insert(service);
            }
            for host in &service.hosts {
                let (names, name) = match host.strip_prefix("*.") {
                    Some(rest) => (&mut table.wildcard, rest),
                    None => (&mut table.exact, host.as_str()),
                };
                names.entry(name.to_ascii_lowercase()).or_insert_with(|| service.clone());
            }
        }
        let own = listener.service.as_ref().and_then(|name| services.services.get(name));
        table.rest = own.or(any).cloned();
        table
    }

    /// The service for a name in lower case.
    pub(super) fn find(&self, name: Option<&str>) -> Option<&Arc<Service>> {
        let named = name.and_then(|name| {
            let name = name.strip_suffix('.').unwrap_or(name);
            self.exact.get(name).or_else(|| self.wildcard.get(name.split_once('.')?.1))
        });
        named.or(self.rest.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::fixture;

    fn services(of: &[(&str, &[&str])], listeners: Vec<Listener>) -> Services {
        let mut all = Services::default();
        for (name, hosts) in of {
            let mut service = fixture::service(name, &[]);
            service.hosts = hosts.iter().map(ToString::to_string).collect();
            all.services.insert(service.name.clone(), Arc::new(service));
        }
        all.listeners = listeners.into_iter().map(|l| (l.name.clone(), Arc::new(l))).collect();
        all
    }

    fn found<'a>(table: &'a SniTable, name: Option<&str>) -> Option<&'a str> {
        table.find(name).map(|service| service.name.as_str())
    }

    #[test]
    fn names_from_the_most_to_the_least_specific() {
        let listener = fixture::tls_listener("tls", 443, None, &[]);
        let of: &[(&str, &[&str])] =
            &[("www", &["www.example.com"]), ("wild", &["*.example.com"]), ("any", &[])];
        let table = SniTable::compile(&services(of, vec![listener.clone()]), &listener);
        assert_eq!(found(&table, Some("www.example.com")), Some("www"));
        assert_eq!(found(&table, Some("www.example.com.")), Some("www"));
        assert_eq!(found(&table, Some("shop.example.com")), Some("wild"));
        assert_eq!(found(&table, Some("a.shop.example.com")), Some("any"));
        assert_eq!(found(&table, Some("example.com")), Some("any"));
        assert_eq!(found(&table, None), Some("any"));
        let table = SniTable::compile(&services(&of[..2], vec![listener.clone()]), &listener);
        assert_eq!(found(&table, Some("example.org")), None);
        assert_eq!(found(&table, None), None);
    }

    #[test]
    fn a_listener_may_name_its_services_and_its_own() {
        let mail = fixture::tls_listener("mail", 993, Some("other"), &["mail"]);
        let open = fixture::tls_listener("open", 443, None, &[]);
        let pg = fixture::tcp_listener("pg", 5432, "pg");
        let of: &[(&str, &[&str])] = &[
            ("mail", &["mail.example.com"]),
            ("other", &["x.example.com"]),
            ("pg", &[]),
            ("www", &["www.example.com"]),
        ];
        let all = services(of, vec![mail.clone(), open.clone(), pg]);
        let table = SniTable::compile(&all, &mail);
        assert_eq!(found(&table, Some("mail.example.com")), Some("mail"));
        assert_eq!(found(&table, Some("x.example.com")), Some("other"));
        assert_eq!(found(&table, Some("www.example.com")), Some("other"));
        let table = SniTable::compile(&all, &open);
        assert_eq!(found(&table, Some("www.example.com")), Some("www"));
        assert_eq!(found(&table, Some("mail.example.com")), None);
        assert_eq!(found(&table, None), None);
    }
}
