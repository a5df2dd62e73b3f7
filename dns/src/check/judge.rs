//! What a registrar's check says, and what to do about each of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::{Finding, Gravity, NameServer, NoParent, Observed, Probed, Seen, SeenSoa};
use crate::name::Name;
use crate::sign::names_key;
use crate::wire::Rcode;
use crate::zone::Kind;

/// What registries that look at SOAs want (DENIC's, which is the strictest of the large ones), in seconds.
const REFRESH: RangeInclusive<u32> = 3_600..=86_400;
const RETRY: RangeInclusive<u32> = 900..=28_800;
const EXPIRE: RangeInclusive<u32> = 604_800..=3_600_000;
const MINIMUM: RangeInclusive<u32> = 180..=86_400;
/// Name servers that are remembered for less are asked for all the time.
const LEAST_NS_TTL: u32 = 300;
/// More than this is cut to pieces on its way (DNS flag day 2020).
const LARGEST_PAYLOAD: u16 = 1_400;

/// Judges all of it. Errors come first.
pub fn judge(observed: &Observed) -> Vec<Finding> {
    let mut judge = Judge { observed, findings: Vec::new() };
    judge.servers();
    judge.networks();
    judge.parent();
    for probed in &observed.probes {
        judge.probe(probed);
    }
    judge.agreement();
    judge.signed();
    judge.findings.sort_by_key(|finding| finding.gravity);
    judge.findings
}

struct Judge<'o> {
    observed: &'o Observed,
    findings: Vec<Finding>,
}

impl Judge<'_> {
    fn say(
        &mut self,
        gravity: Gravity,
        subject: impl ToString,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let (what, hint) = (what.into(), hint.into());
        self.findings.push(Finding { gravity, subject: subject.to_string(), what, hint });
    }

    fn error(&mut self, subject: impl ToString, what: impl Into<String>, hint: impl Into<String>) {
        self.say(Gravity::Error, subject, what, hint);
    }

    fn warn(&mut self, subject: impl ToString, what: impl Into<String>, hint: impl Into<String>) {
        self.say(Gravity::Warning, subject, what, hint);
    }

    fn servers(&mut self) {
        let observed = self.observed;
        if observed.servers.len() < 2 {
            let what =
                format!("it has {} name server, and registrars want two at least", observed.servers.len());
            self.error(&observed.zone, what, "add one to `nameserver`, on another node in another network");
        }
        for server in &observed.servers {
            if server.addresses.is_empty() {
                self.error(
                    &server.name,
                    "it has no address",
                    "add an A or AAAA record for it where its zone is served",
                );
            }
        }
        let mut owners: BTreeMap<IpAddr, &Name> = BTreeMap::new();
        for server in &observed.servers {
            for address in &server.addresses {
                let owner = *owners.entry(*address).or_insert(&server.name);
                if *owner != server.name {
                    let what = format!("it has the address {address}, which {owner} has too");
                    self.error(
                        &server.name,
                        what,
                        "give each name server a node of its own: one that fails must not take both",
                    );
                }
            }
        }
    }

    fn networks(&mut self) {
        let zone = &self.observed.zone;
        let addresses: BTreeSet<IpAddr> =
            self.observed.servers.iter().flat_map(|server| &server.addresses).copied().collect();
        for address in addresses.iter().filter(|address| !is_public(**address)) {
            self.warn(
                address,
                "it is no public address",
                "it serves a network of your own; on the Internet put the server's public address into `nameserver`",
            );
        }
        let networks: BTreeSet<IpNet> = addresses.iter().filter_map(|address| network(*address)).collect();
        if let (Some(network), 1, 2..) = (networks.first(), networks.len(), addresses.len()) {
            let what = format!("all its name servers are in {network}");
            self.warn(zone, what, "put one into another network: a router that fails takes all of them");
        }
        if !addresses.is_empty() && !addresses.iter().any(IpAddr::is_ipv6) {
            self.warn(
                zone,
                "no name server has an IPv6 address",
                "add one to `nameserver`: some resolvers have nothing else",
            );
        }
    }

    fn parent(&mut self) {
        let observed = self.observed;
        let told = match &observed.parent {
            None => return,
            Some(Err(NoParent::Silent(error))) => {
                return self.error(
                    "parent",
                    format!("it does not say who serves the zone: {error}"),
                    "is --parent a name server of the parent zone?",
                );
            }
            Some(Err(NoParent::OwnServer)) => {
                let above = observed.zone.parent().unwrap_or_else(Name::root);
                return self.error(
                    "parent",
                    format!("that server answers for {} itself, not for its parent: what the parent says is not known", observed.zone),
                    format!("give --parent the address of a name server of the zone above: dig NS {above}  names them"),
                );
            }
            Some(Ok(told)) => told,
        };
        if told.is_empty() {
            return self.error(
                "parent",
                "it does not delegate the zone",
                "enter the name servers at the registrar, or as NS records in the parent zone",
            );
        }
        let names = |servers: &[NameServer]| {
            servers.iter().map(|server| server.name.to_string()).collect::<BTreeSet<_>>()
        };
        let (ours, theirs) = (names(&observed.servers), names(told));
        for missing in ours.difference(&theirs) {
            self.error(
                "parent",
                format!("it does not name {missing}"),
                "enter it at the registrar, or take it out of `nameserver`",
            );
        }
        for unknown in theirs.difference(&ours) {
            self.error(
                "parent",
                format!("it names {unknown}, and the zone does not"),
                "take it out at the registrar, or add it to `nameserver`",
            );
        }
        for server in told.iter().filter(|server| server.name.is_within(&observed.zone)) {
            let glue: BTreeSet<IpAddr> = server.addresses.iter().copied().collect();
            let ours = observed.servers.iter().find(|ours| ours.name == server.name);
            let Some(ours) = ours.map(|ours| ours.addresses.iter().copied().collect::<BTreeSet<_>>()) else {
                continue;
            };
            if glue.is_empty() {
                self.error(
                    &server.name,
                    "the parent has no glue for it, so nobody finds it",
                    "enter its addresses at the registrar (glue records)",
                );
            } else if glue != ours {
                let what = format!(
                    "the parent's glue for it is {}, its addresses are {}",
                    listed(&glue),
                    listed(&ours)
                );
                self.error(
                    &server.name,
                    what,
                    "enter the same addresses at the registrar as in `nameserver`",
                );
            }
        }
    }

    /// What makes validating resolvers refuse the zone, or leaves its signatures without use.
    fn signed(&mut self) {
        let Observed { zone, probes, parent_ds, signed, .. } = self.observed;
        let served = probes.iter().filter_map(|probed| {
            let seen = probed.keys.as_ref().ok().filter(|seen| seen.rcode == Rcode::NOERROR)?;
            Some((probed, seen.data_of(zone, Kind::DNSKEY)))
        });
        for (probed, keys) in served.clone().filter(|(_, keys)| keys.is_empty() == *signed) {
            let (subject, what) = (
                format!("{} at {}", probed.server, probed.address),
                if keys.is_empty() {
                    "it serves no DNSKEY, and the zone is to be signed"
                } else {
                    "it serves a DNSKEY of a zone that is not signed"
                },
            );
            self.error(
                subject,
                what,
                "does it run the present revision, and has it the zone's key? meridian dns ds",
            );
        }
        let Some(parent_ds) = parent_ds else { return };
        if parent_ds.is_empty() {
            if *signed {
                let hint =
                    format!("give the parent what `meridian dns ds {zone}` prints: nobody validates without");
                self.warn("parent", "it has no DS record, and the zone is signed", hint);
            }
            return;
        }
        for (probed, keys) in served {
            if !keys.iter().any(|key| parent_ds.iter().any(|ds| names_key(zone, ds, key))) {
                let what = match keys.is_empty() {
                    true => "the parent has a DS record, and it serves no key",
                    false => "the parent's DS records name none of the keys that it serves",
                };
                let subject = format!("{} at {}", probed.server, probed.address);
                let hint = format!(
                    "validating resolvers refuse the zone: enter at the registrar what `meridian dns ds {zone}` prints, or \
                     take the DS record out there if the zone is not to be signed"
                );
                self.error(subject, what, hint);
            }
        }
    }

    fn probe(&mut self, probed: &Probed) {
        let subject = format!("{} at {}", probed.server, probed.address);
        if let (Err(udp), Err(_)) = (&probed.udp, &probed.tcp) {
            return self.error(
                subject,
                format!("it does not answer: {udp}"),
                "does a node listen there ([dns] listen)? Are UDP and TCP port 53 open?",
            );
        }
        match &probed.udp {
            Err(error) => {
                self.error(&subject, format!("it does not answer over UDP: {error}"), "open UDP port 53")
            }
            Ok(seen) => self.serves(&subject, seen),
        }
        match &probed.tcp {
            Err(error) => self.error(
                &subject,
                format!("it does not answer over TCP: {error}"),
                "open TCP port 53: long answers need it (RFC 7766)",
            ),
            Ok(seen) if probed.udp.is_err() => self.serves(&subject, seen),
            Ok(_) => {}
        }
        self.edns(&subject, probed);
        self.names(&subject, probed);
        if let Ok(seen) = &probed.recursion
            && seen.recursion_available
        {
            self.error(
                &subject,
                "it resolves names of others for everybody",
                "switch recursion off there: such servers are used to flood others",
            );
        }
    }

    /// A server that has the zone answers for its SOA with authority.
    fn serves(&mut self, subject: &str, seen: &Seen) {
        if seen.rcode != Rcode::NOERROR || !seen.authoritative || seen.soa().is_none() {
            let what = match seen.rcode {
                Rcode::NOERROR if seen.soa().is_some() => "it answers without authority (AA)".to_owned(),
                Rcode::NOERROR => "it does not know the zone's SOA".to_owned(),
                rcode => format!("it answers {rcode}"),
            };
            let hint = "the delegation is lame there: is it a node of this mesh, and does it run the present revision?";
            self.error(subject, what, hint);
        }
    }

    fn edns(&mut self, subject: &str, probed: &Probed) {
        match probed.udp.as_ref().map(|seen| seen.edns_payload) {
            Ok(None) => self.warn(
                subject,
                "it does not speak EDNS",
                "is something between that takes it out (RFC 6891)?",
            ),
            Ok(Some(payload)) if payload > LARGEST_PAYLOAD => {
                self.warn(
                    subject,
                    format!("it sends up to {payload} bytes over UDP"),
                    "1232 cross the Internet in one piece",
                );
            }
            _ => {}
        }
        if let Ok(seen) = &probed.version
            && seen.rcode != Rcode::BADVERS
        {
            let what = format!("it answers {} to EDNS version 1, where BADVERS belongs", seen.rcode);
            self.warn(subject, what, "is something between that does not know EDNS (RFC 6891 §6.1.3)?");
        } else if probed.version.is_err() && probed.udp.is_ok() {
            self.warn(
                subject,
                "it does not answer EDNS version 1 at all",
                "is a firewall between that drops what it does not know (RFC 8906)?",
            );
        }
    }

    /// What it says of the zone's name servers, and of its own name.
    fn names(&mut self, subject: &str, probed: &Probed) {
        let zone = &self.observed.zone;
        if let Ok(seen) = &probed.servers
            && seen.rcode == Rcode::NOERROR
        {
            let told: BTreeSet<String> =
                seen.name_servers(zone).iter().map(|server| server.name.to_string()).collect();
            let ours: BTreeSet<String> =
                self.observed.servers.iter().map(|server| server.name.to_string()).collect();
            if told != ours {
                let what =
                    format!("it names {} as name servers, the zone has {}", listed(&told), listed(&ours));
                self.error(subject, what, "does it run the present revision? meridian status");
            }
        }
        if let Some(Ok(seen)) = &probed.own
            && seen.answers.iter().any(|record| record.kind == Kind::CNAME)
        {
            self.error(
                subject,
                "its name is an alias (CNAME), which a name server's cannot be",
                "give it addresses of its own (RFC 2181 §10.3)",
            );
        }
    }

    /// What the servers say together: one zone, one SOA.
    fn agreement(&mut self) {
        let zone = &self.observed.zone;
        let seen = self.observed.probes.iter().filter_map(|probed| {
            let soa = probed.udp.as_ref().or(probed.tcp.as_ref()).ok()?.soa()?;
            Some((format!("{} at {}", probed.server, probed.address), soa))
        });
        let servers = self.observed.probes.iter().filter_map(|probed| probed.servers.as_ref().ok());
        let told = servers.filter(|seen| seen.rcode == Rcode::NOERROR).flat_map(|seen| &seen.answers);
        let ttl = told.filter(|record| record.kind == Kind::NS).map(|record| record.ttl).min();
        if let Some(ttl) = ttl.filter(|ttl| *ttl < LEAST_NS_TTL) {
            let hint = format!(
                "a TTL of {LEAST_NS_TTL} s or more spares resolvers from asking all the time: a zone file can give NS its own"
            );
            self.warn(zone, format!("its NS records live for {ttl} s"), hint);
        }
        let mut serials: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        let mut first: Option<&SeenSoa> = None;
        let mut differ = false;
        for (server, soa) in seen {
            serials.entry(soa.serial).or_default().push(server);
            differ |= first.is_some_and(|first| SeenSoa { serial: soa.serial, ..first.clone() } != *soa);
            first = first.or(Some(soa));
        }
        if serials.len() > 1 {
            let told: Vec<String> = serials
                .iter()
                .map(|(serial, servers)| format!("{serial} ({})", servers.join(", ")))
                .collect();
            let hint = "a new revision takes seconds to reach all nodes; where it stays, is that server a node of this mesh?";
            self.error(zone, format!("its serials differ: {}", told.join("; ")), hint);
        }
        if differ {
            self.error(
                zone,
                "its servers give different SOA records",
                "are all of them nodes of this mesh? meridian members",
            );
        }
        let Some(soa) = first else { return };
        let [refresh, retry, expire] = soa.timers;
        for (what, value, range) in [
            ("refresh", refresh, REFRESH),
            ("retry", retry, RETRY),
            ("expire", expire, EXPIRE),
            ("minimum", soa.minimum, MINIMUM),
        ] {
            if !range.contains(&value) {
                let what = format!(
                    "the SOA's {what} is {value} s; some registries want {} to {}",
                    range.start(),
                    range.end()
                );
                self.warn(
                    zone,
                    what,
                    "a zone file can have an SOA of its own; `ttl` of the zone is the minimum otherwise",
                );
            }
        }
    }
}

fn listed<T: ToString>(set: &BTreeSet<T>) -> String {
    match set.is_empty() {
        true => "nothing".into(),
        false => set.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// What commonly fails together: a /24, or the /48 of one site.
fn network(address: IpAddr) -> Option<IpNet> {
    let bits = if address.is_ipv4() { 24 } else { 48 };
    IpNet::new(address, bits).ok().map(|net| net.trunc())
}

/// Whether the Internet reaches it (RFC 6890, as far as anybody would enter such an address).
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let [first, second, ..] = address.octets();
            let shared = first == 100 && (64..128).contains(&second);
            let none = address.is_loopback()
                || address.is_private()
                || address.is_link_local()
                || address.is_unspecified();
            !(none || shared || address.is_multicast() || address.is_broadcast())
        }
        IpAddr::V6(address) => {
            let none = address.is_loopback() || address.is_unspecified() || address.is_multicast();
            !(none || address.is_unique_local() || address.is_unicast_link_local())
        }
    }
}
