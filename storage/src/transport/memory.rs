//! A network in memory that can be cut.
use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

use super::*;

/// All nodes of one test.
#[derive(Default)]
pub(crate) struct Wires {
    inboxes: Mutex<HashMap<(NodeName, u8), mpsc::Sender<Incoming>>>,
    cut: Mutex<HashSet<NodeName>>,
}

/// One node's end.
#[derive(Clone)]
pub(crate) struct Plug {
    pub(crate) me: NodeName,
    pub(crate) wires: Arc<Wires>,
}

impl Wires {
    /// This node neither hears nor is heard.
    pub(crate) fn cut(&self, node: &NodeName) {
        self.cut.lock().unwrap().insert(node.clone());
    }

    pub(crate) fn mend(&self, node: &NodeName) {
        self.cut.lock().unwrap().remove(node);
    }

    fn send(&self, to: &NodeName, channel: Channel, incoming: Incoming) {
        assert!(incoming.bytes.len() <= channel.max_bytes, "too large for {}", channel.name);
        let cut = self.cut.lock().unwrap();
        if !cut.contains(to)
            && !cut.contains(&incoming.from)
            && let Some(inbox) = self.inboxes.lock().unwrap().get(&(to.clone(), channel.id))
        {
            let _ = inbox.try_send(incoming);
        }
    }
}

impl Transport for Plug {
    fn ask(&self, to: &NodeName, channel: Channel, bytes: Bytes, timeout: Duration) -> Answer {
        let (reply, answer) = tokio::sync::oneshot::channel();
        let reply: Reply = Box::new(move |bytes: Bytes| drop(reply.send(bytes)));
        self.wires.send(to, channel, Incoming { from: self.me.clone(), bytes, reply: Some(reply) });
        Box::pin(async move { tokio::time::timeout(timeout, answer).await.ok()?.ok() })
    }

    fn tell(&self, to: &NodeName, channel: Channel, bytes: Bytes) {
        self.wires.send(to, channel, Incoming { from: self.me.clone(), bytes, reply: None });
    }

    fn listen(&self, channel: Channel) -> Inbox {
        let (tx, rx) = mpsc::channel(channel.queue);
        self.wires.inboxes.lock().unwrap().insert((self.me.clone(), channel.id), tx);
        Inbox(Source::Memory(rx))
    }
}
