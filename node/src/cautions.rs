//! What an operator should hear of a configuration that is sound in itself: what it takes away from the one before, and what
//! it asks for that this mesh or this node does not have. Pure: who calls looks at files.

use std::collections::BTreeSet;
use std::path::Path;

use gossip::id::RegionName;

use crate::config::model::{Services, SteerPolicy};

/// Something that may not be meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caution {
    /// What.
    pub(crate) what: String,
    /// What to do.
    pub(crate) advice: String,
}

/// Zones that `before` signs and `after` serves unsigned: where their parent has a DS record, they are now refused.
pub(crate) fn of_unsigned(before: &Services, after: &Services) -> Vec<Caution> {
    let signed = before.zones.iter().filter(|zone| zone.dnssec);
    let unsigned = signed.filter(|was| after.zones.iter().any(|is| is.name == was.name && !is.dnssec));
    unsigned
        .map(|zone| Caution {
            what: format!(
                "zone {} is no longer signed: as long as its parent has a DS record, resolvers that validate refuse all of it",
                zone.name
            ),
            advice: "if the parent has one, apply `dnssec = true` again (the key is kept), take the DS record back there, wait \
                for its TTL, and take `dnssec` out then"
                .into(),
        })
        .collect()
}

/// What users lose altogether when `after` takes the place of `before`: a file that was cut short is a configuration too.
pub(crate) fn of_loss(before: &Services, after: &Services) -> Option<String> {
    fn all<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
        let names: Vec<_> = names.collect();
        (!names.is_empty()).then(|| format!("all its {what} ({})", names.join(", ")))
    }
    let listeners = all("listeners", before.listeners.keys().map(|name| name.as_str()));
    let services = all("services", before.services.keys().map(|name| name.as_str()));
    let zones = all("zones", before.zones.iter().map(|zone| zone.name.as_str()));
    let nothing = after.listeners.is_empty() && after.services.is_empty() && after.zones.is_empty();
    let lost: Vec<String> = [
        listeners.filter(|_| after.listeners.is_empty()),
        services.filter(|_| after.services.is_empty()),
        zones.filter(|_| nothing),
    ]
    .into_iter()
    .flatten()
    .collect();
    (!lost.is_empty()).then(|| format!("this would take from the mesh {}", lost.join(" and ")))
}

/// Files of certificates that `services` names and for which `unreadable` gives a reason. They lie on each node.
pub(crate) fn of_files(services: &Services, unreadable: impl Fn(&Path) -> Option<String>) -> Vec<Caution> {
    let listeners = services.listeners.values().flat_map(|listener| {
        let pairs = listener.certificates.iter().flat_map(|files| [&files.cert, &files.key]);
        let paths = pairs.chain(&listener.client_ca);
        paths.map(move |path| (format!("listener {}", listener.name), path))
    });
    let pools = services.pools.values().flat_map(|pool| {
        let ca = pool.tls.iter().filter_map(|tls| tls.ca.as_ref());
        ca.map(move |path| (format!("pool {}", pool.name), path))
    });
    listeners
        .chain(pools)
        .filter_map(|(who, path)| {
            let why = unreadable(path)?;
            Some(Caution {
                what: format!("this node cannot read {} of {who}: {why}", path.display()),
                advice: "put the file there, readable by the node's user, on every node; until then handshakes that need it are \
                    refused"
                    .into(),
            })
        })
        .collect()
}

/// Regions in fail-over orders that are not declared and where no node `stands`.
pub(crate) fn of_orders(services: &Services, stands: &BTreeSet<RegionName>) -> Vec<Caution> {
    let known = |region: &RegionName| {
        stands.contains(region) || services.regions.iter().any(|declared| declared.name == *region)
    };
    let mut cautions = Vec::new();
    for zone in &services.zones {
        for (label, steer) in &zone.steer {
            let SteerPolicy::Failover(order) = &steer.policy else { continue };
            cautions.extend(order.iter().filter(|region| !known(region)).map(|region| Caution {
                what: format!(
                    "the order of steer.\"{label}\" in zone {} names the region {region}, which is not declared and where no node \
                     stands",
                    zone.name
                ),
                advice: format!(
                    "is it a slip of the pen? Nobody is sent there before a node stands in it; [region.{region}] declares it"
                ),
            }));
        }
    }
    cautions
}

/// What secondaries do not get of the zones, on a node that lets some transfer.
pub(crate) fn of_transfers(services: &Services) -> Vec<Caution> {
    let zones = services.zones.iter().filter(|zone| zone.dnssec || !zone.steer.is_empty());
    zones
        .map(|zone| match zone.dnssec {
            true => Caution {
                what: format!(
                    "zone {} is signed, so `[dns] transfer` has no effect on it: AXFR is REFUSED, and secondaries lose the zone when \
                     theirs expires",
                    zone.name
                ),
                advice: "take secondaries outside of the mesh out of the zone's name servers, or `dnssec` out of the zone".into(),
            },
            false => Caution {
                what: format!(
                    "secondaries that transfer zone {} keep the addresses of its steered names until the next revision, also those of \
                     nodes that died",
                    zone.name
                ),
                advice: "let nodes of the mesh alone be name servers of such a zone".into(),
            },
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::services;

    /// Two zones; `a` and `b` stand in the tables of the first and of the second.
    fn parsed(a: &str, b: &str) -> Services {
        let text = format!(
            "[region.eu]\n[dns.zone.\"a.example\"]\nnameserver.ns1 = [\"192.0.2.1\"]\n{a}\n\
             [dns.zone.\"b.example\"]\nnameserver.ns1 = [\"192.0.2.1\"]\n{b}\n\
             [listener.http]\nport = 80\nprotocol = \"http\"\n[service.web]\nsplit.p = 1\n[pool.p]\nbackend = []\n"
        );
        services::parse("services.toml", &text).unwrap_or_else(|report| panic!("{report}")).services
    }

    fn told(cautions: Vec<Caution>) -> Vec<String> {
        assert!(cautions.iter().all(|caution| !caution.advice.is_empty()));
        cautions.into_iter().map(|caution| caution.what).collect()
    }

    #[test]
    fn a_zone_that_is_signed_no_more_is_told() {
        let (signed, plain) = (parsed("dnssec = true", "dnssec = true"), parsed("", "dnssec = true"));
        let found = told(of_unsigned(&signed, &plain));
        assert!(found.len() == 1 && found[0].starts_with("zone a.example is no longer signed"), "{found:?}");
        for (before, after) in [(&signed, &signed), (&plain, &signed), (&signed, &Services::default())] {
            assert_eq!(told(of_unsigned(before, after)), [""; 0]);
        }
    }

    #[test]
    fn a_file_that_was_cut_short_takes_all_away() {
        let (whole, empty) = (parsed("", ""), Services::default());
        let lost = of_loss(&whole, &empty).unwrap();
        for gone in ["listeners (http)", "services (web)", "zones (a.example, b.example)"] {
            assert!(lost.contains(gone), "{lost}");
        }
        let cut = "[region.eu]\n[dns.zone.\"a.example\"]\nnameserver.ns1 = [\"192.0.2.1\"]\n";
        let cut = services::parse("services.toml", cut).unwrap_or_else(|report| panic!("{report}")).services;
        assert!(
            of_loss(&whole, &cut).is_some_and(|lost| lost.contains("http") && !lost.contains("b.example"))
        );
        for (before, after) in
            [(&whole, &whole), (&empty, &empty), (&empty, &whole), (&cut, &cut), (&cut, &whole)]
        {
            assert_eq!(of_loss(before, after), None);
        }
    }

    #[test]
    fn certificates_that_cannot_be_read_here_are_told() {
        let text = "[listener.https]\nport = 443\nprotocol = \"https\"\nclient_ca = \"/c/ca.pem\"\n\
             certificate = [{ cert = \"/c/a.pem\", key = \"/c/a.key\" }]\n\
             [service.web]\nsplit.p = 1\n[pool.p]\nbackend = []\n";
        let services =
            services::parse("services.toml", text).unwrap_or_else(|report| panic!("{report}")).services;
        let missing = |path: &Path| (path != Path::new("/c/a.pem")).then(|| "no such file".to_owned());
        let found = told(of_files(&services, missing));
        assert_eq!(
            found,
            [
                "this node cannot read /c/a.key of listener https: no such file",
                "this node cannot read /c/ca.pem of listener https: no such file"
            ]
        );
        assert_eq!(told(of_files(&services, |_| None)), [""; 0]);
    }

    #[test]
    fn a_region_that_nobody_has_heard_of_is_told() {
        let steer =
            "steer.www = { service = \"web\", policy = \"failover\", order = [\"eu\", \"us\", \"ue\"] }";
        let services = parsed(steer, "");
        let found = told(of_orders(&services, &BTreeSet::from(["us".parse().unwrap()])));
        assert!(found.len() == 1 && found[0].contains("the region ue, which"), "{found:?}");
    }

    #[test]
    fn what_secondaries_lack_is_told() {
        let found = told(of_transfers(&parsed("dnssec = true", "steer.www.service = \"web\"")));
        assert!(found.len() == 2 && found[0].contains("a.example is signed"), "{found:?}");
        assert!(found[1].starts_with("secondaries that transfer zone b.example"), "{found:?}");
        assert_eq!(told(of_transfers(&parsed("", ""))), [""; 0]);
    }
}
