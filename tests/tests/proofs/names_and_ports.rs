//! What can only be had once: a name, a data folder, a port.

use anyhow::{Context, ensure};
use tests::backend::http_backends;
use tests::cli::{code, text};
use tests::client::Browser;
use tests::cluster::{Cluster, node_at};
use tests::net::{ADMIN, DNS, MESH};
use tests::prove;
use tests::services::Services;
use tests::wait::secs;

#[test]
fn a_second_node_with_a_living_name_is_refused_and_says_so() {
    prove!(Light, secs(90), async |stage| {
        let mut mesh = Cluster::of(stage, &[("eu", 2)]).await?;
        let seed = mesh.node("eu-2").mesh();
        let mut double = node_at(stage, 30, "eu-1", "eu", vec![seed], Some(mesh.key().to_owned()));
        double.launch()?;
        let status = double.process()?.exit(secs(20)).await?;
        ensure!(status.code() == Some(code::FAILURE), "it ended with {status}");
        ensure!(double.log().contains("eu-1"), "the name is not told:\n{}", double.log());
        mesh.agree().await?;

        // The true one may come back, at once and however it went.
        mesh.node_mut("eu-1").kill().await?;
        mesh.node_mut("eu-1").start().await?;
        mesh.agree().await
    });
}

#[test]
fn a_second_process_on_the_same_data_folder_is_refused() {
    prove!(Light, secs(60), async |stage| {
        let mut node = node_at(stage, 0, "eu-1", "eu", Vec::new(), None);
        node.start().await?;
        let file = std::fs::read_to_string(node.file())?;
        let elsewhere = file.replace(&node.address.to_string(), &stage.net.node(7).to_string());
        let path = stage.write("second.toml", &elsewhere)?;
        let ran = stage.cli().expect(code::FAILURE, &["start", "-c", text(&path)?]).await?;
        ran.must_say(text(&node.data())?)?;
        node.process()?.must_run()
    });
}

#[test]
fn a_port_in_use_is_named() {
    prove!(Light, secs(90), async |stage| {
        let node = node_at(stage, 0, "eu-1", "eu", Vec::new(), None);
        for port in [MESH, MESH + 1, DNS] {
            let _taken = std::net::UdpSocket::bind((node.address, port))?;
            let ran = stage.cli().finish(node.command()?).await?;
            ensure!(ran.code == code::FAILURE, "{port}: {} {}", ran.code, ran.said());
            ran.must_say(&format!("{}:{port}", node.address))?;
        }
        for port in [DNS, ADMIN] {
            let _taken = std::net::TcpListener::bind((node.address, port))?;
            let ran = stage.cli().finish(node.command()?).await?;
            ensure!(ran.code == code::FAILURE, "{port}: {} {}", ran.code, ran.said());
            ran.must_say(&format!("{}:{port}", node.address))?;
        }
        Ok(())
    });
}

#[test]
fn two_nodes_never_share_a_listener_unseen() {
    prove!(Light, secs(90), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 1)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        let services = Services::shop(&stage.net, &backends);
        mesh.apply("eu-1", &services).await?;
        let first = mesh.node("eu-1");

        // All of its own but the proxy's address: with SO_REUSEPORT the kernel would let it in. First one that knows
        // its listeners from an earlier life, then one that is told them with the command.
        let mut second = node_at(stage, 1, "us-1", "us", Vec::new(), None);
        second.start().await?;
        let file = stage.write("again.toml", services.text())?;
        second.cli().expect(code::OK, &["apply", text(&file)?]).await?;
        second.stop(secs(20)).await?;
        second.proxy = first.address;
        let mut third = node_at(stage, 2, "ap-1", "ap", Vec::new(), None);
        third.proxy = first.address;
        let mut told = third.command()?;
        told.args(["--apply", text(&file)?]);
        for (how, start) in [("restarted", second.command()?), ("told by --apply", told)] {
            let ran = stage.cli().finish(start).await.context(how)?;
            ensure!(ran.code == code::FAILURE, "{how}: {} {}", ran.code, ran.said());
            ran.must_say(&first.http().to_string())?;
        }
        Browser::new().visit(first.http()).await?;
        Ok(())
    });
}

#[test]
fn a_listener_that_cannot_be_had_later_does_not_take_the_others_down() {
    prove!(Light, secs(90), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 1)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        let services = Services::shop(&stage.net, &backends);
        mesh.apply("eu-1", &services).await?;
        let node = mesh.node("eu-1");
        let taken = std::net::TcpListener::bind((node.address, 8088))?;
        mesh.apply("eu-1", &services.and("[listener.more]\nport = 8088\nprotocol = \"http\"")).await?;
        node.says(&[&taken.local_addr()?.to_string()], secs(10)).await?;
        Browser::new().visit(node.http()).await?;
        Ok(())
    });
}
