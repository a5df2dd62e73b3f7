use clap::Parser;

use super::*;
use crate::config::Severity;

#[derive(Parser)]
struct Start {
    #[command(flatten)]
    overrides: NodeOverrides,
}

fn machine() -> Machine {
    Machine { host_name: "host-7".into(), data: "/var/lib/meridian".into() }
}

fn flags(args: &[&str]) -> NodeOverrides {
    Start::try_parse_from(std::iter::once("start").chain(args.iter().copied())).unwrap().overrides
}

#[track_caller]
fn accepted(text: &str, args: &[&str]) -> NodeConfig {
    match parse("node.toml", text, &flags(args), &machine()) {
        Ok(valid) => valid.node,
        Err(report) => panic!("{report}"),
    }
}

fn faults(text: &str, args: &[&str]) -> Vec<String> {
    let report = match parse("node.toml", text, &flags(args), &machine()) {
        Ok(valid) => valid.warnings,
        Err(report) => report,
    };
    let shown = report.entries().iter().map(|entry| {
        assert_eq!(entry.severity, Severity::Error);
        let hint = entry.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
        format!("{}:{} {}{hint}", entry.line, entry.column, entry.message)
    });
    shown.collect()
}

#[test]
fn the_example_is_valid_and_says_what_the_contract_says() {
    let text = include_str!("../../../../deploy/examples/node.toml");
    assert_eq!(faults(text, &[]), [""; 0]);
    let node = accepted(text, &[]);
    assert_eq!((node.name.as_str(), node.region.as_str()), ("eu-1", "eu"));
    assert_eq!(node.zone.unwrap().as_str(), "eu-a");
    assert_eq!(node.public.len(), 2);
    assert_eq!(node.mesh.seeds, ["us-1.example.net:7946"]);
    assert_eq!(node.mesh.advertise, Some("198.51.100.10:7946".parse().unwrap()));
    assert_eq!(node.workers, Some(2));
    assert_eq!(node.dns_listen, ["0.0.0.0:53".parse().unwrap()]);
    let tls = node.dns_tls.unwrap();
    assert_eq!(tls.listen, ["0.0.0.0:853".parse().unwrap()]);
    assert_eq!(tls.certificates[0].key, Path::new("/etc/meridian/dns.key"));
    assert_eq!(node.dns_transfer, ["192.0.2.53/32".parse().unwrap()]);
    assert_eq!(node.dns_rate, Some(dns::ResponseRate { per_second: 200, slip: 2 }));
    assert_eq!(node.admin.token_file.unwrap(), Path::new("/etc/meridian/admin.token"));
    assert_eq!((node.log.level.as_str(), node.log.format), ("info", LogFormat::Text));
    assert_eq!(node.log.access, AccessLog::Stdout);
}

#[test]
fn a_node_needs_no_file() {
    let node = accepted("", &[]);
    assert_eq!((node.name.as_str(), node.region.as_str(), node.zone), ("host-7", "local", None));
    assert_eq!((node.data.as_path(), node.drain), (Path::new("/var/lib/meridian"), Duration::from_secs(60)));
    assert_eq!(node.mesh.listen.to_string(), "0.0.0.0:7946");
    assert_eq!((node.mesh.advertise, node.mesh.seeds.len(), node.mesh.key_file), (None, 0, None));
    assert_eq!(node.proxy_listen, DEFAULT_PROXY);
    assert_eq!((node.workers, node.dns_listen.len(), node.geoip), (None, 0, None));
    assert_eq!((node.dns_transfer.len(), node.dns_rate), (0, None));
    assert_eq!((node.admin.listen.to_string(), node.admin.token_file), ("127.0.0.1:7900".into(), None));
    assert_eq!((node.log.level.as_str(), node.log.access), ("info", AccessLog::Stdout));
}

#[test]
fn flags_win_over_the_file() {
    let file = "[node]\nname = \"a\"\nregion = \"eu\"\ndata = \"/a\"\npublic = [\"192.0.2.1\"]\n\
                [mesh]\nseeds = [\"a:1\"]\n[proxy]\nlisten = [\"::1\"]\nworkers = 1\n\
                [admin]\nlisten = \"0.0.0.0:7900\"\n[log]\nlevel = \"warn\"\naccess = \"off\"\n";
    let node = accepted(
        file,
        &[
            "--name=b",
            "--region=us",
            "--zone=z",
            "--public=192.0.2.2",
            "--drain=5s",
            "--seed=b:1",
            "--seed=[::1]:2",
            "--proxy-listen=127.0.0.2",
            "--dns-listen=127.0.0.2:5353",
            "--workers=3",
            "--admin-listen=127.0.0.2:7900",
            "--log-level=info,gossip=debug",
            "--log-format=json",
            "--access-log=/tmp/access.log",
        ],
    );
    assert_eq!((node.name.as_str(), node.region.as_str(), node.data.as_path()), ("b", "us", Path::new("/a")));
    assert_eq!((node.public, node.drain), (vec!["192.0.2.2".parse().unwrap()], Duration::from_secs(5)));
    assert_eq!(node.mesh.seeds, ["b:1", "[::1]:2"]);
    assert_eq!(node.proxy_listen, ["127.0.0.2".parse::<IpAddr>().unwrap()]);
    assert_eq!((node.workers, node.dns_listen.len()), (Some(3), 1));
    assert_eq!(node.admin.listen.to_string(), "127.0.0.2:7900");
    assert_eq!((node.log.level.as_str(), node.log.format), ("info,gossip=debug", LogFormat::Json));
    assert_eq!(node.log.access, AccessLog::File("/tmp/access.log".into()));
}

#[test]
fn the_data_folder_of_the_command_line_wins() {
    let flags = NodeOverrides { data: Some("/b".into()), ..NodeOverrides::default() };
    let valid = parse("node.toml", "[node]\ndata = \"/a\"\n", &flags, &machine()).unwrap();
    assert_eq!(valid.node.data, Path::new("/b"));
}

#[test]
fn what_is_wrong_is_told_at_its_place() {
    let cases: &[(&str, &[&str], &[&str])] = &[
        (
            "[nod]\n[node]\nname = \"-x\"\ndrain = 60\npublic = [\"0.0.0.0\", \"192.0.2.1:80\"]\nregoin = \"eu\"\n",
            &[],
            &[
                "1:2 unknown key `nod` (did you mean `node`?)",
                "3:8 a name is made of letters, digits, '-', '_' and '.', and starts with a letter or digit; '-' is not allowed here",
                "4:9 `drain` must be a time (a time is written \"500ms\", \"30s\", \"8h\")",
                "5:11 users cannot reach `0.0.0.0`",
                "5:22 `192.0.2.1:80` is no IP address (without a port: \"192.0.2.1\")",
                "6:1 unknown key `regoin` (did you mean `region`?)",
            ],
        ),
        (
            "[mesh]\nlisten = \"0.0.0.0\"\nadvertise = \"0.0.0.0:65535\"\nseeds = [\"us-1\", \"us-1:0\", \"[::1:5\", \"a b:1\"]\n",
            &[],
            &[
                "2:10 `0.0.0.0` is no IP address with a port (with a port: \"0.0.0.0:8080\")",
                "3:13 the mesh cannot use port 65535: tunnels need the port above",
                "3:13 peers cannot dial `0.0.0.0:65535` (`advertise` is the address and port under which other nodes reach this one)",
                "4:10 `us-1` is no HOST:PORT, such as us-1.example.net:7946 or [2001:db8::1]:7946",
                "4:18 `us-1:0` is no HOST:PORT, such as us-1.example.net:7946 or [2001:db8::1]:7946",
                "4:28 `[::1:5` is no HOST:PORT, such as us-1.example.net:7946 or [2001:db8::1]:7946",
                "4:38 `a b:1` is no HOST:PORT, such as us-1.example.net:7946 or [2001:db8::1]:7946",
            ],
        ),
        (
            "[proxy]\nlisten = [\"::1\", \"::1\"]\nworkers = 0\n[dns]\nlisten = \"0.0.0.0:53\"\n[dns.zone.\"x.de\"]\n[pool.x]\n",
            &[],
            &[
                "2:18 `::1` is in `proxy.listen` twice",
                "3:11 `workers` must be between 1 and 1024",
                "5:10 `listen` must be an array, not a string",
                "6:6 unknown key `zone` (`[dns.zone.*]` belongs to services.toml, which the whole mesh shares)",
                "7:2 unknown key `pool` (`[pool.*]` belongs to services.toml, which the whole mesh shares)",
            ],
        ),
        (
            "[dns]\ntransfer = [\"secondary\"]\nrate_limit = { slip = 101 }\n",
            &[],
            &[
                "2:13 `secondary` is no network (a network is written \"10.0.0.0/8\" or \"2001:db8::/32\")",
                "3:14 `per_network` is missing here (per_network = 20 for 20 answers a second to one /24 or /56)",
                "3:23 `slip` must be between 0 and 100",
            ],
        ),
        (
            "[proxy]\nlisten = []\n",
            &[],
            &["2:10 `listen` is empty (leave it out to listen on every address)"],
        ),
        (
            "[log]\nlevel = \"inof\"\nformat = \"xml\"\naccess = \"stdot\"\n",
            &[],
            &[
                "2:9 `inof` is no log level, nor one for a part of the program: gossip=debug (did you mean `info`?)",
                "3:10 `xml` is no format (one of: `text`, `json`)",
                "4:10 `stdot` is neither `stdout` nor `off` nor a path such as /var/log/meridian/access.log",
            ],
        ),
    ];
    for (text, args, expected) in cases {
        assert_eq!(faults(text, args), *expected, "{text}");
    }
}

#[test]
fn an_admin_port_that_others_reach_needs_a_token() {
    let hint = "(set `token_file` in [admin] (or --admin-token-file), or listen on 127.0.0.1:7900)";
    let open = "[admin]\nlisten = \"[::]:7900\"\n";
    let message = format!("2:10 the admin API on `[::]:7900` needs `token_file`: others can reach it {hint}");
    assert_eq!(faults(open, &[]), [message]);
    assert_eq!(faults(open, &["--admin-token-file=/t"]), [""; 0]);
    assert_eq!(faults(open, &["--admin-listen=127.0.3.1:7900"]), [""; 0]);
    assert_eq!(faults("[admin]\nlisten = \"[::1]:7900\"\n", &[]), [""; 0]);
    let message = format!("0:0 the admin API on `0.0.0.0:1` needs `token_file`: others can reach it {hint}");
    assert_eq!(faults("", &["--admin-listen=0.0.0.0:1"]), [message]);
}

#[test]
fn wrong_flags_are_told_as_well() {
    for args in [["--seed=x"], ["--log-level=loud"], ["--access-log=x"], ["--drain=soon"], ["--name=a b"]] {
        assert!(Start::try_parse_from(["start", args[0]]).is_err(), "{args:?}");
    }
    assert_eq!(faults("", &["--workers=0"]), ["0:0 --workers must be between 1 and 1024"]);
    assert_eq!(faults("", &["--drain=2days"]), ["0:0 --drain must be at most 1day"]);
}

#[test]
fn a_host_name_that_is_no_node_name_is_told_unless_a_name_is_given() {
    let machine = Machine { host_name: "web server".into(), ..machine() };
    let report = parse("node.toml", "", &flags(&[]), &machine).unwrap_err();
    assert!(report.entries()[0].message.starts_with("the host name `web server` cannot be the node's name"));
    assert!(parse("node.toml", "", &flags(&["--name=web-1"]), &machine).is_ok());
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = load(Some(Path::new("/nonexistent/node.toml")), &flags(&[])).unwrap_err();
    assert!(error.to_string().starts_with("cannot read /nonexistent/node.toml: "), "{error}");
}

const FILES: &str = r#"[node]
data = "data"
[mesh]
key_file = "/absolute/mesh.key"
[dns]
listen = ["127.0.0.1:53"]
geoip = "city.mmdb"
tls = { certificate = [{ cert = "tls/dns.pem", key = "tls/dns.key" }] }
[admin]
token_file = "token"
[log]
access = "log/access.log"
"#;

#[test]
fn relative_paths_count_from_the_files_folder() {
    let folder = tempfile::tempdir().unwrap();
    let here = |name: &str| folder.path().join(name);
    let path = here("node.toml");
    std::fs::write(&path, FILES).unwrap();
    let node = load(Some(&path), &flags(&["--geoip", "other.mmdb"])).unwrap().node;
    let certificate = &node.dns_tls.unwrap().certificates[0];
    assert_eq!((&node.data, &certificate.cert), (&here("data"), &here("tls/dns.pem")));
    assert_eq!((&certificate.key, node.admin.token_file.unwrap()), (&here("tls/dns.key"), here("token")));
    assert_eq!(node.log.access, AccessLog::File(here("log/access.log")));
    assert_eq!(node.mesh.key_file.unwrap(), Path::new("/absolute/mesh.key"));
    // A flag is typed where the shell stands.
    assert_eq!(node.geoip.unwrap(), Path::new("other.mmdb"));
}

#[test]
fn files_that_cannot_be_read_are_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["token", "city.mmdb"] {
        std::fs::write(folder.path().join(name), "0123456789abcdef").unwrap();
    }
    let warnings = check(&folder.path().join("node.toml"), FILES).unwrap().warnings;
    let lines: Vec<usize> = warnings.entries().iter().map(|entry| entry.line).collect();
    assert_eq!(lines, [4, 8, 8], "{warnings}");
    assert!(warnings.entries().iter().all(|entry| entry.severity == Severity::Warning));
    assert!(
        warnings.entries()[1].message.contains("tls/dns.pem cannot be read on this machine: "),
        "{warnings}"
    );
}

proptest::proptest! {
    #[test]
    fn any_text_is_answered(text in "([\\[\\]{}=,.\"\n0-9:]|node|mesh|seeds|listen|log|level|\"::1\"){0,60}") {
        let _ = parse("node.toml", &text, &NodeOverrides::default(), &machine()).map_err(|report| report.render(true));
    }
}

#[test]
fn dns_over_tls_needs_certificates_and_dns() {
    let with = |tls: &str| format!("[dns]\nlisten = [\"127.0.0.1:53\"]\ntls = {tls}\n");
    let listen = |flags: &[&str]| {
        let node = accepted(&with("{ certificate = [{ cert = \"c\", key = \"k\" }] }"), flags);
        node.dns_tls.unwrap().listen.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    // No host is opened that is not one of the name server's.
    assert_eq!(listen(&[]), ["127.0.0.1:853"]);
    let several =
        ["--dns-listen", "127.0.0.2:53", "--dns-listen", "127.0.0.2:5300", "--dns-listen", "[::1]:53"];
    assert_eq!(listen(&several), ["127.0.0.2:853", "[::1]:853"]);
    for (tls, expected) in [
        ("{}", "3:7 `certificate` is missing here"),
        ("{ certificate = [] }", "3:23 `certificate` names none"),
        ("{ listen = [], certificate = [{ cert = \"c\", key = \"k\" }] }", "3:18 `listen` names none"),
        ("{ certificate = [{ cert = \"c\" }] }", "3:24 `key` is missing here"),
        ("1", "3:7 `tls` must be a table, not an integer"),
    ] {
        assert_eq!(faults(&with(tls), &[]), [expected], "{tls}");
    }
    let off = "[dns]\ntls = { certificate = [{ cert = \"c\", key = \"k\" }] }\n";
    assert!(faults(off, &[])[0].starts_with("2:1 `tls` needs DNS itself, which is off without `listen`"));
}

#[test]
fn a_token_that_is_too_short_is_seen_before_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("node.toml");
    let text = "[admin]\ntoken_file = \"token\"\n";
    let told = |token: &str| {
        std::fs::write(folder.path().join("token"), token).unwrap();
        let warnings = check(&file, text).unwrap().warnings;
        warnings.entries().iter().map(|entry| (entry.line, entry.message.clone())).collect::<Vec<_>>()
    };
    assert!(matches!(&told(" secret1\n")[..], [(2, text)] if text.contains("too short")));
    assert_eq!(told("0123456789abcdef\n"), []);
}
