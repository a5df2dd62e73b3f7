//! This machine: the data folder, the key, limits, ports, and who else answers DNS.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{Access, access, statvfs};
use rustix::process::{Resource, getrlimit};

use super::{Finding, fail, ok, warn};
use crate::admin::Token;
use crate::config::model::NodeConfig;
use crate::config::services;
use crate::proxy::check_ports;

/// Fewer open files than this are soon too few: each user takes one, and each backend connection.
const FILES_ENOUGH: u64 = 65_536;
/// Less free space than this, and the store soon lags behind.
const SPACE_ENOUGH_BYTES: u64 = 256 << 20;
/// Fewer kernel buffers than this for UDP cost QUIC and DNS packets under load.
const UDP_BUFFER_ENOUGH: u64 = 1 << 20;

/// Everything; `runs`: a node answers here, so its ports are taken rightly.
pub(super) fn look(config: &NodeConfig, runs: bool) -> Vec<Finding> {
    let mut findings = vec![folder(&config.data)];
    findings.push(space(&config.data));
    findings.push(key(config));
    findings.extend(config.admin.token_file.as_deref().map(token));
    findings.push(files(getrlimit(Resource::Nofile).maximum));
    findings.extend(udp_buffer("/proc/sys/net/core/rmem_max"));
    if !runs {
        findings.push(ports(config));
        findings.extend(listeners(config));
    }
    findings.extend(other_resolver(config, runs));
    findings
}

fn folder(data: &Path) -> Finding {
    let shown = data.display();
    let Ok(meta) = std::fs::metadata(data) else {
        let parent = data.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
        return match access(parent, Access::WRITE_OK | Access::EXEC_OK) {
            Ok(()) => ok("data folder", format!("{shown} will be made")),
            Err(_) => fail(
                "data folder",
                format!("{shown} cannot be made"),
                "choose another with --data, or make it for the node's user",
            ),
        };
    };
    let mode = meta.permissions().mode() & 0o777;
    if access(data, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        return fail(
            "data folder",
            format!("{shown} cannot be written by this user"),
            "run as the node's user, or choose another with --data",
        );
    }
    match mode & 0o077 {
        0 => ok("data folder", format!("{shown} is this user's own")),
        _ => warn(
            "data folder",
            format!("{shown} is open to others (mode {mode:o})"),
            format!("chmod 700 {shown}: the key and the admin socket lie there"),
        ),
    }
}

fn space(data: &Path) -> Finding {
    let there = data.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    match statvfs(there) {
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let told = format!("{} MiB are free in {}", free >> 20, there.display());
            match free < SPACE_ENOUGH_BYTES {
                true => warn("disk", told, "the node serves on a full disk, but forgets more in a crash"),
                false => ok("disk", told),
            }
        }
        Err(error) => warn("disk", format!("{}: {error}", there.display()), "is the file system mounted?"),
    }
}

fn key(config: &NodeConfig) -> Finding {
    let path = config.mesh.key_file.clone().unwrap_or_else(|| config.data.join("mesh.key"));
    let shown = path.display();
    match std::fs::metadata(&path) {
        Ok(meta) => {
            let mode = meta.permissions().mode() & 0o777;
            match mode & 0o077 {
                0 => match gossip::keyring::Keyring::load(&path) {
                    Ok(_) if !crate::keys::is_writable(&path) => warn(
                        "mesh key",
                        format!("{shown} can be read, but not written by this user"),
                        "orders about keys hold until a restart only: change the file where it comes from (deploy/README.md, read-only key files)",
                    ),
                    Ok(ring) => ok("mesh key", format!("{shown} holds {} key(s)", ring.key_ids().len())),
                    Err(error) => {
                        fail("mesh key", error.to_string(), "copy the file from another node again")
                    }
                },
                _ => fail(
                    "mesh key",
                    format!("{shown} is open to others (mode {mode:o})"),
                    format!("chmod 600 {shown}: who reads it is of the mesh"),
                ),
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound && config.mesh.seeds.is_empty() => {
            ok("mesh key", format!("{shown} will be made: without seeds this is a new mesh"))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => fail(
            "mesh key",
            format!("there is none at {shown}"),
            "copy it from a node of the mesh, over a channel that you trust",
        ),
        Err(error) => fail("mesh key", format!("{shown}: {error}"), "run as the node's user"),
    }
}

/// The node reads it in the same way when it starts.
fn token(path: &Path) -> Finding {
    match Token::load(path) {
        Ok(_) => ok("admin token", format!("{} holds one", path.display())),
        Err(error) => fail(
            "admin token",
            format!("{}: {error}", path.display()),
            "the node does not start without it: write 16 characters or more there, for the node's user alone to read",
        ),
    }
}

fn files(most: Option<u64>) -> Finding {
    match most {
        Some(most) if most < FILES_ENOUGH => warn(
            "open files",
            format!("at most {most}"),
            format!(
                "LimitNOFILE={FILES_ENOUGH} in the unit, or ulimit -Hn: each user takes one, each backend connection another"
            ),
        ),
        Some(most) => ok("open files", format!("at most {most}")),
        None => ok("open files", "no limit"),
    }
}

fn udp_buffer(path: &str) -> Option<Finding> {
    let most: u64 = std::fs::read_to_string(path).ok()?.trim().parse().ok()?;
    Some(match most < UDP_BUFFER_ENOUGH {
        true => warn(
            "UDP buffers",
            format!("net.core.rmem_max is {most} bytes"),
            format!(
                "sysctl -w net.core.rmem_max={}: bursts of QUIC and DNS are lost otherwise",
                4 * UDP_BUFFER_ENOUGH
            ),
        ),
        false => ok("UDP buffers", format!("up to {most} bytes")),
    })
}

/// Whether the mesh, the admin API and DNS could have their ports now.
fn ports(config: &NodeConfig) -> Finding {
    let mesh = config.mesh.listen;
    let tunnel = SocketAddr::new(mesh.ip(), mesh.port().saturating_add(1));
    let udp = [mesh, tunnel].into_iter().chain(config.dns_listen.iter().copied());
    let of_tls = config.dns_tls.iter().flat_map(|tls| tls.listen.iter().copied());
    let tcp = [config.admin.listen].into_iter().chain(config.dns_listen.iter().copied()).chain(of_tls);
    let refused =
        |transport: &str, addr: SocketAddr, error: std::io::Error| format!("{transport} {addr}: {error}");
    let mut wrong: Vec<String> = udp
        .filter(|addr| addr.port() != 0)
        .filter_map(|addr| Some(refused("UDP", addr, UdpSocket::bind(addr).err()?)))
        .collect();
    wrong.extend(
        tcp.filter(|addr| addr.port() != 0)
            .filter_map(|addr| Some(refused("TCP", addr, TcpListener::bind(addr).err()?))),
    );
    match wrong.is_empty() {
        true => ok("ports", "those of the mesh, the admin API and DNS are free"),
        false => fail(
            "ports",
            wrong.join("; "),
            "`ss -lntup` shows who has them; ports below 1024 need root or CAP_NET_BIND_SERVICE",
        ),
    }
}

/// The ports of the configuration that the node had last.
fn listeners(config: &NodeConfig) -> Option<Finding> {
    let text = std::fs::read_to_string(config.data.join("services.toml")).ok()?;
    let valid = services::parse("services.toml", &text).ok()?;
    Some(match check_ports(&config.proxy_listen, &valid.services) {
        Ok(()) => {
            ok("listeners", format!("the ports of {} listener(s) are free", valid.services.listeners.len()))
        }
        Err(error) => fail("listeners", error.to_string(), "`ss -lntp` shows who has them"),
    })
}

/// Many systems run a resolver of their own on port 53, and it is in the way of a name server on all addresses.
fn other_resolver(config: &NodeConfig, runs: bool) -> Option<Finding> {
    let wants = config.dns_listen.iter().any(|addr| addr.port() == 53 && addr.ip().is_unspecified());
    let stub = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)), 53);
    let taken = || UdpSocket::bind(stub).is_err_and(|error| error.kind() == ErrorKind::AddrInUse);
    (wants && !runs && taken()).then(|| {
        fail(
            "port 53",
            "systemd-resolved listens on 127.0.0.53:53",
            "DNSStubListener=no in /etc/systemd/resolved.conf, then systemctl restart systemd-resolved; or list this machine's own addresses in [dns] listen",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use crate::config::node_file::{Machine, NodeOverrides, parse};

    fn config(data: &Path, more: &str) -> NodeConfig {
        let text = format!(
            "[node]\nname = \"n\"\ndata = {data:?}\n[admin]\nlisten = \"127.0.0.1:0\"\n[mesh]\nlisten = \"127.0.0.1:0\"\n{more}"
        );
        let machine = Machine { host_name: "n".into(), data: data.into() };
        parse("node.toml", &text, &NodeOverrides::default(), &machine)
            .unwrap_or_else(|error| panic!("{error}"))
            .node
    }

    #[test]
    fn a_key_that_others_can_read_is_told_of() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), "");
        assert_eq!(key(&config).verdict, Verdict::Ok, "a new mesh needs none");
        let path = folder.path().join("mesh.key");
        gossip::keyring::Keyring::generate().save(&path).unwrap();
        assert_eq!(key(&config).verdict, Verdict::Ok);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let finding = key(&config);
        assert!(
            finding.verdict == Verdict::Fail
                && finding.hint.is_some_and(|hint| hint.starts_with("chmod 600"))
        );
    }

    #[test]
    fn a_node_that_joins_needs_the_key_of_its_mesh() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(key(&config(folder.path(), "seeds = [\"192.0.2.1:7946\"]")).verdict, Verdict::Fail);
    }

    #[test]
    fn a_port_that_is_taken_is_told_of() {
        let folder = tempfile::tempdir().unwrap();
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = taken.local_addr().unwrap();
        let config = NodeConfig {
            admin: crate::config::model::AdminConfig { listen, token_file: None },
            ..config(folder.path(), "")
        };
        let finding = ports(&config);
        assert!(
            finding.verdict == Verdict::Fail && finding.detail.contains(&listen.to_string()),
            "{finding:?}"
        );
        drop(taken);
        assert_eq!(ports(&config).verdict, Verdict::Ok);
    }

    #[test]
    fn limits_are_judged() {
        assert_eq!(
            (files(Some(1024)).verdict, files(Some(1 << 20)).verdict, files(None).verdict),
            (Verdict::Warn, Verdict::Ok, Verdict::Ok)
        );
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rmem_max");
        std::fs::write(&path, "212992\n").unwrap();
        assert_eq!(udp_buffer(path.to_str().unwrap()).map(|finding| finding.verdict), Some(Verdict::Warn));
    }

    #[test]
    fn a_token_that_the_node_would_refuse_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        assert_eq!(token(&path).verdict, Verdict::Fail, "there is none");
        std::fs::write(&path, "secret1\n").unwrap();
        let short = token(&path);
        assert!(short.verdict == Verdict::Fail && short.detail.contains("16"), "{short:?}");
        std::fs::write(&path, "0123456789abcdef\n").unwrap();
        assert_eq!(token(&path).verdict, Verdict::Ok);
    }
}
