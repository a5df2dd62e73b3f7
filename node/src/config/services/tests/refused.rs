//! What is refused: every fault at its place, with its words.

use super::*;

/// Files, and everything that is said of each.
type Cases = &'static [(&'static str, &'static [&'static str])];

#[track_caller]
fn check(cases: Cases) {
    for (text, expected) in cases {
        assert_eq!(faults(text), *expected, "{text}");
    }
}

#[test]
fn text_that_is_no_toml() {
    check(&[
        (
            "[pool.a
backend = 1
",
            &[
                "1:8 this is not TOML: unclosed table, expected `]`",
                "2:1 unknown key `backend` (known here: `region`, `dns`, `listener`, `service`, `pool`)",
            ],
        ),
        (
            "a = foo
b = bar
",
            &[
                "1:5 this is not TOML: invalid boolean, expected `false`",
                "2:5 this is not TOML: string values must be quoted, expected literal string",
            ],
        ),
        (
            "[pool.a]
backend = []
[pool.a]
backend = []
",
            &[
                "? 2:11 this pool has no backends",
                "3:7 this is not TOML: duplicate key",
                "4:1 this is not TOML: duplicate key",
            ],
        ),
        (
            "[pool.a]
backend = [
[pool.b]
backend = []
bogus = 1
",
            &["3:2 this is not TOML: string values must be quoted, expected literal string"],
        ),
        (
            r#"bogus = 1
x = "open
"#,
            &[
                "1:1 unknown key `bogus` (known here: `region`, `dns`, `listener`, `service`, `pool`)",
                r#"2:10 this is not TOML: invalid basic string, expected `"`"#,
            ],
        ),
        (
            "a = 1


service = { x = 1
[pool.p]
bogus = [1
",
            &[
                "1:1 unknown key `a` (known here: `region`, `dns`, `listener`, `service`, `pool`)",
                "5:1 this is not TOML: missing key for inline table element, expected `,`",
            ],
        ),
        (
            r#"[pool.p]
backend = [{ address = "10.0.0.1:80", region = }]
balanc = 1
"#,
            &[
                "2:48 this is not TOML: invalid literal string, expected `'`",
                "3:1 unknown key `balanc` (did you mean `balance`?)",
            ],
        ),
    ]);
}

#[test]
fn keys_and_names_that_are_none() {
    check(&[
        (
            "[listner.http]
port = 80
",
            &["1:2 unknown key `listner` (did you mean `listener`?)"],
        ),
        (
            r#"[mesh]
listen = "0.0.0.0:7946"
[dns]
listen = ["0.0.0.0:53"]
"#,
            &[
                "1:2 unknown key `mesh` (`[mesh]` belongs to node.toml; this file is the same on every node)",
                "4:1 unknown key `listen` (it belongs to node.toml; this file is the same on every node)",
            ],
        ),
        (
            r#"[pool."a b"]
backend = []
"#,
            &[
                "1:7 a name is made of letters, digits, '-', '_' and '.', and starts with a letter or digit; ' ' is not allowed here",
            ],
        ),
        (
            r#"[listener.http]
protcol = "http"
port = 80
"#,
            &["2:1 unknown key `protcol` (did you mean `protocol`?)"],
        ),
        (
            "listener = 1
[service]
x = 1
",
            &["1:12 `listener` must be a table, not an integer", "3:5 `x` must be a table, not an integer"],
        ),
    ]);
}

#[test]
fn what_is_still_to_come_is_refused_and_checked() {
    check(&[
        (
            r#"[listener.a]
port = 443
protocol = "https"
accept_proxy = ["10.0.0.0", "x"]
certificate = [{ cert = "a.pem" }]
redirect_https = true
hsts = "1y"
client_ca = 1
acme = {}
"#,
            &[
                r#"4:29 `x` is no network (a network is written "10.0.0.0/8" or "2001:db8::/32")"#,
                "5:16 `key` is missing here",
                "6:1 `redirect_https` is for http listeners",
                "8:13 `client_ca` must be a string, not an integer",
                "9:1 `acme` is not yet supported",
            ],
        ),
        (
            r#"[listener.h]
port = 80
protocol = "http"
[service.a]
split.p = 1
rate_limit = { per_client = 100, burst = "x" }
[pool.p]
balance = "peak-ewma"
protocol = "http2"
health.grpc = { interval = 2 }
slow_start = "30s"
max_connections = 200
discover.dns = { name = "x", typ = "srv" }
discover.docker = { label = 1 }
lease = { ttl = "15s" }
scale = {}
hash = { header = "x" }
ejection = { max_share = 2 }
send_proxy = "v3"
"#,
            &[
                "6:42 `burst` must be an integer, not a string",
                r#"10:28 `interval` must be a time (a time is written "500ms", "30s", "8h")"#,
                "13:16 `port` is missing here: A and AAAA records have none (port = 8080, or type = \"srv\")",
                "13:30 unknown key `typ` (did you mean `type`?)",
                "14:29 `label` must be a string, not an integer",
                "16:9 `max` is missing here",
                "16:9 `target` is missing here",
                "16:9 `via` is missing here",
                r#"17:1 `hash` means nothing to balance `peak-ewma` (balance = "hash")"#,
                "18:26 `max_share` must be between 0 and 1",
                "19:1 `send_proxy` is for pools behind tcp and tls listeners, and an HTTP service uses this one (an HTTP backend reads the client's address in X-Forwarded-For)",
                "19:14 `v3` is no send_proxy (did you mean `v1`?)",
            ],
        ),
        (
            r#"[dns.zone."x.de"]
nameserver.ns1 = ["192.0.2.1"]
file = "x.zone"
dnssec = "yes"
steer.www = { service = "a" }
[service.a]
split.p = 1
[pool.p]
lease.ttl = "15s"
"#,
            &[
                "3:8 the text of the zone file `x.zone` is missing, and no node has that file (`meridian apply` reads the file and puts its text into the revision: file = { name, text })",
                "4:10 `dnssec` must be a boolean, not a string",
            ],
        ),
    ]);
}

#[test]
fn a_signed_zone_must_delegate_what_lies_below_it() {
    let text = |parent: &str, more: &str| {
        format!(
            "[dns.zone.\"a.de\"]\nnameserver.ns1 = [\"192.0.2.1\"]\n{parent}\n\
             [dns.zone.\"b.a.de\"]\nnameserver.ns1 = [\"192.0.2.1\"]\n{more}\n"
        )
    };
    let delegation = "record = [{ name = \"B\", type = \"ns\", value = \"ns1.b\" }]";
    let fault = "4:11 the zone `a.de` is signed and does not delegate this one, so resolvers that validate take its answers for forged (give `a.de` the name servers of this zone: record = [{ name = \"b\", type = \"NS\", value = \"…\" }])";
    assert_eq!(faults(&text("dnssec = true", "")), [fault]);
    assert_eq!(faults(&text("dnssec = true", "dnssec = true")), [fault]);
    for (parent, more) in [("", ""), ("", "dnssec = true"), (&*format!("dnssec = true\n{delegation}"), "")] {
        assert_eq!(faults(&text(parent, more)), [""; 0], "{parent} {more}");
    }
    // A name that merely ends alike is no child.
    assert_eq!(faults(&text("dnssec = true", "").replace("b.a.de", "ba.de")), [""; 0]);
}

#[test]
fn regions() {
    check(&[
        (
            r#"[region.eu]
latitude = 91
longitude = "8"
[region.us]
longitude = 1.0
"#,
            &[
                "2:12 `latitude` must be between -90 and 90",
                "3:13 `longitude` must be a number, not a string",
                "5:1 `latitude` and `longitude` must be given together",
            ],
        ),
        (
            r#"[region.eu]
prefixes = ["10.0.0.0/8", "10.0.0.0"]
[region.us]
prefixes = ["10.0.0.0/8", "10.0.0.0/33", "10.1.0.0/16"]
"#,
            &[
                "4:13 `10.0.0.0/8` already belongs to region `eu`",
                r#"4:27 `10.0.0.0/33` is no network (a network is written "10.0.0.0/8" or "2001:db8::/32")"#,
            ],
        ),
        (
            r#"[region.eu]
prefixes = ["10.1.2.3/8"]
"#,
            &["? 2:13 `10.1.2.3/8` names a host; taken as the network `10.0.0.0/8`"],
        ),
    ]);
}

#[test]
fn listeners() {
    check(&[
        (
            r#"[listener.a]
[listener.b]
port = 65536
protocol = "udp"
"#,
            &[
                "1:1 `port` is missing here",
                "1:1 `protocol` is missing here",
                "3:8 `port` must be between 1 and 65535",
                "4:12 `udp` is no protocol (one of: `http`, `https`, `tcp`, `tls`)",
            ],
        ),
        (
            r#"[listener.a]
port = 80
protocol = "http"
service = "x"
[listener.b]
port = 80
protocol = "tcp"
"#,
            &[
                "4:1 `service` is for tcp and tls listeners (an http listener serves every service by its `hosts` and `paths`)",
                "4:11 there is no service `x`",
                "5:1 a tcp listener needs `service` (bytes carry no host: name the service behind this port)",
                "6:8 port 80 is already listener `a`'s",
            ],
        ),
        (
            r#"[listener.a]
port = 80
protocol = "tcp"
service = "wbe"
[service.web]
split = { web = 1 }
[pool.web]
backend = []
"#,
            &["4:11 there is no service `wbe` (did you mean `web`?)", "? 8:11 this pool has no backends"],
        ),
        (
            r#"[listener.a]
port = 80.0
protocol = 4
max_connections = 0
trusted_proxies = "10.0.0.0/8"
"#,
            &[
                "2:8 `port` must be an integer, not a float",
                "3:12 `protocol` must be a string, not an integer",
                "4:19 `max_connections` must be between 1 and 10000000",
                "5:19 `trusted_proxies` must be an array, not a string",
            ],
        ),
    ]);
}

#[test]
fn services() {
    check(&[
        (
            r#"[listener.h]
port = 80
protocol = "http"
[service.web]
hosts = ["https://a.de/x", "a.de:80", "*", "*.*.de", "a.de.", ""]
paths = ["api", "/a?b", "/a/*"]
"#,
            &[
                "4:1 `split` is missing here",
                r#"5:10 `https://a.de/x` is no host name (without the scheme: "a.de")"#,
                r#"5:28 `a.de:80` is no host name (without port and path: "a.de")"#,
                "5:39 `*` is no host (leave `hosts` out to serve any host)",
                r#"5:44 `*.*.de` is no host name (a wildcard stands for the first label alone: "*.example.com")"#,
                r#"5:54 `a.de.` is no host name (without the final dot: "a.de")"#,
                "5:63 an empty string is no value for `hosts`",
                r#"6:10 `api` is no path prefix: it must begin with / ("/api")"#,
                "6:17 '?' cannot stand in a path prefix (a prefix holds neither query nor spaces; write others as %XX)",
                "6:25 '*' cannot stand in a path prefix (a prefix covers everything below it without a wildcard)",
            ],
        ),
        (
            r#"[listener.h]
port = 80
protocol = "http"
[service.web]
split = { web = 0 }
force = [{ header = "x y", value = "\u0001" }, { header = "x", value = "v", pool = "weeb" }]
[pool.web]
backend = []
"#,
            &[
                "5:9 a split needs a pool with a share above 0 (for one pool: split = { POOL = 1 })",
                "6:10 `pool` is missing here",
                "6:21 `x y` is no header name",
                "6:36 a header's value is made of visible ASCII characters",
                "6:84 there is no pool `weeb` (did you mean `web`?)",
                "? 8:11 this pool has no backends",
            ],
        ),
        (
            r#"[listener.h]
port = 80
protocol = "http"
[service.web]
split.web = 1
sticky.cookie = { name = "a b", ttl = "8h", max_age = "7h", on_down = "reuse" }
timeout = { connect = 5, response = "0s", idle = "soon", total = "1s" }
retry = { attempts = 11, budget = 20 }
[pool.web]
backend = [{ address = "10.0.0.1:80" }]
"#,
            &[
                "6:26 a cookie's name is made of up to 64 letters, digits and any of !#$%&'*+-.^_`|~",
                "6:55 `max_age` is shorter than `ttl`, 8h",
                "6:71 `reuse` is no on_down (did you mean `refuse`?)",
                r#"7:23 `connect` must be a time (a time is written "500ms", "30s", "8h")"#,
                "7:37 `response` must be between 1ms and 1day",
                r#"7:50 `soon` is no time (a time is written "500ms", "30s", "8h")"#,
                "7:58 unknown key `total` (known here: `connect`, `response`, `idle`)",
                "8:22 `attempts` must be between 0 and 10",
                "8:35 `budget` must be between 0 and 1",
            ],
        ),
    ]);
}

#[test]
fn routes_and_cookies_that_meet() {
    check(&[
        (
            r#"[listener.h]
port = 80
protocol = "http"
[service.a]
hosts = ["x.de"]
paths = ["/api"]
split.p = 1
[service.b]
hosts = ["y.de", "X.de"]
paths = ["/", "/api/"]
split.p = 1
[pool.p]
backend = [{ address = "10.0.0.1:80" }]
"#,
            &[
                "10:15 services `a` and `b` both claim x.de /api (give one of them other `hosts` or a longer path in `paths`)",
            ],
        ),
        (
            r#"[listener.h]
port = 80
protocol = "http"
[service.a]
split.p = 1
[service.b]
split.p = 1
[pool.p]
backend = [{ address = "10.0.0.1:80" }]
"#,
            &[
                "6:10 services `a` and `b` both claim any host / (give one of them other `hosts` or a longer path in `paths`)",
            ],
        ),
        (
            r#"[listener.h]
port = 80
protocol = "http"
[service.a]
hosts = ["x.de"]
split.p = 1
sticky.cookie = {}
[service.b]
hosts = ["x.de"]
paths = ["/b"]
split.p = 1
sticky.cookie = { name = "meridian" }
[service.c]
split.p = 1
sticky.cookie = {}
[pool.p]
backend = [{ address = "10.0.0.1:80" }]
"#,
            &[
                r#"12:26 services `a` and `b` share a host and the cookie `meridian` (name this one "meridian-b", say)"#,
            ],
        ),
        (
            r#"[listener.h]
port = 80
protocol = "http"
[service.a]
hosts = ["x.de"]
paths = ["/a"]
split.p = 1
sticky.cookie = {}
[service.b]
hosts = ["*.de"]
split.p = 1
sticky.cookie = {}
[pool.p]
backend = [{ address = "10.0.0.1:80" }]
"#,
            &[
                r#"12:17 services `a` and `b` share a host and the cookie `meridian` (name this one "meridian-b", say)"#,
            ],
        ),
    ]);
}

#[test]
fn http_and_tcp_are_kept_apart() {
    check(&[
        (
            r#"[listener.t]
port = 1
protocol = "tcp"
service = "t"
[service.t]
hosts = ["x.de"]
paths = ["/"]
force = []
split.p = 1
sticky.cookie = {}
timeout.response = "1s"
[pool.p]
protocol = "http1"
backend = [{ address = "10.0.0.1:80" }]
"#,
            &[
                "6:1 `hosts` is for HTTP, and `t` stands behind the tcp listener `t`",
                "7:1 `paths` is for HTTP, and `t` stands behind the tcp listener `t`",
                "8:1 `force` is for HTTP, and `t` stands behind the tcp listener `t`",
                r#"10:8 `sticky.cookie` is for HTTP, and `t` stands behind the tcp listener `t` (for TCP: sticky.source_ip = { ttl = "30m" })"#,
                "? 11:9 `response` means nothing to a service behind a tcp listener",
                "? 13:1 `protocol` means nothing to a pool behind a tcp listener",
            ],
        ),
        (
            r#"[listener.h]
port = 80
protocol = "http"
[service.a]
split.p = 1
sticky.source_ip = { ttl = "1ms" }
[pool.p]
send_proxy = "v1"
backend = [{ address = "10.0.0.1:80" }]
"#,
            &[
                r#"6:8 `source_ip` is for services behind a tcp listener (for HTTP: sticky.cookie = { name = "meridian" })"#,
                "6:28 `ttl` must be between 1s and 1year",
                "8:1 `send_proxy` is for pools behind tcp and tls listeners, and an HTTP service uses this one (an HTTP backend reads the client's address in X-Forwarded-For)",
            ],
        ),
    ]);
}

#[test]
fn pools() {
    check(&[
        (
            r#"[listener.h]
port = 80
protocol = "http"
[service.a]
split = { p = 1, q = 1 }
[region.eu]
[region.us]
[pool.p]
backend = [
  { address = "10.0.0.1:80", region = "eu" },
  { address = "10.0.0.1:80", region = "us" },
  { address = "web.internal:80", region = "us" },
  { address = "10.0.0.2", region = "ue", weight = 65536 },
  { address = "0.0.0.0:80" },
  { adress = "10.0.0.3:80", region = "eu" },
]
[pool.q]
"#,
            &[
                "11:15 `10.0.0.1:80` is already in this pool (to give it more, raise its `weight`)",
                "12:15 `web.internal:80` is a name: a backend is an IP address with a port (a name that may change: discover.dns = { name = \"web.internal\", type = \"a\", port = 8080 })",
                r#"13:15 `10.0.0.2` is no IP address with a port (with a port: "10.0.0.2:8080")"#,
                "? 13:36 no [region.ue] is declared (did you mean `eu`?)",
                "13:51 `weight` must be between 0 and 65535",
                "14:3 `region` is missing here: several are declared (one of: eu, us)",
                "14:15 nothing can be reached at `0.0.0.0:80`",
                "15:5 unknown key `adress` (did you mean `address`?)",
                r#"17:1 `backend` is missing here (backend = [{ address = "10.0.1.11:8080" }])"#,
            ],
        ),
        (
            r#"[listener.h]
port = 80
protocol = "http"
[service.a]
split.p = 1
[pool.p]
balance = "roundrobin"
health.http = { path = "healthz", intervall = "2s", timeout = "3s", rise = 0, status = "399-200" }
health.tcp = { path = "/" }
send_proxy = 1
backend = [{ address = "10.0.0.1:80" }]
"#,
            &[
                "7:11 `roundrobin` is no balance (one of: `least-busy`, `weighted-round-robin`, `weighted-least-connections`, `peak-ewma`, `random`, `hash`)",
                "8:24 `healthz` is no path: it must begin with / and hold neither spaces nor #",
                "8:35 unknown key `intervall` (did you mean `interval`?)",
                "? 8:63 `timeout` is longer than `interval`, 2s",
                "8:76 `rise` must be between 1 and 100",
                r#"8:88 `399-200` is no range of HTTP statuses (100 to 599) (write "200", "200-399" or "200,204,301-302")"#,
                "9:8 a pool has one health check: `http`, `grpc` or `tcp`",
                "9:16 unknown key `path` (known here: `interval`, `timeout`, `rise`, `fall`)",
                "10:1 `send_proxy` is for pools behind tcp and tls listeners, and an HTTP service uses this one (an HTTP backend reads the client's address in X-Forwarded-For)",
                "10:14 `send_proxy` must be a string, not an integer",
            ],
        ),
        (
            "[pool.p]
health = {}
backend = []
",
            &[
                r#"2:10 a health check needs `http`, `grpc` or `tcp` (health.http = { path = "/healthz" }, health.grpc = {} or health.tcp = {})"#,
                "? 3:11 this pool has no backends",
            ],
        ),
        (
            r#"[pool.p]
health.http = { status = 200, interval = "2h" }
backend = {}
"#,
            &[
                r#"2:26 `status` must be a string (write "200", "200-399" or "200,204,301-302")"#,
                "2:42 `interval` must be between 10ms and 1h",
                "3:11 `backend` must be an array, not a table",
            ],
        ),
    ]);
}

#[test]
fn zones() {
    check(&[
        (
            r#"[dns.zone."a_b..de"]
[dns.zone."x.de"]
[dns.zone."X.de."]
nameserver = {}
"#,
            &[
                "1:11 `a_b..de` has an empty label",
                "2:1 `nameserver` is missing here",
                "3:11 the zone `x.de` is there twice",
            ],
        ),
        (
            r#"[dns.zone."x.de"]
nameserver = { "ns1.x.de" = ["192.0.2.1"], "*" = ["192.0.2.1:53"], ns2 = [] }
contact = "hostmaster.x.de"
ttl = "1500ms"
"#,
            &[
                r#"2:16 `ns1.x.de` must be relative to the zone: "ns1""#,
                "2:44 a name server has a name of its own: ns1",
                r#"2:51 `192.0.2.1:53` is no IP address (without a port: "192.0.2.1")"#,
                "2:74 a name server needs at least one address",
                "3:11 `hostmaster.x.de` is no mail address (hostmaster@example.com)",
                "4:7 `ttl` must be whole seconds",
            ],
        ),
        (
            r#"[dns.zone."x.de"]
nameserver = { "ns1.other.org" = ["192.0.2.1"], "ns2.other.org." = ["192.0.2.2"] }
record = [
  { name = "a", type = "BOGUS", value = "x" },
  { name = "a", type = "DNSKEY", value = "x" },
  { name = "a", type = "TLSA", value = "3 1 1" },
  { name = "a", type = "LOC", value = "42 21 54 N 71 06 18 W -24m" },
]
"#,
            &[
                "? 2:16 `ns1.other.org` is ns1.other.org.x.de, below the zone x.de (the names here are relative to the zone and in it; name servers of other zones stand as NS records in a zone file (`file`): @ NS ns1.other.org.)",
                "2:49 `ns2.other.org.` is not in the zone x.de (name servers of other zones stand as NS records in a zone file (`file`))",
                "4:24 `BOGUS` is no record type; unlisted types are written TYPE65280 (known: A, AAAA, CAA, CERT, CNAME, DS, HINFO, HTTPS, LOC, MX, NAPTR, NS, OPENPGPKEY, PTR, SMIMEA, SRV, SSHFP, SVCB, TLSA, TXT, URI)",
                "5:24 `DNSKEY` belongs to DNSSEC, which signs by itself",
                "6:40 `3 1 1` needs a usage, selector, matching type and data: `3 1 1 49fd…`",
                r"7:39 `42 21 54 N 71 06 18 W -24m` must be written as bytes, `\# LENGTH HEX`; for LOC 16 of them (RFC 1876 §2): `\# 16 00331613 89172DD0 70BE15F0 00988D20`",
            ],
        ),
        (
            r#"[dns.zone."x.de"]
nameserver.ns1 = ["192.0.2.1"]
steer.www = { service = "wbe", policy = "nearst", answers = 9 }
steer.ns1 = { service = "web", order = ["eu"] }
steer."a..b" = { service = "web", policy = "failover" }
steer.c = { service = "web", policy = "failover", order = ["eu", "us", "eu"] }
[region.eu]
[service.web]
split.p = 1
[pool.p]
backend = [{ address = "10.0.0.1:80" }]
"#,
            &[
                "3:25 there is no service `wbe` (did you mean `web`?)",
                "3:41 `nearst` is no policy (did you mean `nearest`?)",
                "3:61 `answers` must be between 1 and 8",
                "4:7 `ns1` is a name server: its addresses are never steered",
                "4:32 `order` is for the policy `failover`",
                "5:7 `a..b.x.de` has an empty label",
                r#"5:16 `order` is missing here: failover needs it (order = ["eu", "us"])"#,
                "? 6:66 no [region.us] is declared (declared: `eu`)",
                "6:72 `eu` is already in this order",
            ],
        ),
        (
            r#"[dns.zone."x.de"]
nameserver.ns1 = ["192.0.2.1"]
steer.a = { service = "web", shed = { low = 0.9, high = 0.9 } }
steer.b = { service = "web", shed = { low = 70 } }
steer.c = { service = "web", policy = "weighted", shed = { low = 0.7, high = 0.9 } }
[service.web]
split.p = 1
[pool.p]
backend = [{ address = "10.0.0.1:80" }]
"#,
            &[
                "3:37 `low` must be less than `high`, by a thousandth at least",
                "4:37 `high` is missing here",
                "4:45 `low` must be between 0 and 1",
                "5:51 `shed` has no meaning with the policy `weighted`, which follows the free capacity anyway",
            ],
        ),
        (
            r#"[dns.zone."x.de"]
nameserver.ns1 = ["192.0.2.1"]
record = [
  { name = "@", type = "CNAME", value = "a.de." },
  { name = "a", type = "A", value = "::1" },
  { name = "a", type = "MX", value = "mail" },
  { name = "b", type = "TXXT", value = "x" },
  { name = "c", type = "TXT", value = "x" },
  { name = "c", type = "TXT", value = "x" },
  { name = "c", type = "CNAME", value = "a" },
  { name = "ns1", type = "A", value = "192.0.2.7" },
  { name = "www.x.de.", type = "A", value = "192.0.2.7" },
  { name = "@", type = "SOA", value = "x" },
  { name = "d", type = "A", value = "192.0.2.7", ttl = "30d" },
]
"#,
            &[
                "4:3 the apex of a zone holds SOA and NS: no CNAME can stand beside them",
                "5:37 `::1` does not fit the type A: an IPv4 address",
                "6:38 `mail` does not fit the type MX: a preference and a name: 10 mail.example.com.",
                "7:24 `TXXT` is no record type; unlisted types are written TYPE65280 (did you mean `TXT`?)",
                "9:3 this record is there twice",
                "10:3 `c` has a CNAME and other records: a CNAME stands alone",
                "11:3 `ns1` is a name server: its addresses stand in `nameserver`",
                r#"12:12 `www.x.de.` must be relative to the zone: "www""#,
                "13:24 the SOA record is made by the zone itself (`contact` and `ttl` go into it)",
                "14:56 `ttl` must be between 0s and 7days",
            ],
        ),
    ]);
}

#[test]
fn what_is_odd_is_a_warning() {
    check(&[(
        r#"[service.a]
split.p = 1
[pool.p]
health.tcp = { interval = "1s", timeout = "2s" }
backend = []
[pool.q]
backend = [{ address = "10.0.0.1:80", region = "us" }]
[region.eu]
[dns.zone."x.de"]
nameserver.ns1 = ["192.0.2.1"]
steer.www = { service = "a" }
"#,
        &[
            "? 1:10 no listener serves `a`",
            "? 4:43 `timeout` is longer than `interval`, 1s",
            "? 5:11 this pool has no backends",
            "? 6:7 no service uses pool `q`",
            "? 7:48 no [region.us] is declared (declared: `eu`)",
            "? 11:25 users are steered to `a`, and no listener serves it",
        ],
    )]);
}

#[test]
fn tls_where_there_is_none() {
    check(&[
        (
            r#"[listener.a]
port = 80
protocol = "http"
certificate = [{ cert = "a.pem", key = "a.key" }]
hsts = "1y"
client_ca = "ca.pem"
redirect_https = true
"#,
            &[
                "4:1 `certificate` is for https listeners",
                "5:1 `hsts` is for https listeners",
                "6:1 `client_ca` is for https listeners",
                "7:1 there is no https listener to redirect to",
            ],
        ),
        (
            r#"[listener.a]
port = 443
protocol = "https"
service = "a"
hsts = { max_age = "1y", preloaded = true }
[listener.b]
port = 444
protocol = "https"
certificate = []
hsts = 1
[service.a]
split.p = 1
[pool.p]
ca = "ca.pem"
server_name = "*.example.com"
backend = []
"#,
            &[
                r#"1:1 an https listener needs `certificate` (certificate = [{ cert = "/etc/meridian/www.pem", key = "/etc/meridian/www.key" }])"#,
                "4:1 `service` is for tcp and tls listeners (an http listener serves every service by its `hosts` and `paths`)",
                "5:26 unknown key `preloaded` (did you mean `preload`?)",
                "9:15 `certificate` names none",
                r#"10:8 `hsts` must be a time (write "1y", true, or { max_age = "1y", include_subdomains = true })"#,
                r#"14:1 `ca` is for pools whose backends speak TLS (protocol = "https", or tls = true)"#,
                r#"15:1 `server_name` is for pools whose backends speak TLS (protocol = "https", or tls = true)"#,
                "15:15 `*.example.com` is no name of a server",
                "? 16:11 this pool has no backends",
            ],
        ),
    ]);
}

/// The contract's sample as it is: refused at exactly the keys whose features are still to come.
#[test]
fn the_rest_of_the_contract_is_refused_line_by_line() {
    let sample = r#"[listener.http]
port = 80
protocol = "http"
accept_proxy = ["10.0.0.0/8"]
[listener.https]
port = 443
protocol = "https"
certificate = [{ cert = "/etc/meridian/www.pem", key = "/etc/meridian/www.key" }]
[service.web]
split = { web-v1 = 95, web-v2 = 5 }
rate_limit = { per_client = 100, burst = 200 }
[pool.web-v1]
slow_start = "30s"
max_connections = 200
backend = [{ address = "10.0.1.11:8080" }]
[pool.web-v2]
discover.dns = { name = "_http._tcp.web.internal", type = "srv", region = "eu" }
lease = { ttl = "15s" }
"#;
    assert_eq!(faults(sample), [""; 0]);
}

#[test]
fn tls_listeners() {
    check(&[
        (
            r#"[listener.tls]
port = 443
protocol = "tls"
service = "x"
services = ["a", "y"]
[listener.pg]
port = 5432
protocol = "tcp"
service = "pg"
services = ["a"]
[service.a]
hosts = ["a.example.com"]
paths = ["/x"]
sticky.cookie = {}
split.p = 1
[service.pg]
split.p = 1
[pool.p]
send_proxy = "v2"
backend = [{ address = "10.0.0.1:443" }]
"#,
            &[
                "4:11 there is no service `x` (did you mean `a`?)",
                "5:18 there is no service `y` (did you mean `a`?)",
                "10:1 `services` is for tls listeners",
                "13:1 `paths` is for HTTP, and `a` stands behind the tls listener `tls`",
                r#"14:8 `sticky.cookie` is for HTTP, and `a` stands behind the tls listener `tls` (for TCP: sticky.source_ip = { ttl = "30m" })"#,
            ],
        ),
        (
            r#"[listener.tls]
port = 443
protocol = "tls"
[listener.http]
port = 80
protocol = "http"
[service.a]
hosts = ["a.example.com"]
split.p = 1
[service.b]
hosts = ["a.example.com"]
split.p = 1
[pool.p]
send_proxy = "v2"
backend = [{ address = "10.0.0.1:443" }]
"#,
            &[
                "11:10 services `a` and `b` both claim a.example.com / (give one of them other `hosts` or a longer path in `paths`)",
                "14:1 `send_proxy` is for pools behind tcp and tls listeners, and an HTTP service uses this one (an HTTP backend reads the client's address in X-Forwarded-For)",
            ],
        ),
    ]);
}

#[test]
fn https_is_over_tls_whatever_else_is_said() {
    check(&[(
        r#"[pool.p]
protocol = "https"
tls = false
backend = [{ address = "10.0.0.1:443" }]
[pool.q]
protocol = "http2"
tls = "yes"
backend = [{ address = "10.0.0.1:443" }]
"#,
        &[
            r#"3:7 `protocol = "https"` is over TLS (in the clear: protocol = "http1")"#,
            "7:7 `tls` must be a boolean, not a string",
        ],
    )]);
}
