//! HAProxy and nginx in front of and behind the mesh: the PROXY protocol in both versions and both directions, and TLS that
//! nobody opens on the way.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use tests::backend::{Seen, http_backends};
use tests::cluster::Cluster;
use tests::net::{HTTP, Net};
use tests::peer::{self, at};
use tests::prove;
use tests::services::{Entry, HTTP_CHECK, STICKY_SOURCE, Services, TCP_CHECK};
use tests::wait::{eventually, secs};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::time::timeout;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: www.example.com\r\nConnection: close\r\n\r\n";
/// Where the balancer in front listens for users.
const FRONTS: [(&str, u16); 3] =
    [("HAProxy, version 1", 7001), ("HAProxy, version 2", 7002), ("nginx", 7003)];

/// What comes back for `bytes`, and where they came from.
async fn say(from: Ipv4Addr, target: SocketAddr, bytes: &[u8]) -> Result<(SocketAddr, String)> {
    let exchange = async {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind((from, 0).into())?;
        let mut stream = socket.connect(target).await?;
        let local = stream.local_addr()?;
        stream.write_all(bytes).await?;
        let mut answer = Vec::new();
        // A connection that is refused may end with a reset.
        let _ = stream.read_to_end(&mut answer).await;
        anyhow::Ok((local, String::from_utf8_lossy(&answer).into_owned()))
    };
    timeout(secs(10), exchange).await.with_context(|| format!("no end at {target}"))?
}

/// The body of an answer of 200.
async fn body(from: Ipv4Addr, target: SocketAddr) -> Result<(SocketAddr, String)> {
    let (local, answer) = say(from, target, GET).await?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("{target} says {answer:?}"))?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{target} says {head}");
    Ok((local, body.trim().to_owned()))
}

fn front(net: &Net) -> Ipv4Addr {
    net.backend(100)
}

#[test]
fn backends_of_both_makes_learn_the_users_address_in_both_versions() {
    let Some([haproxy, nginx]) = peer::all(["haproxy", "nginx"]) else { return };
    prove!(Light, secs(90), async |stage| {
        let net = &stage.net;
        let (ha, ng) = (net.backend(0), net.backend(1));
        let _ha = peer::haproxy(
            stage,
            &haproxy,
            &format!(
                "frontend who\n  mode http\n  bind {} accept-proxy\n  http-request return status 200 content-type \
                 text/plain lf-string \"%[src] %[src_port] %[dst] %[dst_port]\"\n",
                at(ha, 8081)
            ),
        )?;
        let _ng = peer::nginx(
            stage,
            &nginx,
            &format!(
                "server {{ listen {} proxy_protocol; location / {{ return 200 \"$proxy_protocol_addr \
                 $proxy_protocol_port $proxy_protocol_server_addr $proxy_protocol_server_port\"; }} }}",
                at(ng, 8081)
            ),
            "",
        )?;
        let mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        let mut services = Services::new();
        let cases = [("ha-v1", ha, "v1"), ("ha-v2", ha, "v2"), ("ng-v1", ng, "v1"), ("ng-v2", ng, "v2")];
        for (at, (name, address, version)) in cases.iter().enumerate() {
            let entry = Entry { address: (*address, 8081).into(), region: "eu".into(), weight: 100 };
            services = services
                .and(format!(
                    "[listener.{name}]\nport = {}\nprotocol = \"tcp\"\nservice = \"{name}\"\naccept_proxy = [\"{}/32\"]",
                    9001 + at,
                    front(net)
                ))
                .service(name, &format!("{name} = 1"), STICKY_SOURCE)
                .pool(name, &format!("send_proxy = \"{version}\"\n{TCP_CHECK}"), [entry]);
        }
        mesh.apply("eu-1", &services).await?;
        // Health spoke PROXY too, or neither would have taken it for a client that is well.
        mesh.healthy().await?;
        let node = mesh.node("eu-1").address;
        for (index, (name, ..)) in cases.iter().enumerate() {
            let target = SocketAddr::from((node, 9001 + index as u16));
            let (user, told) = body(net.user(index), target).await.context(*name)?;
            let wanted = format!("{} {} {} {}", user.ip(), user.port(), target.ip(), target.port());
            ensure!(told == wanted, "{name} was told {told:?}, not {wanted:?}");
            // The same through a balancer in front, in either version, and not from anybody else.
            let line = b"PROXY TCP4 192.0.2.7 198.51.100.2 5000 443\r\n".as_slice();
            let (_, answer) = say(front(net), target, &[line, GET].concat()).await?;
            ensure!(answer.ends_with("192.0.2.7 5000 198.51.100.2 443"), "{name} was told {answer:?}");
            let (_, answer) = say(front(net), target, GET).await?;
            ensure!(answer.is_empty(), "{name} served a front without a header: {answer:?}");
        }
        Ok(())
    });
}

#[test]
fn users_behind_balancers_of_both_makes_are_known_by_their_own_address() {
    let Some([haproxy, nginx]) = peer::all(["haproxy", "nginx"]) else { return };
    prove!(Light, secs(90), async |stage| {
        let net = &stage.net;
        let backends = http_backends(net, &[("eu", 1)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        let refused = net.user(66);
        let services = Services::new()
            .and(format!(
                "[listener.http]\nport = {HTTP}\nprotocol = \"http\"\naccept_proxy = [\"{}/32\"]",
                front(net)
            ))
            .service("web", "web = 1", &format!("deny = [\"{refused}/32\"]"))
            .pool("web", HTTP_CHECK, &backends);
        mesh.apply("eu-1", &services).await?;
        mesh.healthy().await?;

        let (front, node) = (front(net), mesh.node("eu-1").http());
        let mut sections = String::new();
        for (port, send) in [(7001, "send-proxy"), (7002, "send-proxy-v2")] {
            sections.push_str(&format!(
                "listen f{port}\n  mode tcp\n  bind {}\n  server m {node} {send} source {front}\n",
                at(front, port)
            ));
        }
        let _ha = peer::haproxy(stage, &haproxy, &sections)?;
        let _ng = peer::nginx(
            stage,
            &nginx,
            "",
            &format!(
                "server {{ listen {}; proxy_pass {node}; proxy_bind {front}; proxy_protocol on; }}",
                at(front, 7003)
            ),
        )?;
        for (what, port) in FRONTS {
            let target = SocketAddr::from((front, port));
            let reached = eventually(what, secs(10), async || body(net.user(3), target).await).await;
            let (user, told) = reached.context(what)?;
            let seen: Seen = serde_json::from_str(&told).with_context(|| format!("{what}: {told}"))?;
            let known = seen.header("x-forwarded-for");
            ensure!(known == [user.ip().to_string()], "behind {what} the user is {known:?}, not {user}");
            let (_, answer) = say(refused, target, GET).await?;
            ensure!(answer.starts_with("HTTP/1.1 403 "), "behind {what} a refused user gets {answer:?}");
        }
        // Without a balancer in front a header is no header.
        let line = b"PROXY TCP4 192.0.2.7 198.51.100.2 5000 443\r\n".as_slice();
        let (_, answer) = say(net.user(4), node, &[line, GET].concat()).await?;
        ensure!(answer.starts_with("HTTP/1.1 400 "), "a forged header: {answer:?}");
        let (_, told) = body(net.user(4), node).await?;
        let seen: Seen = serde_json::from_str(&told)?;
        ensure!(seen.header("x-forwarded-for") == [net.user(4).to_string()], "{seen:?}");
        Ok(())
    });
}

#[test]
fn tls_goes_by_its_name_and_stays_closed() {
    let Some([openssl, nginx]) = peer::all(["openssl", "nginx"]) else { return };
    prove!(Light, secs(90), async |stage| {
        let net = &stage.net;
        let mut servers = String::new();
        let mut services = Services::new().and("[listener.tls]\nport = 8443\nprotocol = \"tls\"");
        for (index, (name, hosts)) in [
            ("shop", "hosts = [\"shop.example.com\"]"),
            ("wild", "hosts = [\"*.example.com\"]"),
            ("rest", ""),
        ]
        .into_iter()
        .enumerate()
        {
            let (key, cert) =
                (stage.folder().join(format!("{name}.key")), stage.folder().join(format!("{name}.pem")));
            let made = Command::new(&openssl)
                .args([
                    "req",
                    "-x509",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:P-256",
                    "-nodes",
                    "-days",
                    "2",
                ])
                .args(["-subj", &format!("/CN={name}")])
                .arg("-keyout")
                .arg(&key)
                .arg("-out")
                .arg(&cert)
                .stderr(Stdio::null())
                .status()?;
            ensure!(made.success(), "openssl makes no certificate");
            let address = net.backend(index);
            servers.push_str(&format!(
                "server {{ listen {} ssl proxy_protocol; ssl_certificate {}; ssl_certificate_key {}; \
                 location / {{ return 200 \"{name} $proxy_protocol_addr\"; }} }}\n",
                at(address, 8443),
                cert.display(),
                key.display()
            ));
            let entry = Entry { address: (address, 8443).into(), region: "eu".into(), weight: 100 };
            services = services.service(name, &format!("{name} = 1"), hosts).pool(
                name,
                &format!("send_proxy = \"v2\"\n{TCP_CHECK}"),
                [entry],
            );
        }
        let _ng = peer::nginx(stage, &nginx, &servers, "")?;
        let mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        mesh.apply("eu-1", &services).await?;
        mesh.healthy().await?;
        let target = SocketAddr::from((mesh.node("eu-1").address, 8443));
        for (host, to) in [
            ("shop.example.com", "shop"),
            ("Other.Example.com", "wild"),
            ("example.org", "rest"),
            ("", "rest"),
        ] {
            let mut client = tokio::process::Command::new(&openssl);
            client.args([
                "s_client",
                "-quiet",
                "-no_ign_eof",
                "-verify_quiet",
                "-connect",
                &target.to_string(),
            ]);
            match host {
                "" => client.arg("-noservername"),
                host => client.args(["-servername", host]),
            };
            let mut client = client
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .kill_on_drop(true)
                .spawn()?;
            let mut input = client.stdin.take().context("openssl's input")?;
            input.write_all(GET).await?;
            let output =
                timeout(secs(10), client.wait_with_output()).await.context("openssl does not end")??;
            let answer = String::from_utf8_lossy(&output.stdout);
            drop(input);
            ensure!(answer.ends_with(&format!("\r\n\r\n{to} 127.0.0.1")), "{host:?} gets {answer:?}");
        }
        let (_, answer) = say(net.user(1), target, GET).await?;
        ensure!(answer.is_empty(), "plain HTTP gets {answer:?}");
        Ok(())
    });
}
