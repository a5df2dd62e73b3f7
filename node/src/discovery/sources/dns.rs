//! `discover.dns`: addresses behind a name (A, AAAA), or services with targets, ports, weights and priorities (SRV, RFC
//! 2782).
//!
//! The next question follows when the shortest TTL of the answer is over, less a random part of it, so that the nodes of a
//! mesh do not ask together; never sooner than a second, never later than `refresh`. A name that has no records is a
//! failure like any other: whoever wants a pool without backends says so in the configuration.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::future::try_join_all;
use rand::RngExt;
use trust_dns_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use trust_dns_resolver::lookup::Lookup;
use trust_dns_resolver::net::runtime::TokioRuntimeProvider;
use trust_dns_resolver::proto::rr::rdata::SRV;
use trust_dns_resolver::proto::rr::{Name, RData, RecordType};
use trust_dns_resolver::{ResolverBuilder, TokioResolver};

use super::{Following, Reporter, Source};
use crate::config::model::{DnsSpec, RecordKind};
use crate::discovery::found::{FOUND_MAX, Found, is_reachable};

/// Between two questions at least.
const SOONEST: Duration = Duration::from_secs(1);
/// One resolver may take so long for one answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// And so long for all that one answer takes: the addresses of its targets too.
const WHOLE: Duration = Duration::from_secs(20);
/// Targets of SRV records whose addresses are asked for; further ones are left out.
const TARGETS_MAX: usize = 1_000;
/// Of them so many are asked for at once.
const AT_ONCE: usize = 16;

/// Backends behind a name.
pub(super) struct Dns {
    spec: DnsSpec,
}

impl Dns {
    pub(super) fn new(spec: DnsSpec) -> Self {
        Self { spec }
    }
}

impl Source for Dns {
    fn follow(self, reporter: Reporter) -> Following {
        Box::pin(async move {
            let (mut failures, mut first) = (0_u32, 0);
            loop {
                let wait = match ask(&self.spec, &mut first).await {
                    Ok((found, ttl)) => {
                        failures = 0;
                        reporter.say(Ok(found)).await;
                        ttl
                    }
                    Err(error) => {
                        failures = failures.saturating_add(1);
                        reporter.say(Err(error)).await;
                        // 1 s, 2 s, 4 s ...
                        SOONEST.saturating_mul(1 << (failures - 1).min(10))
                    }
                };
                let drawn = rand::rng().random();
                tokio::time::sleep(pause(wait, self.spec.refresh, drawn)).await;
            }
        })
    }
}

/// How long to wait after an answer that holds for `ttl`; `drawn` is a random number from 0 to 1.
fn pause(ttl: Duration, refresh: Duration, drawn: f64) -> Duration {
    ttl.min(refresh).mul_f64(1.0 - 0.2 * drawn).max(SOONEST)
}

/// All backends, and for how long that holds, from the first resolver that can say. The system's resolvers are read anew
/// each time: they may change. `first` is the one that answered last: one that is silent costs time only once.
async fn ask(spec: &DnsSpec, first: &mut usize) -> Result<(Vec<Found>, Duration), String> {
    if spec.resolvers.is_empty() {
        let system =
            TokioResolver::builder_tokio().map_err(|error| format!("the system's resolvers: {error}"))?;
        return ask_for_so_long(spec, system).await;
    }
    let mut failures = Vec::new();
    let count = spec.resolvers.len();
    for at in (0..count).map(|step| (*first + step) % count) {
        let server = spec.resolvers[at];
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
            connection.port = server.port();
            connection
        });
        let server_config = NameServerConfig::new(server.ip(), true, connections.into());
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server_config]);
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        match ask_for_so_long(spec, builder).await {
            Ok(answer) => {
                *first = at;
                return Ok(answer);
            }
            Err(error) => failures.push(format!("{server}: {error}")),
        }
    }
    Err(failures.join("; "))
}

async fn ask_for_so_long(
    spec: &DnsSpec,
    builder: ResolverBuilder<TokioRuntimeProvider>,
) -> Result<(Vec<Found>, Duration), String> {
    let asked = tokio::time::timeout(WHOLE, ask_one(spec, builder)).await;
    asked.unwrap_or_else(|_| Err(format!("no whole answer in {WHOLE:?}")))
}

async fn ask_one(
    spec: &DnsSpec,
    mut builder: ResolverBuilder<TokioRuntimeProvider>,
) -> Result<(Vec<Found>, Duration), String> {
    let options = builder.options_mut();
    options.timeout = TIMEOUT;
    options.attempts = 1;
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options.try_tcp_on_error = true;
    options.edns0 = true;
    let resolver = builder.build().map_err(|error| error.to_string())?;
    let (found, ttl) = match spec.record {
        RecordKind::Srv => services(spec, &resolver).await?,
        RecordKind::A => addresses(spec, &resolver, RecordType::A).await?,
        RecordKind::Aaaa => addresses(spec, &resolver, RecordType::AAAA).await?,
    };
    match found.is_empty() {
        true => Err("the answer names nothing that can be reached".into()),
        false => Ok((found, ttl)),
    }
}

/// Why a question got no records.
enum Unanswered {
    /// There are none.
    Nothing(String),
    /// Nobody could say.
    Failed(String),
}

impl From<Unanswered> for String {
    fn from(why: Unanswered) -> Self {
        match why {
            Unanswered::Nothing(why) | Unanswered::Failed(why) => why,
        }
    }
}

/// One question about an absolute name; what is answered is at least one record.
async fn lookup(resolver: &TokioResolver, name: &str, kind: RecordType) -> Result<Lookup, Unanswered> {
    let mut absolute = Name::from_utf8(name).map_err(|error| Unanswered::Failed(error.to_string()))?;
    absolute.set_fqdn(true);
    resolver.lookup(absolute, kind).await.map_err(|error| match () {
        () if error.is_nx_domain() => Unanswered::Nothing("there is no such name".into()),
        () if error.is_no_records_found() => Unanswered::Nothing(format!("it has no {kind} records")),
        () => Unanswered::Failed(error.to_string()),
    })
}

/// The shortest TTL of the records of an answer.
fn ttl(answer: &Lookup) -> Duration {
    let ttls = answer.answers().iter().map(|record| record.ttl);
    Duration::from_secs(ttls.min().unwrap_or_default().into())
}

fn ips(answer: &Lookup) -> impl Iterator<Item = IpAddr> {
    answer.answers().iter().filter_map(|record| match &record.data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    })
}

async fn addresses(
    spec: &DnsSpec,
    resolver: &TokioResolver,
    kind: RecordType,
) -> Result<(Vec<Found>, Duration), String> {
    let answer = lookup(resolver, &spec.name, kind).await?;
    let port = spec.port.ok_or("it has no port")?;
    let found = ips(&answer).map(|ip| Found::at(SocketAddr::new(ip, port), spec.region.clone()));
    Ok((found.filter(|found| is_reachable(found.address)).take(FOUND_MAX).collect(), ttl(&answer)))
}

async fn services(spec: &DnsSpec, resolver: &TokioResolver) -> Result<(Vec<Found>, Duration), String> {
    let answer = lookup(resolver, &spec.name, RecordType::SRV).await?;
    let services = answer.answers().iter().filter_map(|record| match &record.data {
        // A target of "." says that the service is decidedly not there.
        RData::SRV(service) if !service.target.is_root() => Some(service),
        _ => None,
    });
    let services: Vec<&SRV> = services.take(TARGETS_MAX).collect();
    if services.is_empty() {
        return Err("no target offers this service".into());
    }
    let mut shortest = ttl(&answer);
    let first = services.iter().map(|service| service.priority).min().unwrap_or_default();
    let mut found: BTreeMap<SocketAddr, Found> = BTreeMap::new();
    for some in services.chunks(AT_ONCE) {
        let located = some.iter().map(|service| locate(resolver, &answer, service));
        for (service, (ips, ttl)) in some.iter().zip(try_join_all(located).await?) {
            shortest = shortest.min(ttl);
            for ip in ips {
                let address = SocketAddr::new(ip, service.port);
                let (weight, priority) = (service.weight, service.priority - first);
                let new = Found { weight, priority, ..Found::at(address, spec.region.clone()) };
                match found.entry(address) {
                    Entry::Vacant(place) => drop(place.insert(new)),
                    // What is named twice counts where it comes first.
                    Entry::Occupied(mut known) if new.priority < known.get().priority => {
                        known.insert(new);
                    }
                    Entry::Occupied(_) => {}
                }
            }
        }
    }
    let mut found: Vec<Found> = found.into_values().filter(|found| is_reachable(found.address)).collect();
    found.truncate(FOUND_MAX);
    weigh(&mut found);
    Ok((found, shortest))
}

/// The addresses of a service's target: those that came along, else those that are asked for.
async fn locate(
    resolver: &TokioResolver,
    answer: &Lookup,
    service: &SRV,
) -> Result<(Vec<IpAddr>, Duration), String> {
    match beside(answer, &service.target) {
        ips if !ips.is_empty() => Ok((ips, ttl(answer))),
        _ => target(resolver, &service.target).await,
    }
}

/// Addresses of a target that came along with the answer.
fn beside(answer: &Lookup, target: &Name) -> Vec<IpAddr> {
    let same = answer.additionals().iter().filter(|record| record.name == *target);
    let ips = same.filter_map(|record| match &record.data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    });
    ips.collect()
}

/// The addresses of a target, of both families. A question that nobody answers fails the whole: with a part of it the pool
/// would lose backends to a lost packet.
async fn target(resolver: &TokioResolver, target: &Name) -> Result<(Vec<IpAddr>, Duration), String> {
    let name = target.to_utf8();
    let (v4, v6) =
        tokio::join!(lookup(resolver, &name, RecordType::A), lookup(resolver, &name, RecordType::AAAA));
    let told = |why: String| format!("target {name}: {why}");
    match (v4, v6) {
        (Err(Unanswered::Failed(why)), _) | (_, Err(Unanswered::Failed(why))) => Err(told(why)),
        (Err(Unanswered::Nothing(why)), Err(_)) => Err(told(why)),
        (Ok(v4), Ok(v6)) => Ok((ips(&v4).chain(ips(&v6)).collect(), ttl(&v4).min(ttl(&v6)))),
        (Ok(one), Err(_)) | (Err(_), Ok(one)) => Ok((ips(&one).collect(), ttl(&one))),
    }
}

/// Weight 0 among others is a very small chance, not none; where all have it, none is meant to differ (RFC 2782).
fn weigh(found: &mut [Found]) {
    let unweighted = found.iter().all(|found| found.weight == 0);
    for found in found.iter_mut().filter(|found| found.weight == 0) {
        found.weight = if unweighted { 100 } else { 1 };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, UdpSocket};
    use trust_dns_resolver::proto::op::{Message, ResponseCode};
    use trust_dns_resolver::proto::rr::Record;
    use trust_dns_resolver::proto::rr::rdata::{A, AAAA};

    use super::*;
    use crate::registry::fixture::region;

    type Zone = Arc<Mutex<Vec<Record>>>;

    /// A name server on loopback that knows `zone`; without records it fails. What is too long for UDP is cut there.
    async fn server(zone: Zone) -> SocketAddr {
        let (socket, listener) = loop {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(listener) = TcpListener::bind(socket.local_addr().unwrap()).await {
                break (socket, listener);
            }
        };
        let address = socket.local_addr().unwrap();
        let stream_zone = zone.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let zone = stream_zone.clone();
                tokio::spawn(async move {
                    while let Ok(length) = stream.read_u16().await {
                        let mut question = vec![0; usize::from(length)];
                        stream.read_exact(&mut question).await.unwrap();
                        let answer = answer(&zone, &question, usize::from(u16::MAX));
                        stream.write_u16(answer.len() as u16).await.unwrap();
                        stream.write_all(&answer).await.unwrap();
                    }
                });
            }
        });
        tokio::spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                socket.send_to(&answer(&zone, &buffer[..length], 1232), from).await.unwrap();
            }
        });
        address
    }

    fn answer(zone: &Zone, question: &[u8], longest: usize) -> Vec<u8> {
        let question = Message::from_vec(question).unwrap();
        let query = question.queries[0].clone();
        let mut answer = Message::response(question.id, question.op_code);
        answer.metadata.recursion_available = true;
        answer.add_query(query.clone());
        let mut cut = answer.clone();
        cut.metadata.truncation = true;
        let records = zone.lock().unwrap().clone();
        if records.is_empty() {
            answer.metadata.response_code = ResponseCode::ServFail;
        }
        for record in records {
            if record.name == query.name && record.record_type() == query.query_type {
                answer.add_answer(record);
            }
        }
        match answer.to_vec() {
            Ok(whole) if whole.len() <= longest => whole,
            _ => cut.to_vec().unwrap(),
        }
    }

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn a(of: &str, ttl: u32, ip: [u8; 4]) -> Record {
        Record::from_rdata(name(of), ttl, RData::A(A(ip.into())))
    }

    fn srv(priority: u16, weight: u16, target: &str) -> Record {
        let srv = SRV::new(priority, weight, 8080, name(target));
        Record::from_rdata(name("_http._tcp.web.test."), 30, RData::SRV(srv))
    }

    fn spec(of: &str, record: RecordKind, resolvers: Vec<SocketAddr>) -> DnsSpec {
        DnsSpec {
            name: of.into(),
            record,
            port: (record != RecordKind::Srv).then_some(80),
            resolvers,
            region: region("eu"),
            refresh: Duration::from_secs(60),
        }
    }

    #[tokio::test]
    async fn addresses_have_the_port_and_the_shortest_ttl() {
        let v6 = Record::from_rdata(name("web.test."), 5, RData::AAAA(AAAA("::1".parse().unwrap())));
        let zone = vec![a("web.test.", 20, [10, 0, 0, 1]), a("web.test.", 7, [10, 0, 0, 2]), v6];
        let server = server(Arc::new(Mutex::new(zone))).await;
        let (found, ttl) = ask(&spec("web.test", RecordKind::A, vec![server]), &mut 0).await.unwrap();
        let addresses: Vec<String> = found.iter().map(|found| found.address.to_string()).collect();
        assert_eq!(addresses, ["10.0.0.1:80", "10.0.0.2:80"]);
        assert_eq!(ttl, Duration::from_secs(7));
        let (found, _) = ask(&spec("web.test", RecordKind::Aaaa, vec![server]), &mut 0).await.unwrap();
        assert_eq!(found[0].address, "[::1]:80".parse().unwrap());
    }

    #[tokio::test]
    async fn services_have_weights_and_priorities() {
        let zone = vec![
            srv(10, 60, "a.test."),
            srv(10, 0, "b.test."),
            srv(20, 5, "c.test."),
            a("a.test.", 9, [10, 0, 0, 1]),
            a("b.test.", 60, [10, 0, 0, 2]),
            a("c.test.", 60, [10, 0, 0, 3]),
        ];
        let server = server(Arc::new(Mutex::new(zone))).await;
        let (found, ttl) =
            ask(&spec("_http._tcp.web.test", RecordKind::Srv, vec![server]), &mut 0).await.unwrap();
        let said: Vec<_> = found.iter().map(|f| (f.address.to_string(), f.weight, f.priority)).collect();
        let wanted = [("10.0.0.1:8080", 60, 0), ("10.0.0.2:8080", 1, 0), ("10.0.0.3:8080", 5, 10)];
        assert_eq!(said, wanted.map(|(address, weight, priority)| (address.to_owned(), weight, priority)));
        assert_eq!(ttl, Duration::from_secs(9), "of the targets too");
    }

    /// About as many as a message holds; what is nobody's, or tells secrets, is left out.
    #[tokio::test]
    async fn an_answer_as_large_as_they_come_is_taken() {
        let mut zone: Vec<Record> =
            (0..2_500_u16).map(|n| a("web.test.", 20, [10, 0, (n >> 8) as u8, n as u8])).collect();
        zone.extend([[169, 254, 169, 254], [0, 0, 0, 0], [224, 0, 0, 1]].map(|ip| a("web.test.", 20, ip)));
        let server = server(Arc::new(Mutex::new(zone))).await;
        let (found, _) = ask(&spec("web.test", RecordKind::A, vec![server]), &mut 0).await.unwrap();
        assert_eq!(found.len(), 2_500);
    }

    #[tokio::test]
    async fn many_targets_are_found_and_one_address_counts_where_it_comes_first() {
        let mut zone: Vec<Record> = (0..100).map(|n| srv(7, 1, &format!("t{n}.test."))).collect();
        zone.extend((0..100).map(|n| a(&format!("t{n}.test."), 30, [10, 0, 0, n])));
        zone.extend([srv(2, 9, "again.test."), a("again.test.", 30, [10, 0, 0, 5])]);
        let server = server(Arc::new(Mutex::new(zone))).await;
        let (found, _) =
            ask(&spec("_http._tcp.web.test", RecordKind::Srv, vec![server]), &mut 0).await.unwrap();
        assert_eq!(found.len(), 100);
        let first: Vec<_> = found.iter().filter(|found| found.priority == 0).collect();
        assert!(first.len() == 1 && first[0].weight == 9 && first[0].address.to_string() == "10.0.0.5:8080");
    }

    #[tokio::test]
    async fn the_next_resolver_answers_for_one_that_cannot() {
        let broken = server(Zone::default()).await;
        let well = server(Arc::new(Mutex::new(vec![a("web.test.", 20, [10, 0, 0, 1])]))).await;
        let (found, _) = ask(&spec("web.test", RecordKind::A, vec![broken, well]), &mut 0).await.unwrap();
        assert_eq!(found.len(), 1);
        assert!(ask(&spec("web.test", RecordKind::A, vec![broken]), &mut 0).await.is_err());
    }

    #[tokio::test]
    async fn what_is_not_there_is_a_failure() {
        let zone = vec![srv(1, 1, "nowhere.test."), a("web.test.", 20, [0, 0, 0, 0])];
        let server = server(Arc::new(Mutex::new(zone))).await;
        for (of, record) in [
            ("_http._tcp.web.test", RecordKind::Srv),
            ("other.test", RecordKind::A),
            ("web.test", RecordKind::A),
        ] {
            assert!(ask(&spec(of, record, vec![server]), &mut 0).await.is_err(), "{of}");
        }
    }

    #[test]
    fn nodes_do_not_ask_together() {
        let (ttl, refresh) = (Duration::from_secs(30), Duration::from_secs(60));
        assert_eq!(pause(ttl, refresh, 0.0), ttl);
        assert_eq!(pause(ttl, refresh, 1.0), Duration::from_secs(24));
        assert_eq!(pause(Duration::from_secs(86_400), refresh, 0.0), refresh);
        assert_eq!(pause(Duration::ZERO, refresh, 1.0), SOONEST);
    }
}
