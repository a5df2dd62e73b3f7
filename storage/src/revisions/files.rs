//! The current revision as plain files, each written whole or not at all.
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gossip::id::RevisionId;

use super::Revision;
use crate::Validate;
use crate::revision::{History, shelf_key};

const WHOLE: &str = "services.revision";
const BODY: &str = "services.toml";
/// The one before, for a start that does without the current one: the store may not have it on the medium yet.
const BEFORE: &str = "services.before";

/// Writes and syncs the revision and, for people, its body. Both are whole on the medium before either is put in place, so
/// that a full disk changes nothing. What is `left_out` never becomes the one before.
pub(crate) fn write(data: &Path, revision: &Revision, left_out: Option<RevisionId>) -> io::Result<()> {
    stage(data, BODY, revision.body.as_bytes())?;
    stage(data, WHOLE, &revision.encode())?;
    let before = fs::read(data.join(WHOLE)).ok().and_then(|bytes| Revision::decode(&bytes).ok());
    if before.is_some_and(|before| before.id != revision.id && Some(before.id) != left_out) {
        let linked = staged(data, BEFORE);
        let _ = fs::remove_file(&linked);
        fs::hard_link(data.join(WHOLE), &linked)?;
        fs::rename(linked, data.join(BEFORE))?;
    }
    for name in [WHOLE, BODY] {
        fs::rename(staged(data, name), data.join(name))?;
    }
    File::open(data)?.sync_all()
}

/// The history from the store's shelf and the current revision's file. What cannot be read is left out and reported;
/// what this version of the program finds invalid does not become current, nor, where there is another one, what the last life
/// died of: that one is given apart.
pub(crate) fn load(
    data: &Path,
    shelf: &[(Vec<u8>, Vec<u8>)],
    validate: &Validate,
    died_of: Option<RevisionId>,
) -> (History, Option<Arc<Revision>>) {
    let mut history = History::default();
    let file = match fs::read(data.join(WHOLE)) {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::error!(file = WHOLE, %error, "cannot read the current revision");
            None
        }
    };
    let mut revisions: Vec<Arc<Revision>> = Vec::new();
    for (key, bytes) in shelf {
        match Revision::decode(bytes) {
            Ok(revision) if shelf_key(&revision.id) == *key => revisions.push(Arc::new(revision)),
            _ => tracing::warn!("a revision in the history cannot be read"),
        }
    }
    match file.as_deref().map(Revision::decode) {
        Some(Ok(revision)) => revisions.push(Arc::new(revision)),
        Some(Err(error)) => tracing::error!(file = WHOLE, %error, "the current revision cannot be read"),
        None => {}
    }
    let before = fs::read(data.join(BEFORE)).ok().and_then(|bytes| Revision::decode(&bytes).ok());
    revisions.extend(before.clone().map(Arc::new));
    revisions.sort_by_key(|revision| revision.id);
    let newest = revisions.last().map(|newest| newest.id);
    let left_out = died_of.filter(|died_of| newest <= Some(*died_of)).and_then(|died_of| {
        // Not what came between: it may have been left out as well.
        let last = before.map(|before| before.id).filter(|before| *before < died_of);
        let runs =
            |revision: &&Arc<Revision>| revision.id < died_of && last.is_none_or(|last| revision.id <= last);
        let instead =
            revisions.iter().rev().filter(runs).find(|revision| validate(&revision.body).is_ok())?.id;
        let left_out = revisions.iter().find(|revision| revision.id == died_of).cloned();
        revisions.retain(|revision| revision.id <= instead);
        left_out
    });
    while let Some(newest) = revisions.last()
        && let Err(reason) = validate(&newest.body)
    {
        tracing::error!(revision = %newest.id, reason, "a stored revision is not valid for this version");
        revisions.pop();
    }
    revisions.into_iter().for_each(|revision| drop(history.keep(revision)));
    let readable = file.is_some_and(|bytes| Revision::decode(&bytes).is_ok());
    if !readable && let Some(current) = history.current() {
        // The next start may not have a store to fall back on (I12).
        match write(data, current, None) {
            Ok(()) => tracing::info!(revision = %current.id, file = WHOLE, "written anew from the history"),
            Err(error) => tracing::error!(file = WHOLE, %error, "cannot write the current revision"),
        }
    }
    (history, left_out)
}

fn stage(data: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(staged(data, name))?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn staged(data: &Path, name: &str) -> PathBuf {
    data.join(format!(".{name}.new"))
}
