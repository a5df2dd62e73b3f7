//! Wrong files: every mistake is named with its line, and nothing changes.

use anyhow::{Result, ensure};
use tests::cli::{Ran, code, text};
use tests::cluster::{Cluster, node_at};
use tests::prove;
use tests::stage::Stage;
use tests::wait::secs;

async fn start_with(stage: &Stage, file: &str) -> Result<Ran> {
    let data = stage.folder().join("data");
    let path = stage.write("node.toml", file)?;
    stage.cli().expect(code::INVALID, &["start", "-c", text(&path)?, "--data", text(&data)?]).await
}

#[test]
fn a_wrong_node_file_is_refused_before_anything_starts() {
    prove!(Light, secs(60), async |stage| {
        let no_toml = start_with(stage, "[node]\nname = \"eu-1\nregion = \"eu\"\n").await?;
        no_toml.must_say("node.toml:2:")?;

        let unknown =
            start_with(stage, "[node]\nname = \"eu-1\"\nregoin = \"eu\"\n[mesh]\nlissen = \"x\"\n").await?;
        unknown.must_say("node.toml:3:")?;
        unknown.must_say("region")?;
        unknown.must_say("node.toml:5:")?;
        unknown.must_say("did you mean")?;

        let open_admin = start_with(stage, "[admin]\nlisten = \"0.0.0.0:7900\"\n").await?;
        open_admin.must_say("token_file")?;
        ensure!(!stage.folder().join("data").exists(), "a data folder was made for a file that is wrong");

        let missing = stage.folder().join("nowhere.toml");
        let ran = stage.cli().run(&["start", "-c", text(&missing)?]).await?;
        ensure!(ran.code != code::OK, "a file that is not there is started");
        ran.must_say("nowhere.toml")
    });
}

#[test]
fn validate_tells_every_mistake_of_a_services_file() {
    prove!(Light, secs(60), async |stage| {
        let cli = stage.cli();
        let good = "[listener.http]\nport = 8080\nprotocol = \"http\"\n[service.web]\nsplit = { web = 1 }\n\
                    [pool.web]\nbackend = [{ address = \"127.0.0.1:8081\" }]\n";
        let path = stage.write("good.toml", good)?;
        cli.expect(code::OK, &["validate", text(&path)?]).await?;

        // What each mistake must lead to: the line, and a word of the explanation.
        let mistakes = [
            ("[listener.http]\nport = \"http\"\nprotocol = \"http\"\n", 2, "port"),
            ("[service.web]\nsplit = { nowhere = 1 }\n", 2, "nowhere"),
            ("[pool.web]\nbackend = [{ address = \"10.0.0.1\" }]\n", 2, "address"),
            ("[pool.web]\nhealth.http = { path = \"/\", intervall = \"2s\" }\nbackend = []\n", 2, "interval"),
            (
                "[pool.web]\nhealth.http = { path = \"/\", interval = \"2 parsecs\" }\nbackend = []\n",
                2,
                "parsecs",
            ),
            ("[region.eu]\nlatitude = 150.0\nlongitude = 8.0\n", 2, "latitude"),
            ("[region.eu]\nprefixes = [\"10.0.0.0/40\"]\n", 2, "10.0.0.0/40"),
            ("[pool.web]\nscale = {}\nbackend = []\n", 2, "`max` is missing"),
            ("[listener.a]\nport = 443\nprotocol = \"https\"\n", 1, "certificate"),
            ("[servise.web]\nsplit = { web = 1 }\n", 1, "service"),
        ];
        for (file, line, word) in mistakes {
            let path = stage.write("bad.toml", file)?;
            let ran = cli.expect(code::INVALID, &["validate", text(&path)?]).await?;
            ran.must_say(&format!("bad.toml:{line}:"))?;
            ran.must_say(word)?;
        }

        let whole: String =
            mistakes.iter().filter(|each| each.0.contains("region")).map(|each| each.0).collect();
        let path = stage.write("bad.toml", &whole.replacen("[region.eu]", "[region.us]", 1))?;
        let ran = cli.expect(code::INVALID, &["validate", text(&path)?]).await?;
        ran.must_say("bad.toml:2:")?;
        ran.must_say("bad.toml:5:")
    });
}

#[test]
fn bytes_that_are_no_configuration_change_nothing() {
    prove!(Light, secs(60), async |stage| {
        let mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        let cli = mesh.node("eu-1").cli();
        let path = stage.folder().join("noise.toml");
        let deep = "[".repeat(50_000);
        let wide = format!("x = \"{}\"", "y".repeat(3 << 20));
        for noise in [&[0xff, 0xfe, 0, 1, 2, 3][..], deep.as_bytes(), wide.as_bytes(), b"\0\0\0\0"] {
            std::fs::write(&path, noise)?;
            let ran = cli.run(&["apply", text(&path)?]).await?;
            ensure!(
                [code::FAILURE, code::INVALID].contains(&ran.code),
                "{} for noise: {}",
                ran.code,
                ran.said()
            );
            ensure!(!ran.said().contains("panicked"), "{}", ran.said());
        }
        ensure!(cli.status().await?.revision.is_none(), "noise became a revision");
        Ok(())
    });
}

#[test]
fn a_damaged_store_is_set_aside_and_the_node_starts() {
    prove!(Light, secs(90), async |stage| {
        let mut node = node_at(stage, 0, "eu-1", "eu", Vec::new(), None);
        node.start().await?;
        node.stop(secs(20)).await?;
        let mut damaged = 0;
        for store in std::fs::read_dir(node.data())?.flatten().filter(|entry| entry.path().is_dir()) {
            for file in std::fs::read_dir(store.path())?.flatten().filter(|entry| entry.path().is_file()) {
                std::fs::write(file.path(), b"this is no store")?;
                damaged += 1;
            }
        }
        ensure!(damaged > 0, "there was no store to damage");
        node.start().await?;
        node.says(&["set aside"], secs(10)).await?;
        Ok(())
    });
}
