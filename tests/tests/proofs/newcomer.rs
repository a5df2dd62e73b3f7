//! The newcomer's path with README.md alone, and the runbook after it: each command is taken from the document and typed, as it stands
//! there, on machines that have the addresses, ports and paths that the document speaks of. A command that nobody types, and that
//! no excuse names, fails the proof.

use std::fs;

use anyhow::{Context, Result, ensure};
use tests::backend::Seen;
use tests::cli::code;
use tests::document::Document;
use tests::machine::{Machine, Wire};
use tests::peer;
use tests::process::Process;
use tests::prove;
use tests::stage::Stage;
use tests::status::Status;
use tests::wait::{eventually, secs};

/// Commands of README.md that are not typed here, and why.
const README_EXCUSES: &[(&str, &str)] = &[
    ("cargo run", "the program is built already; the demo's own command follows it"),
    ("cargo test", "this is it"),
    ("cargo build", "the program is built already, and lies on every machine's PATH"),
    ("meridian dns check", "no parent zone stands above this mesh: proofs/resolvers.rs has one"),
];

/// The same of deploy/README.md.
const RUNBOOK_EXCUSES: &[(&str, &str)] = &[
    ("install ", "needs systemd as the first process; the unit itself is judged in proofs/deploy.rs"),
    ("cp deploy", "as above"),
    ("meridian doctor -c /etc/meridian", "as above: it reads the file that was copied there"),
    ("systemctl ", "as above"),
    ("meridian dns check", "no parent zone stands above this mesh: proofs/resolvers.rs has one"),
    ("meridian dns key retire", "a zone has several keys after a mishap only: proofs/zone_keys.rs has one"),
    ("meridian dns key restore", "as above"),
];

#[test]
fn every_command_in_the_documents_is_known() {
    prove!(Light, secs(60), async |stage| {
        let cli = stage.cli();
        for (name, least) in [("README.md", 30), ("deploy/README.md", 15)] {
            let commands = Document::open(name)?.commands();
            let ours: Vec<&str> =
                commands.iter().filter_map(|command| command.strip_prefix("meridian ")).collect();
            ensure!(ours.len() >= least, "{name}: {ours:?}");
            for command in ours {
                // What stands for something else in capitals is something else.
                let words = command.split(' ').map(|word| match word {
                    "NETWORK" => "192.0.2.0/24",
                    "ADDRESS"
                    | "ADDRESS-OF-A-NAME-SERVER-OF-EXAMPLE.COM"
                    | "ADDRESS-OF-A-NAME-SERVER-OF-THE-PARENT" => "192.0.2.1",
                    "TAG" => "12345",
                    word => word,
                });
                // `--help` after everything else: clap has then read the rest, and says what it does not know.
                let words: Vec<&str> = words.chain(["--help"]).collect();
                let ran = cli.run(&words).await?;
                ensure!(ran.code == code::OK, "{name}: meridian {command}: {}", ran.said());
            }
        }
        Ok(())
    });
}

#[test]
fn the_newcomers_path() {
    prove!(Heavy, secs(400), async |stage| {
        if peer::all(["curl"]).is_none() {
            return Ok(());
        }
        let Some(wire) = Wire::lay(stage).await? else { return Ok(()) };
        let readme = Document::open("README.md")?;
        {
            let laptop = wire.machine("laptop", &["203.0.113.99"]).await?;
            demo(&readme, &laptop).await?;
            no_files(&readme, &laptop, &wire, stage).await?;
        }
        let mesh = Mesh::raise(&wire, &readme, stage).await?;
        let met = mesh.visit("198.51.100.10").await?;
        ensure!(mesh.visit("203.0.113.10").await?.backend == met.backend, "the user does not stay");
        dashboard(&mesh.nodes[0]).await?;
        every_day(&readme, &mesh, &wire).await?;
        a_new_key(&readme, &mesh).await?;

        // Taking capacity away is stopping a node.
        let gone = &mesh.nodes[2];
        gone.expect(code::OK, "kill -TERM $(pidof meridian)").await?;
        mesh.eventually("a node has left", |status| {
            let state = &status.member(&gone.name)?.state;
            ensure!(state == "left", "{} is {state}", gone.name);
            Ok(())
        })
        .await?;
        mesh.visit("198.51.100.10").await?;
        readme.all_taken(README_EXCUSES)
    });
}

/// The demo as the README has it: it succeeds, prints the tables that the README shows, and has a dashboard meanwhile.
async fn demo(readme: &Document, laptop: &Machine<'_>) -> Result<()> {
    let mut demo = laptop.begin("demo", &readme.take("meridian demo")?)?;
    eventually("the demo is ready", secs(60), async || {
        demo.must_run()?;
        laptop.expect(code::OK, "curl -fsS http://127.77.1.1:7900/").await?.must_say("<title>Meridian")
    })
    .await?;
    let status = demo.exit(secs(120)).await?;
    let said = squeezed(&demo.log());
    ensure!(status.success(), "the demo ends with {status}:\n{}", demo.log());
    // Lines with figures differ each time; headings and the verdict do not.
    let transcript = &readme.block("$ meridian demo")?.text;
    let same = transcript.lines().skip(1).filter(|line| !line.contains(|c: char| c.is_ascii_digit()));
    let same: Vec<&str> = same.filter(|line| line.contains(char::is_alphabetic)).collect();
    ensure!(same.len() == 3, "headings and a verdict are expected: {same:?}");
    for line in same {
        ensure!(
            said.contains(&squeezed(line)),
            "the README shows {line:?}, and this is said:\n{}",
            demo.log()
        );
    }
    Ok(())
}

fn squeezed(text: &str) -> String {
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n").collect()
}

/// One port over two backends.
async fn no_files(readme: &Document, laptop: &Machine<'_>, wire: &Wire<'_>, stage: &Stage) -> Result<()> {
    let farm = wire.machine("two", &["10.0.0.5", "10.0.0.6"]).await?;
    let _backends = origins(&farm, stage, &["10.0.0.5:8080", "10.0.0.6:8080"])?;
    let mut proxy = laptop.begin("proxy", &readme.take("meridian proxy")?)?;
    eventually("the port is served", secs(20), async || {
        proxy.must_run()?;
        laptop.expect(code::OK, "curl -fsS http://127.0.0.1:8080/").await?.must_say("10.0.0.")
    })
    .await
}

/// Backends that call themselves by their addresses.
fn origins(farm: &Machine<'_>, stage: &Stage, addresses: &[&str]) -> Result<Vec<Process>> {
    let program = stage.folder().join("programs/origin");
    fs::copy(env!("CARGO_BIN_EXE_origin"), &program)?;
    let begin = |address: &&str| {
        farm.begin(address, &format!("ADDRESS={address} NAME={address} {}", program.display()))
    };
    addresses.iter().map(begin).collect()
}

/// Three nodes in two regions, as the README starts them.
struct Mesh<'s> {
    nodes: Vec<Machine<'s>>,
    user: Machine<'s>,
    _processes: Vec<Process>,
    _farm: Machine<'s>,
}

impl<'s> Mesh<'s> {
    async fn raise(wire: &Wire<'s>, readme: &Document, stage: &'s Stage) -> Result<Self> {
        let farm = wire.machine("farm", &["10.0.1.11", "10.0.1.21", "10.9.1.11"]).await?;
        let mut processes = origins(&farm, stage, &["10.0.1.11:8080", "10.0.1.21:8080", "10.9.1.11:8080"])?;
        let mut nodes = Vec::new();
        for (name, address) in [("eu-1", "198.51.100.10"), ("us-1", "203.0.113.10"), ("us-2", "203.0.113.11")]
        {
            nodes.push(wire.machine(name, &[address]).await?);
        }
        const KEY: &str = "/var/lib/meridian/mesh.key";
        processes.push(nodes[0].begin("node", &readme.take("meridian start --region eu")?)?);
        eventually("the first node makes the key", secs(30), async || {
            ensure!(nodes[0].file(KEY).exists(), "not yet");
            Ok(())
        })
        .await?;
        for node in &nodes[1..] {
            fs::copy(nodes[0].file(KEY), node.file(KEY))?;
            processes.push(node.begin("node", &readme.take("meridian start --region us")?)?);
        }
        let user = wire.machine("user", &["203.0.113.7"]).await?;
        let mesh = Self { nodes, user, _processes: processes, _farm: farm };
        mesh.eventually("three nodes are a mesh", |status| {
            let alive = status.members_that_are("alive");
            ensure!(alive.len() == 3, "alive are {alive:?}");
            Ok(())
        })
        .await?;
        let services = &readme.block("[dns.zone.")?.text;
        let first = &mesh.nodes[0];
        fs::write(first.home().join("services.toml"), services)?;
        first.expect(code::OK, &readme.take("meridian validate")?).await?;
        first.expect(code::OK, &readme.take("meridian apply")?).await?;
        mesh.eventually("all backends are up", |status| status.all_backends_are("up")).await?;
        let status = readme.take("meridian status")?;
        eventually("the mesh is healthy", secs(40), async || {
            first.expect(code::OK, &status).await?.must_say("healthy")
        })
        .await?;
        Ok(mesh)
    }

    /// Waits until it holds on the first node.
    async fn eventually(&self, what: &str, check: impl Fn(&Status) -> Result<()>) -> Result<()> {
        eventually(what, secs(40), async || {
            let ran = self.nodes[0].expect(code::OK, "meridian status -o json").await?;
            check(&serde_json::from_str(&ran.stdout)?)
        })
        .await
    }

    /// A user's request, with the cookies from before.
    async fn visit(&self, node: &str) -> Result<Seen> {
        let line = format!("curl -fsS -m 10 -b jar -c jar -H 'Host: www.lb.example.com' http://{node}/");
        // The port is bound a moment after the configuration is there.
        eventually("a page", secs(10), async || {
            let ran = self.user.expect(code::OK, &line).await?;
            Ok(serde_json::from_str(&ran.stdout)?)
        })
        .await
    }

    /// Types a document's command on a node.
    async fn obey(&self, node: &Machine<'_>, line: &str) -> Result<()> {
        match line {
            "meridian events --follow" => goes_on(node, line, "revision").await.map(drop),
            // What the mesh needs a moment for.
            "meridian consistency" | "meridian doctor" | "meridian healthcheck" => {
                eventually(line, secs(40), async || node.expect(code::OK, line).await.map(drop)).await
            }
            _ => node.expect(code::OK, line).await.map(drop),
        }
    }
}

/// Types a line that does not end by itself, and waits for words of it.
async fn goes_on(node: &Machine<'_>, line: &str, words: &str) -> Result<Process> {
    let mut process = node.begin(line.split(' ').nth(1).unwrap_or("line"), line)?;
    eventually(&format!("`{line}` says {words:?}"), secs(20), async || {
        process.must_run()?;
        ensure!(process.log().contains(words), "it says {:?}", process.log());
        Ok(())
    })
    .await?;
    Ok(process)
}

/// The page and whatever it asks for.
async fn dashboard(node: &Machine<'_>) -> Result<()> {
    let fetch = async |path: &str| -> Result<String> {
        Ok(node.expect(code::OK, &format!("curl -fsS http://127.0.0.1:7900/{path}")).await?.stdout)
    };
    let page = fetch("").await?;
    let named = |text: &str, before: &str| -> Vec<String> {
        text.split(before).skip(1).filter_map(|rest| rest.split('"').next()).map(str::to_owned).collect()
    };
    let mut files = [named(&page, "src=\""), named(&page, "href=\"")].concat();
    ensure!(files.len() >= 3, "the page names {files:?}");
    while let Some(file) = files.pop() {
        let text = fetch(&file).await?;
        ensure!(!text.is_empty(), "{file} is empty");
        files.extend(named(&text, "from \"./").into_iter().map(|name| format!("dashboard/{name}")));
    }
    for path in ["v1/status", "v1/regions", "v1/traffic", "v1/users"] {
        serde_json::from_str::<serde_json::Value>(&fetch(path).await?).with_context(|| path.to_owned())?;
    }
    Ok(())
}

/// The block of every day, in its order, on a node that is neither the first nor where the file was applied.
async fn every_day(readme: &Document, mesh: &Mesh<'_>, wire: &Wire<'_>) -> Result<()> {
    let node = &mesh.nodes[1];
    for line in readme.block("meridian top")?.commands() {
        let line = &readme.take(&line)?;
        match line.as_str() {
            "meridian drain pool web-v1 --wait" => {
                // Somebody is there, so that there is something to wait for.
                let mut users = 0;
                while !mesh.visit("198.51.100.10").await?.backend.ends_with(".11:8080") {
                    mesh.user.expect(code::OK, "rm jar").await?;
                    users += 1;
                    ensure!(users < 100, "no user of a hundred comes to web-v1");
                }
                let mut waiting = goes_on(node, line, "is draining").await?;
                node.expect(code::OK, "meridian undrain pool web-v1").await?;
                let ended = waiting.exit(secs(20)).await?;
                ensure!(ended.code() == Some(code::CONFLICT), "{ended}: {}", waiting.log());
            }
            "meridian drain backend 10.0.1.11:8080" => {
                mesh.obey(node, line).await?;
                mesh.eventually("the backend drains", |status| {
                    let state = &status.backend("10.0.1.11:8080")?.state;
                    ensure!(state == "draining", "{state}");
                    Ok(())
                })
                .await?;
            }
            "meridian maintenance backend 10.0.1.11:8080" => {
                mesh.obey(node, line).await?;
                mesh.obey(node, &format!("{line} --reset")).await?;
            }
            "meridian weight 10.0.1.11:8080 50" => {
                mesh.obey(node, line).await?;
                mesh.obey(node, "meridian weight 10.0.1.11:8080 --reset").await?;
            }
            "meridian split web web-v1=50 web-v2=50" => {
                mesh.obey(node, line).await?;
                mesh.obey(node, "meridian split web --reset").await?;
            }
            "meridian dns ds lb.example.com" | "meridian dns key list lb.example.com" => {
                node.expect(code::FAILURE, line).await?.must_say("dnssec = true")?;
            }
            "meridian upgrade" => upgrade(mesh, node, wire, line).await?,
            line => mesh.obey(node, line).await?,
        }
    }
    for beginning in ["meridian completion", "meridian man"] {
        let line = readme.take(beginning)?.replace("FOLDER", "manual");
        mesh.obey(node, &line).await?;
    }
    let pages = fs::read_dir(node.home().join("manual"))?.count();
    ensure!(pages > 20, "{pages} pages are written");
    Ok(())
}

/// A program that was replaced on disk takes over; the user stays where they are.
async fn upgrade(mesh: &Mesh<'_>, node: &Machine<'_>, wire: &Wire<'_>, line: &str) -> Result<()> {
    let met = mesh.visit("203.0.113.10").await?;
    let before = node.expect(code::OK, "pidof meridian").await?.stdout;
    wire.install()?;
    mesh.obey(node, line).await?;
    let after = node.expect(code::OK, "pidof -s meridian").await?.stdout;
    ensure!(!before.split_whitespace().any(|pid| pid == after.trim()), "still process {before}");
    ensure!(mesh.visit("203.0.113.10").await?.backend == met.backend, "the session moved");
    mesh.eventually("the node is alive", |status| {
        let state = &status.member(&node.name)?.state;
        ensure!(state == "alive", "{state}");
        Ok(())
    })
    .await
}

/// The mesh's key is changed as the README says; what the old one sealed is good for hours, so it stays for now.
async fn a_new_key(readme: &Document, mesh: &Mesh<'_>) -> Result<()> {
    let node = &mesh.nodes[2];
    let met = mesh.visit("203.0.113.11").await?;
    let keys = async || -> Result<Vec<(String, bool)>> {
        let ran = node.expect(code::OK, "meridian key list -o json").await?;
        let listed: serde_json::Value = serde_json::from_str(&ran.stdout)?;
        let keys = listed["keys"].as_array().context("keys")?.iter();
        let keys = keys.map(|key| Some((key["id"].as_str()?.to_owned(), key["in_use"].as_bool()?)));
        keys.collect::<Option<_>>().context("their ids")
    };
    node.expect(code::OK, &readme.take("meridian key install")?).await?;
    let listed = keys().await?;
    let [old, new] =
        [true, false].map(|used| listed.iter().find(|key| key.1 == used).map(|key| key.0.clone()));
    let (old, new) = (old.context("no key in use")?, new.context("no new key")?);
    node.expect(code::OK, &readme.take("meridian key use")?.replace("ID", &new)).await?;
    ensure!(keys().await?.contains(&(new.clone(), true)), "the new key is not in use");
    let remove = readme.take("meridian key remove")?.replace("OLD", &old);
    node.expect(code::CONFLICT, &remove).await?.must_say("cookies sealed under key")?;
    ensure!(mesh.visit("203.0.113.11").await?.backend == met.backend, "the session moved");
    Ok(())
}

#[test]
fn the_runbook() {
    prove!(Heavy, secs(300), async |stage| {
        let Some([_, promtool]) = peer::all(["curl", "promtool"]) else { return Ok(()) };
        let Some(wire) = Wire::lay(stage).await? else { return Ok(()) };
        let (readme, runbook) = (Document::open("README.md")?, Document::open("deploy/README.md")?);
        let mesh = Mesh::raise(&wire, &readme, stage).await?;
        let node = &mesh.nodes[0];
        mesh.visit("198.51.100.10").await?;

        // Prometheus takes what it is told to take.
        let scrape = &runbook.block("scrape_configs:")?.text;
        let scrape = stage.write("prometheus.yml", scrape)?;
        let scrape = scrape.to_string_lossy();
        peer::said(&promtool.to_string_lossy(), &["check", "config", "--syntax-only", &scrape]).await?;

        // A signed zone, since the runbook gives its DS record to the parent.
        let services = fs::read_to_string(node.home().join("services.toml"))?;
        let signed = services.replace("contact = ", "dnssec = true\ncontact = ");
        fs::write(node.home().join("services.toml"), signed)?;
        for line in runbook.commands() {
            if RUNBOOK_EXCUSES.iter().any(|(beginning, _)| line.starts_with(beginning)) {
                continue;
            }
            let line = &runbook.take(&line)?;
            match line.as_str() {
                "meridian dns ds lb.example.com" => {
                    eventually("the zone's key is made", secs(30), async || {
                        node.expect(code::OK, line).await?.must_say("IN DS")
                    })
                    .await?;
                }
                "meridian dns key list ZONE" => {
                    mesh.obey(node, &line.replace("ZONE", "lb.example.com")).await?;
                }
                "meridian drain backend ADDRESS --wait" => {
                    // Nobody stays on a backend that takes nobody.
                    let line = line.replace("ADDRESS", "10.9.1.11:8080");
                    let mut draining = node.begin("drain", &format!("{line} --deadline 1s"))?;
                    ensure!(draining.exit(secs(30)).await?.success(), "{}", draining.log());
                    mesh.obey(node, "meridian undrain backend 10.9.1.11:8080").await?;
                }
                "meridian drain pool NAME" | "meridian drain region NAME" => {
                    let name = if line.contains("pool") { "web-v2" } else { "us" };
                    let line = line.replace("NAME", name);
                    mesh.obey(node, &line).await?;
                    mesh.obey(node, &line.replace("drain", "undrain")).await?;
                }
                "meridian drain pool web-v1 --wait" => {
                    mesh.obey(node, "meridian sessions end --service web").await?;
                    mesh.obey(node, line).await?;
                    mesh.obey(node, "meridian undrain pool web-v1").await?;
                }
                "meridian deny add NETWORK --for 1h" => {
                    mesh.obey(node, &line.replace("NETWORK", "192.0.2.0/24")).await?;
                }
                "meridian upgrade" => upgrade(&mesh, &mesh.nodes[1], &wire, line).await?,
                line if line.starts_with("curl ") => {
                    node.expect(code::OK, line).await?.must_say("[pool.web-v1]")?;
                }
                line => mesh.obey(node, line).await?,
            }
        }
        runbook.all_taken(RUNBOOK_EXCUSES)
    });
}
