//! What each node says, looked at again and again from its own host: its status, and its DNS answers to each region's users.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tests::client::Browser;
use tests::dns::resolve;
use tests::net::{ADMIN, DNS};
use tests::services::{NAME, REGIONS};
use tests::status::Status;
use tokio::time::{sleep, timeout};

const PAUSE: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(1);

/// What a node said last; nothing when it does not answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    pub status: Option<Status>,
    /// By the users' region.
    pub answers: BTreeMap<&'static str, BTreeSet<Ipv4Addr>>,
}

impl View {
    /// What is not as it should be, in a line.
    pub(crate) fn summary(&self) -> String {
        let Some(status) = &self.status else { return "it does not answer".to_owned() };
        let members: Vec<String> =
            status.members.iter().map(|member| format!("{} {}", member.name, member.state)).collect();
        let backends =
            status.pools.iter().flat_map(|pool| &pool.backends).filter(|backend| backend.state != "up");
        let backends: Vec<String> =
            backends.map(|backend| format!("{} {}", backend.address, backend.state)).collect();
        format!(
            "{} sees {}; backends that are not up: {backends:?}; problems: {:?}; its answers: {:?}",
            status.node,
            members.join(", "),
            status.problems,
            self.answers
        )
    }
}

/// By the node's name.
pub(crate) type Views = Arc<Mutex<BTreeMap<String, View>>>;

/// Looks at a node from its own host until the runtime ends.
pub(crate) async fn watch(name: String, address: Ipv4Addr, views: Views) {
    let admin = (Ipv4Addr::LOCALHOST, ADMIN).into();
    loop {
        let mut browser = Browser::new().host(&format!("127.0.0.1:{ADMIN}")).closing();
        let asked = timeout(PATIENCE, browser.get(admin, "/v1/status")).await;
        let status =
            asked.ok().and_then(Result::ok).and_then(|reply| serde_json::from_slice(&reply.body).ok());
        let mut answers = BTreeMap::new();
        for (region, _, _, users) in REGIONS {
            let asked = timeout(PATIENCE, resolve((address, DNS).into(), NAME, users)).await;
            if let Ok(Ok(answer)) = asked {
                answers.insert(region, answer.ipv4().collect());
            }
        }
        let view = View { status, answers };
        views.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), view);
        sleep(PAUSE).await;
    }
}
