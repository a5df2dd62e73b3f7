//! What the demo's nodes and name servers say at one moment. Each kind of question has its own loop, so that a slow
//! answer to one does not date the others.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use http::Method;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::plan::{DNS_PORT, HOST, Node, Plan};
use super::shopper::subnet;
use super::story::Seen;
use crate::admin::api::{MemberStatus, PoolStatus};
use crate::cli::client::{Client, Endpoint};

/// How long a node may take to be part of the picture.
const PATIENCE: Duration = Duration::from_millis(800);
/// The pause between two rounds of the same question.
const EVERY: Duration = Duration::from_millis(50);

/// A client of a node's admin port.
pub(super) fn client(node: &Node) -> Client {
    Client::of(Endpoint::Tcp(node.admin()))
}

/// Asks the running nodes for as long as it exists.
#[derive(Debug)]
pub(super) struct Observer {
    seen: watch::Receiver<Seen>,
    running: watch::Sender<Vec<Node>>,
    _loops: JoinSet<()>,
}

impl Observer {
    /// Begins with all nodes of the plan.
    pub(super) fn start(plan: Plan) -> Self {
        let (running, nodes) = watch::channel(plan.nodes().cloned().collect::<Vec<_>>());
        let (sender, seen) = watch::channel(Seen::default());
        let (sender, plan) = (Arc::new(sender), Arc::new(plan));
        let mut loops = JoinSet::new();
        loops.spawn(members(nodes.clone(), sender.clone()));
        loops.spawn(addresses(plan, nodes.clone(), sender.clone()));
        loops.spawn(backends(nodes, sender));
        Self { seen, running, _loops: loops }
    }

    /// Says which nodes run: the others are not asked.
    pub(super) fn set_running(&self, nodes: Vec<Node>) {
        self.running.send_replace(nodes);
    }

    /// Waits for something new.
    pub(super) async fn changed(&mut self) {
        if self.seen.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// What was seen last.
    pub(super) fn seen(&mut self) -> watch::Ref<'_, Seen> {
        self.seen.borrow_and_update()
    }
}

async fn members(nodes: watch::Receiver<Vec<Node>>, seen: Arc<watch::Sender<Seen>>) {
    loop {
        let asked = nodes.borrow().clone();
        let answers = join_all(asked.iter().map(async |node| {
            let client = client(node);
            let asked = client.json::<Vec<MemberStatus>>(Method::GET, "/v1/members");
            let members = tokio::time::timeout(PATIENCE, asked).await.ok()?.ok()?;
            let states = members.into_iter().map(|member| (member.name, member.state));
            Some((node.name.clone(), states.collect()))
        }));
        let answers = answers.await.into_iter().flatten().collect();
        seen.send_modify(|seen| seen.members = answers);
        tokio::time::sleep(EVERY).await;
    }
}

async fn addresses(plan: Arc<Plan>, nodes: watch::Receiver<Vec<Node>>, seen: Arc<watch::Sender<Seen>>) {
    loop {
        let asked = nodes.borrow().clone();
        let questions = asked.iter().flat_map(|node| plan.regions.iter().map(move |region| (node, region)));
        let answers = join_all(questions.map(async |(node, region)| {
            let (network, bits) = region.users();
            let asked = dns::addresses(node.at(DNS_PORT), HOST, subnet(network, bits), PATIENCE);
            Some(((node.name.clone(), region.name), asked.await.ok()?))
        }));
        let answers = answers.await.into_iter().flatten().collect();
        seen.send_modify(|seen| seen.dns = answers);
        tokio::time::sleep(EVERY).await;
    }
}

/// Any node answers for all: the first that runs.
async fn backends(nodes: watch::Receiver<Vec<Node>>, seen: Arc<watch::Sender<Seen>>) {
    loop {
        let asked = nodes.borrow().first().cloned();
        if let Some(node) = asked {
            let client = client(&node);
            let asked = client.json::<Vec<PoolStatus>>(Method::GET, "/v1/pools");
            if let Ok(Ok(pools)) = tokio::time::timeout(PATIENCE, asked).await {
                let backends = pools.into_iter().flat_map(|pool| pool.backends);
                let states = backends.map(|backend| (backend.address, backend.state)).collect();
                seen.send_modify(|seen| seen.backends = states);
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}
