//! Other people's resolvers as peers, and the parent zone that delegates to the mesh: a root of this test's own, signed by
//! Knot, so that Unbound, BIND and Knot Resolver go the whole way from their hints to the mesh.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use hickory_proto::rr::RecordType;

use crate::dns::Question;
use crate::peer::{find, said};
use crate::process::Process;
use crate::services::ZONE;
use crate::stage::{Stage, skip};
use crate::wait::{eventually, secs};

/// Where name servers are asked.
pub const PORT: u16 = 53;
/// Where resolvers are.
const RESOLVER_PORT: u16 = 5300;

/// Whether name servers can have their own port here; says why not and skips.
pub fn may_use_port_53() -> bool {
    let root = rustix::process::getuid().is_root();
    if !root {
        skip("port 53 needs root");
    }
    root
}

/// The root, delegating to the mesh; and a zone below the mesh's that is not signed.
#[derive(Debug)]
pub struct Parent {
    address: Ipv4Addr,
    /// Its DS record, `. DS TAG ALGORITHM TYPE DIGEST`: where trust begins.
    pub anchor: String,
    hints: PathBuf,
    _process: Process,
}

impl Parent {
    /// Where it will be.
    pub fn address(stage: &Stage) -> Ipv4Addr {
        stage.net.backend(200)
    }

    /// Starts Knot with a root zone that names these name servers for the mesh's zone, and its DS record.
    pub async fn start(stage: &Stage, servers: &[Ipv4Addr], ds: &str) -> Result<Self> {
        let address = Self::address(stage);
        let folder = stage.folder().join("knot");
        std::fs::create_dir_all(&folder)?;
        let mut zone = format!(
            ". 300 SOA ns.parent. x. 1 900 300 604800 60\n. 300 NS ns.parent.\nns.parent. 300 A {address}\n"
        );
        for (number, server) in (1..).zip(servers) {
            zone.push_str(&format!("{ZONE}. 300 NS ns{number}.{ZONE}.\nns{number}.{ZONE}. 300 A {server}\n"));
        }
        zone.push_str(&ds.replace(" IN DS ", " 300 IN DS "));
        std::fs::write(folder.join("root.zone"), zone + "\n")?;
        let child = format!(
            "$ORIGIN child.{ZONE}.\n@ 300 SOA ns x 1 900 300 604800 60\n@ 300 NS ns\nns 300 A {address}\nwww 300 A 192.0.2.77\n"
        );
        std::fs::write(folder.join("child.zone"), child)?;
        let here = folder.display();
        let config = stage.write(
            "knot.conf",
            &format!(
                "server:\n  rundir: \"{here}\"\n  listen: {address}@{PORT}\n  udp-workers: 1\n  tcp-workers: 1\n\
                 database:\n  storage: \"{here}\"\n\
                 policy:\n  - id: one\n    algorithm: ecdsap256sha256\n    single-type-signing: on\n\
                 zone:\n  - domain: .\n    storage: \"{here}\"\n    file: root.zone\n    dnssec-signing: on\n\
                 \x20   dnssec-policy: one\n    zonefile-sync: -1\n    zonefile-load: whole\n\
                 \x20 - domain: child.{ZONE}\n    storage: \"{here}\"\n    file: child.zone\n"
            ),
        )?;
        let mut command = Command::new(program("knotd"));
        command.arg("-c").arg(&config);
        let mut process = Process::spawn("knotd", command, &stage.folder().join("knotd.log"))?;
        let root = Question::new(".", RecordType::DNSKEY)?;
        eventually("the parent serves its keys", secs(20), async || {
            process.must_run()?;
            let answer = root.ask((address, PORT).into()).await?;
            ensure!(!answer.message.answers.is_empty(), "{}", answer.message);
            Ok(())
        })
        .await?;
        let config = config.to_string_lossy();
        let keys = said(path(&program("keymgr"))?, &["-c", &config, ".", "ds"]).await?;
        // SHA-256, which all resolvers know.
        let anchor = keys.lines().find(|line| line.contains(" 13 2 ")).context("the parent's DS record")?;
        let hints = stage.write("hints", &format!(". 3600 NS ns.parent.\nns.parent. 3600 A {address}\n"))?;
        Ok(Self { address, anchor: anchor.trim().to_owned(), hints, _process: process })
    }
}

/// A validating resolver.
#[derive(Debug)]
pub struct Resolver {
    /// What it is.
    pub name: &'static str,
    /// Where it is asked.
    pub address: SocketAddr,
    _process: Process,
}

impl Resolver {
    /// Unbound, with hints of the parent.
    pub async fn unbound(stage: &Stage, parent: &Parent) -> Result<Self> {
        let more = format!("  root-hints: \"{}\"\n", parent.hints.display());
        Self::unbound_with(stage, &parent.anchor, &more, "").await
    }

    /// Unbound that knows one server of the mesh's zone, and its DS record.
    pub async fn unbound_of(stage: &Stage, server: SocketAddr, ds: &str) -> Result<Self> {
        let stub =
            format!("stub-zone:\n  name: \"{ZONE}\"\n  stub-addr: {}@{}\n", server.ip(), server.port());
        Self::unbound_with(stage, ds, "", &stub).await
    }

    async fn unbound_with(stage: &Stage, anchor: &str, more: &str, stub: &str) -> Result<Self> {
        let address = stage.net.backend(210);
        let text = format!(
            "server:\n  directory: \"{}\"\n  username: \"\"\n  chroot: \"\"\n  pidfile: \"\"\n  interface: {address}\n\
             \x20 port: {RESOLVER_PORT}\n  access-control: 127.0.0.0/8 allow\n  do-not-query-localhost: no\n  do-ip6: no\n\
             \x20 use-syslog: no\n  logfile: \"\"\n  log-servfail: yes\n  num-threads: 1\n  trust-anchor: \"{anchor}\"\n{more}\
             remote-control:\n  control-enable: no\n{stub}",
            stage.folder().display()
        );
        let config = stage.write("unbound.conf", &text)?;
        let mut command = Command::new(program("unbound"));
        command.arg("-d").arg("-c").arg(config);
        Self::start(stage, "unbound", (address, RESOLVER_PORT).into(), command).await
    }

    /// BIND, which listens on addresses of interfaces alone: 127.0.0.1, on a port of its own.
    pub async fn bind(stage: &Stage, parent: &Parent) -> Result<Self> {
        let free = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let folder = stage.folder().join("named");
        std::fs::create_dir_all(&folder)?;
        let words: Vec<&str> = parent.anchor.split_whitespace().collect();
        let [_, "DS", tag, algorithm, kind, digest] = words[..] else {
            anyhow::bail!("no DS record: {}", parent.anchor)
        };
        let config = stage.write(
            "named.conf",
            &format!(
                "options {{ directory \"{}\"; listen-on port {} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};\n\
                 pid-file none; session-keyfile none; recursion yes; allow-query {{ any; }}; allow-recursion {{ any; }};\n\
                 dnssec-validation yes; empty-zones-enable no; qname-minimization strict; max-cache-size 32M; }};\n\
                 trust-anchors {{ . static-ds {tag} {algorithm} {kind} \"{digest}\"; }};\n\
                 zone \".\" {{ type hint; file \"{}\"; }};\ncontrols {{ }};\n",
                folder.display(),
                free.port(),
                parent.hints.display()
            ),
        )?;
        let mut command = Command::new(program("named"));
        command.arg("-g").arg("-n").arg("1").arg("-c").arg(config);
        Self::start(stage, "named", free, command).await
    }

    /// Knot Resolver.
    pub async fn knot(stage: &Stage, parent: &Parent) -> Result<Self> {
        let address = stage.net.backend(211);
        let folder = stage.folder().join("kresd");
        std::fs::create_dir_all(&folder)?;
        let here = folder.display();
        let config = stage.write(
            "kresd.conf",
            &format!(
                "net.listen('{address}', {RESOLVER_PORT})\nnet.ipv6 = false\ncache.open(10 * MB, 'lmdb://{here}')\n\
                 trust_anchors.remove('.')\ntrust_anchors.add('{}')\nmodules.load('hints')\n\
                 hints.root({{ ['ns.parent.'] = '{}' }})\npolicy.add(policy.all(policy.FLAGS('ALLOW_LOCAL')))\n\
                 option('ALLOW_LOCAL', true)\n",
                parent.anchor, parent.address
            ),
        )?;
        let mut command = Command::new(program("kresd"));
        command.arg("-n").arg("-c").arg(config).arg(&folder);
        Self::start(stage, "kresd", (address, RESOLVER_PORT).into(), command).await
    }

    async fn start(stage: &Stage, name: &'static str, address: SocketAddr, command: Command) -> Result<Self> {
        let log = stage.folder().join(format!("{name}.log"));
        let mut process = Process::spawn(name, command, &log)?;
        let soa = Question::new(ZONE, RecordType::SOA)?.validated();
        eventually(&format!("{name} resolves"), secs(20), async || {
            process.must_run()?;
            let answer = soa.ask(address).await?;
            ensure!(!answer.message.answers.is_empty(), "{}", answer.message);
            Ok(())
        })
        .await?;
        Ok(Self { name, address, _process: process })
    }
}

/// What `delv` says of a question to a name server whose key this DS record names: it asks and validates by itself.
pub async fn delv(stage: &Stage, server: SocketAddr, ds: &str, name: &str, kind: &str) -> Result<String> {
    let words: Vec<&str> = ds.split_whitespace().collect();
    let [zone, "IN", "DS", tag, algorithm, digest_type, digest] = words[..] else {
        anyhow::bail!("no DS record: {ds}")
    };
    let anchors = stage.write(
        "delv.anchors",
        &format!("trust-anchors {{ \"{zone}\" static-ds {tag} {algorithm} {digest_type} \"{digest}\"; }};\n"),
    )?;
    let (at, port) = (format!("@{}", server.ip()), server.port().to_string());
    let (anchors, root) = (path(&anchors)?, format!("+root={zone}"));
    said(path(&program("delv"))?, &[&at, "-p", &port, "-a", anchors, &root, name, kind]).await
}

/// Where a program lies; a user's PATH may leave out those of administrators.
fn program(name: &str) -> PathBuf {
    find(name).unwrap_or_else(|| name.into())
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a path in UTF-8")
}
