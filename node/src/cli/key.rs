//! `meridian key new|list|install|use|remove`: the keys of a running mesh, or a keyring file.
//!
//! Without a file they ask a node, which gives the order to all; with one they change that file alone, and a node whose
//! keyring it is takes the change into use while it runs.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand};
use gossip::clock::Clock;
use gossip::keyring::{Keyring, KeyringError};
use http::Method;

use super::exit::{CliError, Exit};
use super::output::{aside, hint, item, json, line, table};
use super::{Format, Global, ask};
use crate::admin::keys::{KeyEntry, KeyList, KeysOf};
use crate::keys::spell;

/// How often the mesh is asked how far an order has come.
const LOOK_EVERY: Duration = Duration::from_millis(300);

#[derive(Debug, Args)]
pub(super) struct KeyFile {
    /// A keyring file to change instead, without asking a node. Nodes that use it follow while they run.
    file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct NewFile {
    /// The keyring file. Default: mesh.key in the data folder.
    file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Ordered {
    /// Do it though nodes lack the key, or sessions end by it.
    #[arg(long)]
    force: bool,
    /// How long to wait until all nodes have followed.
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = humantime::parse_duration)]
    wait: Duration,
}

#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Make a keyring file with one fresh key. Copy the file to every node, over a channel that you trust.
    New(NewFile),
    /// List the keys by id and how many nodes have them; the secrets are not shown.
    List(KeyFile),
    /// Add a further key on all nodes: a fresh one, or one read from standard input.
    Install {
        #[command(flatten)]
        file: KeyFile,
        /// Read the key from standard input instead of making one: its line in another keyring file.
        #[arg(long)]
        stdin: bool,
        #[command(flatten)]
        ordered: Ordered,
    },
    /// Choose the key that seals and signs on all nodes; refused while one of them lacks it.
    Use {
        /// Its id, from `key list`.
        id: String,
        #[command(flatten)]
        file: KeyFile,
        #[command(flatten)]
        ordered: Ordered,
    },
    /// Take a key from all nodes; refused while it is in use, or while cookies that it sealed can still live.
    Remove {
        /// Its id, from `key list`.
        id: String,
        #[command(flatten)]
        file: KeyFile,
        #[command(flatten)]
        ordered: Ordered,
    },
}

pub(super) fn run(global: &Global, command: KeyCommand) -> Result<ExitCode, CliError> {
    let done = || Ok(ExitCode::SUCCESS);
    match command {
        KeyCommand::New(NewFile { file }) => {
            let path = file.unwrap_or_else(|| global.data().join("mesh.key"));
            new(global, &path)?;
            done()
        }
        KeyCommand::List(KeyFile { file: Some(path) }) => {
            show(global, &path)?;
            done()
        }
        KeyCommand::List(KeyFile { file: None }) => ask(list(global)),
        KeyCommand::Install { file: KeyFile { file: Some(path) }, stdin, .. } => {
            let mut ring = Keyring::load(&path).map_err(refused)?;
            let id = match stdin {
                true => ring.install(&read_key()?),
                false => ring.install_new(),
            };
            let id = id.map_err(refused)?;
            ring.save(&path).map_err(refused)?;
            show(global, &path)?;
            let id = spell(id);
            hint(format_args!(
                "give every node this file, then on each: meridian key use {id} {}",
                path.display()
            ));
            done()
        }
        KeyCommand::Install { file: KeyFile { file: None }, stdin, ordered } => {
            let key = if stdin { read_key()? } else { String::new() };
            ask(install(global, key, ordered))
        }
        KeyCommand::Use { id, file: KeyFile { file: Some(path) }, .. } => {
            let mut ring = Keyring::load(&path).map_err(refused)?;
            let (id, before) = (parse_id(&id)?, ring.in_use());
            ring.use_key(id).map_err(refused)?;
            ring.save(&path).map_err(refused)?;
            show(global, &path)?;
            if before != id {
                let (before, path) = (spell(before), path.display());
                hint(format_args!(
                    "do the same on every node; when its sessions have expired: meridian key remove {before} {path}"
                ));
            }
            done()
        }
        KeyCommand::Use { id, file: KeyFile { file: None }, ordered } => {
            let id = spell(parse_id(&id)?);
            ask(take(global, id, ordered))
        }
        KeyCommand::Remove { id, file: KeyFile { file: Some(path) }, .. } => {
            let mut ring = Keyring::load(&path).map_err(refused)?;
            ring.remove(parse_id(&id)?).map_err(refused)?;
            ring.save(&path).map_err(refused)?;
            show(global, &path)?;
            done()
        }
        KeyCommand::Remove { id, file: KeyFile { file: None }, ordered } => {
            let id = spell(parse_id(&id)?);
            ask(remove(global, id, ordered))
        }
    }
}

fn new(global: &Global, path: &Path) -> Result<(), CliError> {
    if path.exists() {
        return Err(CliError::new(Exit::Conflict, format!("{} exists already", path.display()))
            .hint("a further key: meridian key install; another mesh: another file"));
    }
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)?;
    }
    Keyring::generate().save(path).map_err(refused)?;
    show(global, path)?;
    hint(format_args!("copy {} to every node (mode 0600): [mesh] key_file", path.display()));
    Ok(())
}

async fn list(global: &Global) -> Result<(), CliError> {
    let listed: KeyList = match global.client()?.json(Method::GET, "/v1/keys").await {
        Ok(listed) => listed,
        // No node runs here, and none was named: the file that one would use.
        Err(error) => {
            let path = global.data().join("mesh.key");
            return match !global.names_a_node() && path.exists() {
                true => show(global, &path),
                false => Err(error),
            };
        }
    };
    print(global, &listed)
}

/// Names the nodes whose files an order cannot reach, before it is given. What they would start with.
async fn caution(global: &Global) -> Result<KeyList, CliError> {
    let listed: KeyList = global.client()?.json(Method::GET, "/v1/keys").await?;
    for file in &listed.read_only {
        let (node, keys) = (&file.node, file.keys.join(", "));
        aside(format_args!(
            "caution: {node} cannot write its key file ({keys}): a restart takes what is in it; change it where it comes from"
        ));
    }
    Ok(listed)
}

async fn install(global: &Global, key: String, ordered: Ordered) -> Result<(), CliError> {
    caution(global).await?;
    let id = order(global, Method::POST, "/v1/keys", key).await?;
    let listed = follow(global, &id, &ordered, "have it", |key| key.nodes_with, |key| key.nodes).await?;
    print(global, &KeyList { key: Some(id.clone()), ..listed })?;
    hint(format_args!("meridian key use {id}  makes all nodes seal and sign with it"));
    Ok(())
}

async fn take(global: &Global, id: String, ordered: Ordered) -> Result<(), CliError> {
    let before = caution(global).await?;
    let path = format!("/v1/keys/{id}/use?force={}", ordered.force);
    let id = order(global, Method::POST, &path, String::new()).await?;
    let listed = follow(global, &id, &ordered, "use it", |key| key.nodes_using, |key| key.nodes).await?;
    print(global, &KeyList { key: Some(id.clone()), ..listed })?;
    if let Some(old) = before.keys.iter().find(|key| key.in_use && key.id != id) {
        hint(format_args!("meridian key remove {}  once the sessions that it sealed have expired", old.id));
    }
    Ok(())
}

async fn remove(global: &Global, id: String, ordered: Ordered) -> Result<(), CliError> {
    caution(global).await?;
    let path = format!("/v1/keys/{id}?force={}", ordered.force);
    let id = order(global, Method::DELETE, &path, String::new()).await?;
    let without = |key: &KeyEntry| key.lacking.len();
    let listed = follow(global, &id, &ordered, "are without it", without, |key| key.nodes).await?;
    print(global, &KeyList { key: Some(id), ..listed })
}

/// Gives an order; the key it is about.
async fn order(global: &Global, method: Method, path: &str, body: String) -> Result<String, CliError> {
    let body = Some(("text/plain", Bytes::from(body)));
    let answer = global.client()?.send(method, path, body, &[]).await?;
    let listed: KeyList = answer.success()?.parse()?;
    listed.key.ok_or_else(|| CliError::new(Exit::Failure, "the node does not say which key it means"))
}

/// Tells how far an order has come until all nodes that live have followed.
async fn follow(
    global: &Global,
    id: &str,
    ordered: &Ordered,
    what: &str,
    done: impl Fn(&KeyEntry) -> usize,
    all: impl Fn(&KeyEntry) -> usize,
) -> Result<KeyList, CliError> {
    let (client, clock) = (global.client()?, Clock::system());
    let latest = clock.now() + ordered.wait;
    let mut told = None;
    loop {
        let listed: KeyList = client.json(Method::GET, "/v1/keys").await?;
        // A key that nobody holds any more is no longer listed.
        let Some(key) = listed.keys.iter().find(|key| key.id == id) else { return Ok(listed) };
        let (done, all) = (done(key), all(key));
        if told.replace((done, all)) != Some((done, all)) {
            aside(format_args!("{done}/{all} nodes {what}"));
        }
        if done > 0 && done == all {
            return Ok(listed);
        }
        if clock.now() >= latest {
            let (lacking, silent) = (key.lacking.join(", "), silent(&listed));
            let error =
                format!("{done} of {all} nodes {what}{silent}; the others follow when they can ({lacking})");
            return Err(CliError::new(Exit::Timeout, error).hint("meridian key list  shows how far it is"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn print(global: &Global, listed: &KeyList) -> Result<(), CliError> {
    if global.output == Format::Json {
        return json(listed);
    }
    let row = |key: &KeyEntry| {
        let role = if key.in_use { "in use" } else { "accepted" };
        let lacking = if key.lacking.is_empty() { "-".into() } else { key.lacking.join(", ") };
        vec![
            key.id.clone(),
            role.into(),
            format!("{}/{}{}", key.nodes_with, key.nodes, silent(listed)),
            format!("{}/{}", key.nodes_using, key.nodes),
            lacking,
        ]
    };
    table(&["key", "role", "nodes with it", "using it", "without it"], listed.keys.iter().map(row));
    let notes = notes(listed);
    if !notes.is_empty() {
        line("");
    }
    notes.iter().for_each(|(sign, note)| item(sign, note));
    Ok(())
}

/// How many did not answer, behind how many did.
fn silent(listed: &KeyList) -> String {
    match listed.silent.len() {
        0 => String::new(),
        silent => format!(", {silent} did not answer"),
    }
}

/// Nodes on which a key's way is not over when all that live have it. Pure.
fn notes(listed: &KeyList) -> Vec<(&'static str, String)> {
    let said = |keys: &[String]| match keys {
        [] => "no key".to_owned(),
        keys => keys.join(", "),
    };
    let read_only = listed.read_only.iter().map(|KeysOf { node, keys }| {
        ("!", format!("{node} cannot write its key file: it would start anew with {}", said(keys)))
    });
    let away = listed.away.iter().map(|KeysOf { node, keys }| {
        ("?", format!("{node} is away, and was last heard with {}", said(keys)))
    });
    let silent = listed
        .silent
        .iter()
        .map(|node| ("?", format!("{node} did not answer: which keys it would start with is not known")));
    read_only.chain(away).chain(silent).collect()
}

fn read_key() -> Result<String, CliError> {
    let mut text = String::new();
    std::io::stdin().take(4096).read_to_string(&mut text)?;
    match text.trim() {
        "" => Err(CliError::new(Exit::Usage, "there is no key on standard input")),
        text => Ok(text.to_owned()),
    }
}

fn show(global: &Global, path: &Path) -> Result<(), CliError> {
    let ring = Keyring::load(path).map_err(refused)?;
    if global.output == Format::Json {
        let keys: Vec<_> = ring
            .key_ids()
            .into_iter()
            .map(|id| serde_json::json!({ "id": spell(id), "in_use": id == ring.in_use() }))
            .collect();
        return json(&serde_json::json!({ "file": path, "keys": keys }));
    }
    line(path.display());
    table(
        &["key", "role"],
        ring.key_ids()
            .into_iter()
            .map(|id| vec![spell(id), if id == ring.in_use() { "in use".into() } else { "accepted".into() }]),
    );
    Ok(())
}

fn parse_id(text: &str) -> Result<u32, CliError> {
    u32::from_str_radix(text, 16).map_err(|_| {
        CliError::new(Exit::Usage, format!("{text:?} is no key id"))
            .hint("ids are 8 hexadecimal digits: meridian key list")
    })
}

fn refused(error: KeyringError) -> CliError {
    CliError::new(Exit::Failure, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_come_back_with_other_keys_is_told() {
        let of = |node: &str, keys: &[&str]| KeysOf {
            node: node.into(),
            keys: keys.iter().map(|key| (*key).to_owned()).collect(),
        };
        let mut listed = KeyList {
            keys: Vec::new(),
            read_only: Vec::new(),
            away: Vec::new(),
            silent: Vec::new(),
            key: None,
        };
        assert!(notes(&listed).is_empty());
        listed.read_only.push(of("eu-1", &["0000000a", "0000000b"]));
        listed.away.push(of("us-1", &["0000000a"]));
        listed.away.push(of("us-2", &[]));
        let told: Vec<String> =
            notes(&listed).into_iter().map(|(sign, note)| format!("{sign} {note}")).collect();
        assert_eq!(
            told,
            [
                "! eu-1 cannot write its key file: it would start anew with 0000000a, 0000000b",
                "? us-1 is away, and was last heard with 0000000a",
                "? us-2 is away, and was last heard with no key",
            ]
        );
    }
}
