use std::net::SocketAddr;
use std::time::Duration;

use gossip::id::BackendId;

use super::*;
use crate::config::model::*;

const SECOND: Duration = Duration::from_secs(1);

/// The contract's sample (DESIGN §7) with what is not yet supported left out.
const SAMPLE: &str = r#"
[region.eu]
latitude = 50.11
longitude = 8.68
prefixes = ["10.1.0.0/16"]
[region.us]

[dns.zone."lb.example.com"]
nameserver = { ns1 = ["198.51.100.10"], ns2 = ["203.0.113.10"] }
contact = "hostmaster@example.com"
ttl = "30s"
[dns.zone."lb.example.com".steer.www]
service = "web"
policy = "nearest"
answers = 2
shed = { low = 0.7, high = 0.95 }
[[dns.zone."lb.example.com".record]]
name = "@"
type = "MX"
value = "10 mail.example.com."
ttl = "1h"

[listener.http]
port = 80
protocol = "http"
trusted_proxies = ["10.0.0.0/8"]
accept_proxy = ["10.0.0.0/8"]
max_connections = 65536
[listener.postgres]
port = 5432
protocol = "tcp"
service = "pg"

[service.web]
hosts = ["www.example.com"]
paths = ["/"]
split = { web-v1 = 95, web-v2 = 5 }
force = [{ header = "x-version", value = "v2", pool = "web-v2" }]
sticky.cookie = { name = "meridian", ttl = "8h", max_age = "24h", on_down = "repin" }
allow = []
deny = ["203.0.113.0/24"]
timeout = { connect = "1s", response = "60s", idle = "60s" }
retry = { attempts = 2, budget = 0.2 }
[service.pg]
split = { pg = 1 }
sticky.source_ip = { ttl = "30m" }

[pool.web-v1]
balance = "least-busy"
protocol = "http1"
health.http = { path = "/healthz", interval = "2s", timeout = "1s", rise = 2, fall = 3, status = "200-399" }
backend = [
  { address = "10.0.1.11:8080", region = "eu", zone = "eu-a", rack = "r12", weight = 100 },
  { address = "10.9.1.11:8080", region = "us", weight = 50 },
]
[pool.web-v2]
backend = [{ address = "10.0.1.12:8080", region = "eu" }]
[pool.pg]
health.tcp = { interval = "2s" }
send_proxy = "v2"
backend = [{ address = "10.0.2.5:5432", region = "eu" }]
"#;

#[test]
fn the_contracts_sample_means_what_it_says() {
    assert_eq!(faults(SAMPLE), [""; 0]);
    let services = accepted(SAMPLE);
    assert_eq!(services.regions[0].location, Some((50.11, 8.68)));
    assert_eq!(services.regions[1].location, None);
    let zone = &services.zones[0];
    assert_eq!((zone.name.as_str(), zone.ttl), ("lb.example.com", 30 * SECOND));
    assert_eq!(zone.nameservers["ns2"], ["203.0.113.10".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(zone.steer["www"].policy, SteerPolicy::Nearest);
    assert_eq!(zone.steer["www"].shed, Some(dns::Shed { low_permille: 700, high_permille: 950 }));
    assert_eq!(zone.records[0].ttl, Some(3600 * SECOND));
    assert_eq!(services.behind_tcp().into_iter().map(ServiceName::as_str).collect::<Vec<_>>(), ["pg"]);
    assert_eq!(services.listeners["http"].accept_proxy, ["10.0.0.0/8".parse().unwrap()]);

    let web = &services.services["web"];
    assert_eq!(
        web.split.iter().map(|(pool, share)| (pool.as_str(), *share)).collect::<Vec<_>>(),
        [("web-v1", 95), ("web-v2", 5)]
    );
    assert_eq!(web.force[0].header, "x-version");
    assert_eq!(web.timeout, Timeouts { connect: SECOND, response: 60 * SECOND, idle: 60 * SECOND });
    assert_eq!(services.services["pg"].sticky_source_ip, Some(1800 * SECOND));

    let pool = &services.pools["web-v1"];
    let address: SocketAddr = "10.9.1.11:8080".parse().unwrap();
    assert_eq!(pool.backends[1].id, BackendId::of(&pool.name, address));
    assert_eq!((pool.backends[1].region.as_str(), pool.backends[1].weight), ("us", 50));
    assert_eq!(services.pools["pg"].send_proxy, Some(SendProxy::V2));
}

#[test]
fn what_is_left_out_has_the_promised_defaults() {
    let services = accepted(
        "[listener.http]\nport = 80\nprotocol = \"http\"\n\
         [service.web]\nsplit = { web = 1 }\nsticky.cookie = {}\n\
         [pool.web]\nhealth.http = {}\nbackend = [{ address = \"10.0.0.1:80\" }]\n\
         [dns.zone.\"Example.COM.\"]\nnameserver.NS = [\"192.0.2.1\", \"2001:db8::1\"]\nsteer.\"@\".service = \"web\"\n",
    );
    assert_eq!(services.listeners["http"].max_connections, 65_536);
    let web = &services.services["web"];
    assert_eq!((web.hosts.len(), &web.paths[..]), (0, &["/".to_owned()][..]));
    let cookie = web.sticky_cookie.as_ref().unwrap();
    assert_eq!(
        (cookie.name.as_str(), cookie.ttl, cookie.max_age),
        ("meridian", 8 * 3600 * SECOND, 24 * 3600 * SECOND)
    );
    assert_eq!(cookie.on_down, OnDown::Repin);
    assert_eq!(web.timeout, Timeouts { connect: SECOND, response: 60 * SECOND, idle: 3600 * SECOND });
    assert_eq!(web.retry, Retry { attempts: 2, budget: 0.2 });

    let pool = &services.pools["web"];
    assert_eq!(pool.balance, BalancePolicy::LeastBusy);
    assert_eq!((pool.backends[0].region.as_str(), pool.backends[0].weight), ("local", 100));
    let health = pool.health.as_ref().unwrap();
    assert_eq!((health.interval, health.timeout, health.rise, health.fall), (2 * SECOND, SECOND, 2, 3));
    let Probe::Http { path, host, status } = &health.probe else { panic!("an HTTP probe") };
    assert_eq!((path.as_str(), host), ("/", &None));
    assert_eq!((status[0].0.as_u16(), status[0].1.as_u16()), (200, 399));

    let zone = &services.zones[0];
    assert_eq!((zone.name.as_str(), zone.contact.as_str()), ("example.com", "hostmaster@example.com"));
    assert_eq!(zone.ttl, 30 * SECOND);
    assert!(zone.nameservers.contains_key("ns"));
    assert_eq!(zone.steer["@"].answers, 2);
}

#[test]
fn a_backend_without_a_region_stands_in_the_only_one() {
    let text = "[region.eu]\n[service.a]\nsplit.a = 1\n[pool.a]\nbackend = [{ address = \"[::1]:80\" }]\n";
    assert_eq!(accepted(text).pools["a"].backends[0].region.as_str(), "eu");
}

#[test]
fn regions_keep_the_files_order() {
    let services = accepted("[region.us]\n[region.ap]\n[region.eu]\n");
    assert_eq!(
        services.regions.iter().map(|region| region.name.as_str()).collect::<Vec<_>>(),
        ["us", "ap", "eu"]
    );
}

#[test]
fn values_are_normalised() {
    let services = accepted(
        "[service.a]\nhosts = [\"WWW.Example.com\", \"*.example.com\", \"[::1]\"]\npaths = [\"/api/\", \"/\"]\nsplit.a = 1\n\
         sticky.cookie = { ttl = \"48h\" }\ndeny = [\"192.0.2.1\"]\n\
         [pool.a]\nhealth.http = { interval = \"500ms\", status = \"200, 204,301-302\" }\nbackend = []\n\
         [region.eu]\nlatitude = 50\nlongitude = -8.5\n",
    );
    let service = &services.services["a"];
    assert_eq!(service.hosts, ["www.example.com", "*.example.com", "::1"]);
    assert_eq!(service.paths, ["/api", "/"]);
    assert!(service.deny.contains([192, 0, 2, 1].into()) && !service.deny.contains([192, 0, 2, 2].into()));
    // The absolute end is never before the idle one.
    assert_eq!(service.sticky_cookie.as_ref().unwrap().max_age, 48 * 3600 * SECOND);
    let health = services.pools["a"].health.as_ref().unwrap();
    assert_eq!(health.timeout, Duration::from_millis(500));
    let Probe::Http { status, .. } = &health.probe else { panic!("an HTTP probe") };
    assert_eq!(status.len(), 3);
    assert_eq!(services.regions[0].location, Some((50.0, -8.5)));
}

#[test]
fn an_empty_file_is_a_mesh_that_serves_nothing() {
    assert_eq!(
        faults(""),
        ["? 1:1 this file declares nothing (applied, it takes every listener, service and zone away)"]
    );
    assert!(accepted("# nothing yet\n").pools.is_empty());
}

#[test]
fn the_example_is_valid_and_complete() {
    let text = include_str!("../../../../../deploy/examples/services.toml");
    assert_eq!(faults(text), [""; 0]);
    let services = accepted(text);
    assert_eq!((services.listeners.len(), services.services.len(), services.pools.len()), (4, 4, 5));
}

#[test]
fn a_zone_is_signed_when_it_says_so() {
    for (more, signed) in [("", false), ("dnssec = false", false), ("dnssec = true", true)] {
        let text = format!("[dns.zone.\"x.de\"]\nnameserver.ns1 = [\"192.0.2.1\"]\n{more}\n");
        assert_eq!(accepted(&text).zones[0].dnssec, signed, "{more}");
    }
}

#[test]
fn tls_on_both_sides() {
    let text = |more: &str| {
        format!(
            "[listener.http]\nport = 80\nprotocol = \"http\"\nredirect_https = true\n\
             [listener.https]\nport = 443\nprotocol = \"https\"\nclient_ca = \"/c.pem\"\n\
             certificate = [{{ cert = \"/a.pem\", key = \"/a.key\" }}, {{ cert = \"/b.pem\", key = \"/b.key\" }}]\n\
             [listener.other]\nport = 8443\nprotocol = \"https\"\ncertificate = [{{ cert = \"/a.pem\", key = \"/a.key\" }}]\n\
             [service.web]\nsplit = {{ web = 1 }}\n[pool.web]\nprotocol = \"https\"\n{more}\n\
             backend = [{{ address = \"10.0.0.1:443\" }}]\n"
        )
    };
    let verified = text("ca = \"/ca.pem\"\nserver_name = \"backend.internal\"");
    assert_eq!(faults(&verified), [""; 0]);
    let services = accepted(&verified);
    let (http, https) = (&services.listeners["http"], &services.listeners["https"]);
    assert_eq!(http.redirect_https, Some(443));
    assert_eq!(https.protocol, ListenerProtocol::Https);
    assert_eq!(https.certificates[1].key.to_str(), Some("/b.key"));
    assert_eq!(https.client_ca.as_deref().and_then(std::path::Path::to_str), Some("/c.pem"));
    let tls = services.pools["web"].tls.as_ref().unwrap();
    assert_eq!(tls.ca.as_deref().and_then(std::path::Path::to_str), Some("/ca.pem"));
    assert_eq!(tls.server_name.as_deref(), Some("backend.internal"));

    let warned = faults(&text(""));
    assert!(warned[0].starts_with("? 17:1 without `ca` the certificates"), "{warned:?}");
    assert_eq!(accepted(&text("")).pools["web"].tls, Some(BackendTls::default()));
}

#[test]
fn http2_over_tls_and_in_the_clear() {
    let pool = |more: &str| {
        format!(
            "[listener.http]\nport = 80\nprotocol = \"http\"\n[service.web]\nsplit = {{ web = 1 }}\n\
             [pool.web]\n{more}\nbackend = [{{ address = \"10.0.0.1:443\" }}]\n"
        )
    };
    for (more, protocol, tls) in [
        ("protocol = \"http2\"", PoolProtocol::Http2, false),
        ("protocol = \"http2\"\ntls = false", PoolProtocol::Http2, false),
        ("protocol = \"http2\"\ntls = true\nca = \"/ca.pem\"\nhealth.grpc = {}", PoolProtocol::Http2, true),
        ("tls = true\nca = \"/ca.pem\"", PoolProtocol::Http1, true),
        ("protocol = \"https\"\ntls = true\nca = \"/ca.pem\"\nhealth.grpc = {}", PoolProtocol::Http1, true),
    ] {
        assert_eq!(faults(&pool(more)), [""; 0], "{more}");
        let services = accepted(&pool(more));
        assert_eq!((services.pools["web"].protocol, services.pools["web"].tls.is_some()), (protocol, tls));
    }
    let unverified = faults(&pool("protocol = \"http2\"\ntls = true"));
    assert!(unverified[0].starts_with("? 8:1 without `ca` the certificates"), "{unverified:?}");
}

#[test]
fn every_way_to_write_hsts() {
    for (written, value) in [
        ("true", Some("max-age=31536000")),
        ("false", None),
        ("\"30days\"", Some("max-age=2592000")),
        ("\"0s\"", Some("max-age=0")),
        ("{}", Some("max-age=31536000")),
        (
            "{ max_age = \"2d\", include_subdomains = true, preload = true }",
            Some("max-age=172800; includeSubDomains; preload"),
        ),
    ] {
        let services = accepted(&format!(
            "[listener.https]\nport = 443\nprotocol = \"https\"\nhsts = {written}\n\
             certificate = [{{ cert = \"/a.pem\", key = \"/a.key\" }}]\n"
        ));
        let hsts = services.listeners["https"].hsts.as_ref();
        assert_eq!(hsts.map(|value| value.to_str().unwrap()), value, "{written}");
    }
}

#[test]
fn tls_listeners_serve_by_host_and_make_services_their_own() {
    let pool = "[pool.p]\nhealth.tcp = {}\nsend_proxy = \"v2\"\nbackend = [{ address = \"10.0.0.1:443\" }]\n";
    let shop = "[service.shop]\nhosts = [\"shop.example.com\"]\nsplit = { p = 1 }\nsticky.source_ip = {}\n";
    // Alone, it serves all.
    let services = accepted(&format!("[listener.tls]\nport = 443\nprotocol = \"tls\"\n{shop}{pool}"));
    let listener = &services.listeners["tls"];
    assert_eq!(services.served_by_tls(listener).count(), 1);
    // Beside an HTTP listener it names what is its own.
    let http = "[listener.http]\nport = 80\nprotocol = \"http\"\n\
                [service.www]\nsplit = { w = 1 }\n[pool.w]\nbackend = [{ address = \"10.0.0.1:80\" }]\n";
    let named = "[listener.tls]\nport = 443\nprotocol = \"tls\"\nservices = [\"shop\"]\n";
    let services = accepted(&format!("{named}{http}{shop}{pool}"));
    let listener = &services.listeners["tls"];
    let served: Vec<_> = services.served_by_tls(listener).map(|service| service.name.as_str()).collect();
    assert_eq!(served, ["shop"]);
    assert_eq!(services.behind_tls().into_iter().map(ServiceName::as_str).collect::<Vec<_>>(), ["shop"]);
}

#[test]
fn all_types_of_zone_files_may_stand_in_records() {
    for (kind, value) in [
        ("TLSA", "3 1 1 49fd"),
        ("sshfp", "4 2 49fd"),
        ("URI", "10 1 \"https://example.com/\""),
        ("NAPTR", "1 2 \"u\" \"E2U+sip\" \"\" sip"),
        ("A", r"\# 4 C0000201"),
        ("TYPE65280", r"\# 1 00"),
    ] {
        let text = format!(
            "[dns.zone.\"x.de\"]\nnameserver.ns1 = [\"192.0.2.1\"]\n\
             record = [{{ name = \"a\", type = \"{kind}\", value = '{value}' }}]\n"
        );
        let valid = parse("services.toml", &text).unwrap_or_else(|report| panic!("{kind}: {report}"));
        assert_eq!(valid.services.zones[0].records[0].kind, kind.to_ascii_uppercase());
    }
}
