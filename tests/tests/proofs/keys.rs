//! The mesh key: made by the first node, kept from others, and never guessed.

use std::os::unix::fs::PermissionsExt;

use anyhow::ensure;
use tests::cli::{code, text};
use tests::cluster::{Cluster, node_at};
use tests::prove;
use tests::wait::secs;

#[test]
fn a_key_is_made_once_readable_by_its_owner_alone() {
    prove!(Light, secs(60), async |stage| {
        let key = stage.folder().join("new.key");
        stage.cli().key_new(&key).await?;
        let mode = std::fs::metadata(&key)?.permissions().mode() & 0o777;
        ensure!(mode == 0o600, "the key has mode {mode:o}");
        let written = std::fs::read(&key)?;
        let ran = stage.cli().expect(code::CONFLICT, &["key", "new", text(&key)?]).await?;
        ran.must_say("new.key")?;
        ensure!(std::fs::read(&key)? == written, "an existing key was overwritten");

        // Without seeds there is nobody to ask: the node makes a key.
        let mut first = node_at(stage, 0, "eu-1", "eu", Vec::new(), None);
        first.start().await?;
        let made = first.data().join("mesh.key");
        let mode = std::fs::metadata(&made)?.permissions().mode() & 0o777;
        ensure!(mode == 0o600, "the key has mode {mode:o}");
        ensure!(!first.log().contains(std::fs::read_to_string(&made)?.trim()), "the key is in the log");

        // With seeds there is a mesh with a key, and this node does not have it.
        let second = node_at(stage, 1, "eu-2", "eu", vec![first.mesh()], None);
        let ran = stage.cli().finish(second.command()?).await?;
        ensure!(ran.code != code::OK, "it started without a key");
        ran.must_say("mesh.key")
    });
}

#[test]
fn a_key_that_others_can_read_or_that_is_none_is_refused() {
    prove!(Light, secs(60), async |stage| {
        let mut mesh = Cluster::empty(stage).await?;
        let key = mesh.key().to_owned();
        let command = mesh.place("eu").command()?;
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644))?;
        let ran = stage.cli().finish(command).await?;
        ensure!(ran.code != code::OK, "a key that everybody can read is used");
        ran.must_say("mesh.key")?;
        ran.must_say("chmod")?;

        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600))?;
        std::fs::write(&key, "no key at all\n")?;
        let ran = stage.cli().finish(mesh.node("eu-1").command()?).await?;
        ensure!(ran.code != code::OK, "a file that is no key is used");
        ran.must_say("mesh.key")
    });
}
