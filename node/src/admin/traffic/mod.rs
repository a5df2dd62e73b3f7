//! Who the users are and how they are served, over the whole mesh: each node counts by itself and is asked when somebody
//! looks.
//!
//! ```text
//!   proxy, name server ──(every second)──▶ Pulse: the last two minutes      ┐
//!   proxy: services, networks ─────────────────────────────────────────────┴▶ Account ──exchange──▶ sum over the nodes
//! ```

mod account;
mod pulse;
pub(super) mod routes;
mod sum;

pub(crate) use self::account::{decode, encode};

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use gossip::id::NodeName;
use gossip::mesh::{Channel, Inbound, Mesh};
use gossip::state::{ClusterView, MemberState};
use tokio::sync::watch;

use self::account::Account;
use self::pulse::Pulse;
use crate::proxy::ProxyHandle;

/// Version 1: a version byte, then bincode of the account.
const CHANNEL: Channel = Channel { id: 33, name: "traffic", max_bytes: 256 * 1024, queue: 64 };
/// How long a node may take to answer; the others are shown without it.
const TIMEOUT: Duration = Duration::from_millis(500);

/// What this node counts, and the way to what the others do. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Traffic {
    mesh: Mesh,
    view: watch::Receiver<Arc<ClusterView>>,
    proxy: Arc<ProxyHandle>,
    pulse: Arc<Pulse>,
}

impl Traffic {
    /// Begins to count seconds and to answer other nodes, on the tokio runtime this is called in.
    pub(crate) fn start(
        mesh: Mesh,
        view: watch::Receiver<Arc<ClusterView>>,
        proxy: Arc<ProxyHandle>,
        dns: Option<Arc<dns::Responder>>,
    ) -> Self {
        let pulse = Arc::new(Pulse::default());
        tokio::spawn(pulse::beat(pulse.clone(), proxy.clone(), dns));
        let traffic = Self { mesh, view, proxy, pulse };
        let mut asked = traffic.mesh.listen(CHANNEL);
        let answering = traffic.clone();
        tokio::spawn(async move {
            while let Some(inbound) = asked.recv().await {
                if let Inbound::Exchange { reply, .. } = inbound {
                    reply.send(encode(&answering.own()));
                }
            }
        });
        traffic
    }

    /// What all nodes count that answer in time, and the names of those that do not.
    async fn collect(&self) -> (Vec<Account>, Vec<NodeName>) {
        let peers: Vec<NodeName> = {
            let view = self.view.borrow();
            let speak = |state| matches!(state, MemberState::Alive | MemberState::Draining);
            let peers = view.members.values().filter(|m| speak(m.state) && m.record.name != view.me);
            peers.map(|member| member.record.name.clone()).collect()
        };
        let question = Bytes::from_static(&[account::VERSION]);
        let asked = peers.iter().map(|peer| self.mesh.exchange(peer, CHANNEL, question.clone(), TIMEOUT));
        let answers = join_all(asked).await;
        let mut accounts = vec![self.own()];
        let mut silent = Vec::new();
        for (peer, answer) in peers.into_iter().zip(answers) {
            match answer.ok().and_then(|bytes| decode(&bytes)) {
                Some(account) => accounts.push(account),
                None => silent.push(peer),
            }
        }
        (accounts, silent)
    }

    fn own(&self) -> Account {
        let (node, region) = {
            let view = self.view.borrow();
            let region = view.own().map(|own| own.record.region.to_string()).unwrap_or_default();
            (view.me.to_string(), region)
        };
        Account::of(node, region, &self.proxy, self.pulse.seconds())
    }
}
