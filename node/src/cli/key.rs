//! `meridian key new|list|install|use|remove`: the keyring file.
//!
//! These commands change the file on this machine; a node reads it when it starts.

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use gossip::keyring::{Keyring, KeyringError};

use super::exit::{CliError, Exit};
use super::output::{hint, json, line, table};
use super::{Format, Global};

#[derive(Debug, Args)]
pub(super) struct KeyFile {
    /// The keyring file. Default: mesh.key in the data folder.
    file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Make a keyring file with one fresh key. Copy the file to every node, over a channel that you trust.
    New(KeyFile),
    /// List the keys by id; the secrets are not shown.
    List(KeyFile),
    /// Add a further key: a fresh one, or one read from standard input. Peers with it are accepted from then on.
    Install {
        #[command(flatten)]
        file: KeyFile,
        /// Read the key from standard input instead of making one, as its line in another keyring file gives it.
        #[arg(long)]
        stdin: bool,
    },
    /// Choose the key that seals and signs; install it on every node first.
    Use {
        /// Its id, from `key list`.
        id: String,
        #[command(flatten)]
        file: KeyFile,
    },
    /// Take a key out; not the one in use.
    Remove {
        /// Its id, from `key list`.
        id: String,
        #[command(flatten)]
        file: KeyFile,
    },
}

pub(super) fn run(global: &Global, command: KeyCommand) -> Result<ExitCode, CliError> {
    let path = |file: &KeyFile| file.file.clone().unwrap_or_else(|| global.data().join("mesh.key"));
    match command {
        KeyCommand::New(file) => {
            let path = path(&file);
            if path.exists() {
                return Err(CliError::new(Exit::Conflict, format!("{} exists already", path.display()))
                    .hint("a further key: meridian key install; another mesh: another file"));
            }
            if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
                std::fs::create_dir_all(folder)?;
            }
            Keyring::generate().save(&path).map_err(refused)?;
            show(global, &path)?;
            hint(format_args!("copy {} to every node (mode 0600): [mesh] key_file", path.display()));
        }
        KeyCommand::List(file) => show(global, &path(&file))?,
        KeyCommand::Install { file, stdin } => {
            let path = path(&file);
            let mut ring = Keyring::load(&path).map_err(refused)?;
            let exported = if stdin {
                let mut text = String::new();
                std::io::stdin().take(4096).read_to_string(&mut text)?;
                text
            } else {
                let fresh = Keyring::generate();
                fresh.export(fresh.in_use()).unwrap_or_default()
            };
            let id = ring.install(exported.trim()).map_err(refused)?;
            ring.save(&path).map_err(refused)?;
            show(global, &path)?;
            hint(format_args!(
                "give every node this file and restart it, then: meridian key use {}",
                spell(id)
            ));
        }
        KeyCommand::Use { id, file } => {
            let path = path(&file);
            let mut ring = Keyring::load(&path).map_err(refused)?;
            let id = parse_id(&id)?;
            let before = ring.in_use();
            ring.use_key(id).map_err(refused)?;
            ring.save(&path).map_err(refused)?;
            show(global, &path)?;
            if before != id {
                let before = spell(before);
                hint(format_args!(
                    "do the same on every node and restart it, then: meridian key remove {before}"
                ));
            }
        }
        KeyCommand::Remove { id, file } => {
            let path = path(&file);
            let mut ring = Keyring::load(&path).map_err(refused)?;
            ring.remove(parse_id(&id)?).map_err(refused)?;
            ring.save(&path).map_err(refused)?;
            show(global, &path)?;
            hint("in force on a node when it is restarted");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show(global: &Global, path: &std::path::Path) -> Result<(), CliError> {
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

fn spell(id: u32) -> String {
    format!("{id:08x}")
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
