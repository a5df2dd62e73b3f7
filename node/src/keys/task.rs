//! The keeper: the one task that owns the ring.
//!
//! ```text
//!   exchange  version 1 │ 1 get │ id 4     ─▶ version 1 │ the exported key, or nothing: not held, or not for peers
//!                     and that of `stored.rs`
//! ```
//!
//! It may be stopped at any point: the ring is in the file, and orders are followed anew at the next start. What cannot be
//! written is in force all the same, told as a problem and tried again: a node without the key of its peers has no peers.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use gossip::clock::{Wall, ticks};
use gossip::id::NodeName;
use gossip::keyring::{Keyring, KeyringError};
use gossip::mesh::{Channel, Inbound};
use storage::intents::{Order as Given, Target};
use tokio::sync::mpsc;

use super::file::KeyFile;
use super::plan::Removal;
use super::stored::{self, Stored};
use super::{KeysConfig, KeysError, Order, Shown, Wish, plan, spell};

pub(super) const CHANNEL: Channel = Channel { id: 33, name: "mesh keys", max_bytes: 256, queue: 64 };
pub(super) const VERSION: u8 = 1;
const GET: u8 = 1;
/// How often the file is looked at, and what is missing asked for again.
const LOOK: Duration = Duration::from_secs(1);
const FETCH_TIMEOUT: Duration = Duration::from_secs(3);

struct Keeper {
    config: KeysConfig,
    file: KeyFile,
    ring: Keyring,
    /// Since when the first key of the ring is in use here.
    since: Wall,
    shown: Arc<ArcSwap<Shown>>,
    /// What is wrong with the file.
    trouble: Option<String>,
    unsaved: bool,
    /// Whom to ask next for what is missing.
    turn: usize,
}

pub(super) async fn run(config: KeysConfig, mut waiting: mpsc::Receiver<Order>, shown: Arc<ArcSwap<Shown>>) {
    let mut asked = config.gossip.mesh().listen(CHANNEL);
    let mut orders = config.intents.watch();
    let file = KeyFile::new(config.path.clone());
    let since = file.changed_at().unwrap_or_else(|| config.clock.wall());
    let ring = config.ring.clone();
    let mut keeper = Keeper { config, file, ring, since, shown, trouble: None, unsaved: false, turn: 0 };
    keeper.certify();
    let mut look = ticks(LOOK);
    loop {
        tokio::select! {
            Some(order) = waiting.recv() => {
                let done = keeper.order(order.wish, order.force).await;
                // Who no longer waits sees it in the list.
                let _ = order.reply.send(done);
            }
            Some(inbound) = asked.recv() => keeper.answer(inbound),
            Ok(()) = orders.changed() => {}
            _ = look.tick() => keeper.look(),
        }
        keeper.follow().await;
        keeper.show();
    }
}

impl Keeper {
    async fn order(&mut self, wish: Wish, force: bool) -> Result<u32, KeysError> {
        let (view, now) = (self.config.gossip.view().borrow().clone(), self.config.clock.mesh_wall());
        let own = self.ring.key_ids();
        let (id, target, order) = match wish {
            Wish::Install(exported) => {
                let mut ring = self.ring.clone();
                let id = match exported.map(|text| ring.install(&text)) {
                    // It came by file before: now all are to have it.
                    Some(Err(KeyringError::Known(id))) => id,
                    Some(installed) => installed?,
                    None => ring.install_new()?,
                };
                // On disk before anybody hears of it.
                self.file.save(&ring)?;
                self.put(ring);
                (id, Target::Key(id), Given::InstallKey)
            }
            Wish::Use(id) => {
                plan::may_use(id, &own, &view, force)?;
                (id, Target::Mesh, Given::UseKey(id))
            }
            Wish::Remove(id, files) => {
                let longest = plan::longest(&self.config.snapshot.borrow().services);
                let removal = Removal { now, longest, orders: &self.config.intents.list(), force };
                plan::may_remove(id, &own, &view, removal)?;
                if !force {
                    plan::may_lose(id, &own, &files)?;
                }
                (id, Target::Key(id), Given::RemoveKey)
            }
        };
        tracing::info!(key = spell(id), ?order, force, "an operator's order about mesh keys");
        self.config.intents.set(target, order).await?;
        Ok(id)
    }

    /// Carries out what the orders want.
    async fn follow(&mut self) {
        let orders = self.config.intents.list();
        let steps = plan::steps(&self.ring.key_ids(), &orders);
        let mut ring = self.ring.clone();
        for (id, by) in steps.fetch {
            if let Some(exported) = self.fetch(id, by).await {
                match ring.install(&exported) {
                    Ok(got) if got == id => {}
                    Ok(got) => drop(ring.remove(got)),
                    Err(error) => tracing::error!(key = spell(id), %error, "an installed key is not taken"),
                }
            }
        }
        if steps.take.is_some() || !steps.drop.is_empty() || ring != self.ring {
            // What was just fetched may be what is to be used.
            let steps = plan::steps(&ring.key_ids(), &orders);
            if let Some(id) = steps.take
                && let Err(error) = ring.use_key(id)
            {
                tracing::error!(key = spell(id), %error, "a key is not taken into use");
            }
            for id in steps.drop {
                if let Err(error) = ring.remove(id) {
                    tracing::error!(key = spell(id), %error, "a key is not removed");
                }
            }
        }
        if ring != self.ring {
            self.put(ring);
            self.unsaved = true;
        }
        if self.unsaved {
            self.save();
        }
    }

    fn save(&mut self) {
        match self.file.save(&self.ring) {
            Ok(()) => (self.unsaved, self.trouble) = (false, None),
            Err(error) => {
                let trouble =
                    format!("{error}; the keys are in force, but a restart takes those in the file");
                self.tell(trouble);
            }
        }
    }

    /// Takes over what somebody wrote into the file.
    fn look(&mut self) {
        match self.file.look() {
            None => {}
            Some(Ok(ring)) => {
                (self.unsaved, self.trouble) = (false, None);
                if ring != self.ring {
                    let keys: Vec<_> = ring.key_ids().into_iter().map(spell).collect();
                    tracing::info!(file = %self.file.path().display(), ?keys, "the keyring file changed and is in force");
                    self.put(ring);
                }
            }
            Some(Err(error)) => self.tell(format!("{error}; the keys read before stay in force")),
        }
    }

    /// Puts a ring in force.
    fn put(&mut self, ring: Keyring) {
        if ring.in_use() != self.ring.in_use() {
            self.since = self.config.clock.mesh_wall();
        }
        self.ring = ring;
        // First who opens and verifies: nothing is sealed for a peer that this node itself could not open.
        (self.config.apply)(&self.ring);
        self.certify();
    }

    /// Has the node's certificate made from the ring, and tells the mesh which keys there are.
    fn certify(&self) {
        if let Err(error) = self.config.gossip.set_keyring(self.ring.clone(), self.since) {
            tracing::error!(%error, "no certificate can be made from the new keyring; the old one stays");
        }
    }

    async fn fetch(&mut self, id: u32, by: NodeName) -> Option<String> {
        let from = {
            let view = self.config.gossip.view().borrow().clone();
            let holds = view.members.values().filter(|member| {
                member.counts() && member.record.name != view.me && member.record.keys.contains(&id)
            });
            let mut from: Vec<_> = holds.map(|member| member.record.name.clone()).collect();
            if from.is_empty() && by != view.me {
                from.push(by);
            }
            self.turn = self.turn.wrapping_add(1);
            from.get(self.turn % from.len().max(1)).cloned()?
        };
        let question = [&[VERSION, GET][..], &id.to_le_bytes()].concat();
        let answer = self.config.gossip.mesh().exchange(&from, CHANNEL, question.into(), FETCH_TIMEOUT).await;
        let exported = answer.ok().as_deref().and_then(read);
        if exported.is_none() {
            tracing::debug!(key = spell(id), peer = %from, "has no such key for this node, or did not answer");
        }
        exported
    }

    fn answer(&self, inbound: Inbound) {
        let Inbound::Exchange { bytes, reply, .. } = inbound else { return };
        if stored::is_asked(&bytes) {
            let me = self.config.gossip.view().borrow().me.clone();
            return reply.send(stored::spell(&Stored::here(me, self.file.path())));
        }
        let Some(id) = asks_for(&bytes) else { return };
        let given = plan::is_installed(id, &self.config.intents.list());
        let exported = self.ring.export(id).filter(|_| given);
        reply.send(exported.map_or(Bytes::new(), |text| [&[VERSION][..], text.as_bytes()].concat().into()));
    }

    fn show(&self) {
        let shown = Shown { keys: self.ring.key_ids(), problems: self.trouble.iter().cloned().collect() };
        if **self.shown.load() != shown {
            self.shown.store(Arc::new(shown));
        }
    }

    /// Each trouble once in the log, and in `status` while it lasts.
    fn tell(&mut self, trouble: String) {
        if self.trouble.as_ref() != Some(&trouble) {
            tracing::error!(trouble, "the keyring file");
            self.trouble = Some(trouble);
        }
    }
}

fn asks_for(bytes: &[u8]) -> Option<u32> {
    let id = bytes.strip_prefix(&[VERSION, GET])?;
    Some(u32::from_le_bytes(id.try_into().ok()?))
}

fn read(bytes: &[u8]) -> Option<String> {
    let text = bytes.strip_prefix(&[VERSION])?;
    std::str::from_utf8(text).ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_bytes_of_version_1() {
        assert_eq!(asks_for(&[1, 1, 2, 1, 0, 0]), Some(0x0102));
        assert_eq!(asks_for(&[1, 1, 2, 1, 0]), None);
        assert_eq!(asks_for(&[2, 1, 2, 1, 0, 0]), None);
        assert_eq!(read(b"\x01mk1-AAAA").as_deref(), Some("mk1-AAAA"));
        assert_eq!(read(b""), None);
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = (asks_for(&bytes), read(&bytes));
        }
    }
}
