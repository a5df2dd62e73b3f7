//! What every node knows of itself alone, asked for when an operator wants the whole: requests in flight and ever, by
//! backend, and what troubles it. Not gossiped: the counts change with every request.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bincode::Options;
use bytes::Bytes;
use futures_util::future::join_all;
use gossip::id::BackendId;
use gossip::mesh::{Channel, Inbound, Mesh};
use gossip::state::{ClusterView, Member, MemberState};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::backend::Snapshot;

/// Version 2: a version byte, then bincode of [`Wire`]. Version 1 had no problems. Who asks says the version it speaks, and is
/// answered in it, or in the latest known here.
const CHANNEL: Channel = Channel { id: 32, name: "reports", max_bytes: 1 << 20, queue: 64 };
const VERSION: u8 = 2;
const VERSION_WITHOUT_PROBLEMS: u8 = 1;
/// How long a node may take to report; the others are shown without it.
const TIMEOUT: Duration = Duration::from_millis(500);
/// Problems told by one node, at most, and their length in characters.
const PROBLEMS_MAX: usize = 32;
const PROBLEM_MAX_CHARS: usize = 300;

/// What one node counts of one backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Load {
    pub(super) in_flight: u32,
    pub(super) requests: u64,
}

/// What one node says, or all together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Report {
    pub(super) loads: BTreeMap<BackendId, Load>,
    /// What troubles it that nobody else sees: ports it could not bind, a disk that lags behind.
    pub(super) problems: Vec<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Wire {
    loads: Vec<WireLoad>,
    problems: Vec<String>,
}

/// A backend, what it has in flight, and its requests ever.
type WireLoad = (u64, u32, u64);

/// Says what troubles this node.
type Problems = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// Asks the other nodes and answers them.
#[derive(Clone)]
pub(crate) struct Reports {
    mesh: Mesh,
    view: watch::Receiver<Arc<ClusterView>>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    problems: Problems,
}

impl Reports {
    /// Begins to answer on the tokio runtime this is called in.
    pub(crate) fn start(
        mesh: Mesh,
        view: watch::Receiver<Arc<ClusterView>>,
        snapshot: watch::Receiver<Arc<Snapshot>>,
        problems: Problems,
    ) -> Self {
        let reports = Self { mesh, view, snapshot, problems };
        let mut asked = reports.mesh.listen(CHANNEL);
        let answering = reports.clone();
        tokio::spawn(async move {
            while let Some(inbound) = asked.recv().await {
                if let Inbound::Exchange { bytes, reply, .. } = inbound {
                    reply.send(encode_for(&bytes, &answering.own()));
                }
            }
        });
        reports
    }

    /// The sum over this node and all living ones that answer in time; each problem with its node's name before it.
    pub(super) async fn collect(&self) -> Report {
        let peers: Vec<_> = {
            let view = self.view.borrow();
            view.members
                .values()
                .filter(|member| answers(member) && member.record.name != view.me)
                .cloned()
                .collect()
        };
        let asked = peers.iter().map(|peer| {
            self.mesh.exchange(&peer.record.name, CHANNEL, Bytes::from_static(&[VERSION]), TIMEOUT)
        });
        let answers = join_all(asked).await;
        let mut sum = self.own();
        let me = self.view.borrow().me.clone();
        sum.problems = sum.problems.iter().map(|problem| format!("{me}: {problem}")).collect();
        for (peer, answer) in peers.iter().zip(&answers) {
            let Some(report) = answer.as_ref().ok().and_then(|bytes| decode(bytes)) else { continue };
            for (id, load) in report.loads {
                let entry = sum.loads.entry(id).or_default();
                entry.in_flight = entry.in_flight.saturating_add(load.in_flight);
                entry.requests = entry.requests.saturating_add(load.requests);
            }
            let name = &peer.record.name;
            sum.problems.extend(report.problems.iter().map(|problem| format!("{name}: {problem}")));
        }
        sum
    }

    fn own(&self) -> Report {
        Report { loads: self.own_loads(), problems: (self.problems)() }
    }

    fn own_loads(&self) -> BTreeMap<BackendId, Load> {
        let snapshot = self.snapshot.borrow();
        let backends = snapshot.pools.values().flat_map(|pool| &pool.backends);
        backends
            .map(|backend| {
                let shared = &backend.shared;
                (backend.config.id, Load { in_flight: shared.in_flight(), requests: shared.requests() })
            })
            .collect()
    }
}

/// A suspect is not waited for: what it has in flight is about to fail anyway.
fn answers(member: &Member) -> bool {
    matches!(member.state, MemberState::Alive | MemberState::Draining)
}

fn options() -> impl Options {
    bincode::DefaultOptions::new().with_limit(CHANNEL.max_bytes as u64 - 1)
}

pub(crate) fn encode(report: &Report) -> Bytes {
    let wire = Wire { loads: wire_loads(report).collect(), problems: readable(&report.problems) };
    let mut bytes = vec![VERSION];
    // Too many backends for one answer: an empty report, which the asker shows as zeros.
    if let Ok(body) = options().serialize(&wire) {
        bytes.extend(body);
    }
    bytes.into()
}

/// The answer to a question, in the version of whoever asks.
fn encode_for(question: &[u8], report: &Report) -> Bytes {
    if question.first() != Some(&VERSION_WITHOUT_PROBLEMS) {
        return encode(report);
    }
    let loads: Vec<_> = wire_loads(report).collect();
    let mut bytes = vec![VERSION_WITHOUT_PROBLEMS];
    bytes.extend(options().serialize(&loads).unwrap_or_default());
    bytes.into()
}

fn wire_loads(report: &Report) -> impl Iterator<Item = WireLoad> + '_ {
    report.loads.iter().map(|(id, load)| (id.0, load.in_flight, load.requests))
}

/// What may be printed of it on somebody's terminal.
fn readable(problems: &[String]) -> Vec<String> {
    let line = |problem: &String| -> String {
        problem.chars().filter(|char| !char.is_control()).take(PROBLEM_MAX_CHARS).collect()
    };
    problems.iter().take(PROBLEMS_MAX).map(line).collect()
}

pub(crate) fn decode(bytes: &[u8]) -> Option<Report> {
    let (&version, body) = bytes.split_first()?;
    let wire: Wire = match version {
        VERSION => options().deserialize(body).ok()?,
        VERSION_WITHOUT_PROBLEMS => Wire { loads: options().deserialize(body).ok()?, problems: Vec::new() },
        _ => return None,
    };
    let load = |(id, in_flight, requests)| (BackendId(id), Load { in_flight, requests });
    Some(Report { loads: wire.loads.into_iter().map(load).collect(), problems: readable(&wire.problems) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_bytes() {
        let loads = BTreeMap::from([(BackendId(7), Load { in_flight: 3, requests: 300 })]);
        let report = Report { loads, problems: vec!["no".into()] };
        let bytes = encode(&report);
        assert_eq!(&bytes[..], [2, 1, 7, 3, 251, 44, 1, 1, 2, b'n', b'o']);
        assert_eq!(decode(&bytes), Some(report));
    }

    #[test]
    fn golden_bytes_of_the_version_before() {
        let loads = BTreeMap::from([(BackendId(7), Load { in_flight: 3, requests: 300 })]);
        let report = Report { loads, problems: vec!["no".into()] };
        let golden = [1, 1, 7, 3, 251, 44, 1];
        assert_eq!(decode(&golden), Some(Report { problems: Vec::new(), ..report.clone() }));
        assert_eq!(&encode_for(&[1], &report)[..], golden, "who speaks version 1 is answered in it");
        assert_eq!(encode_for(&[2], &report), encode(&report));
        assert_eq!(encode_for(&[3], &report), encode(&report), "who speaks a later one may know this one");
    }

    #[test]
    fn a_peer_cannot_play_with_a_terminal() {
        let wire = Wire { loads: Vec::new(), problems: vec!["\x1b[2Jx".repeat(200); 100] };
        let mut bytes = vec![VERSION];
        bytes.extend(options().serialize(&wire).unwrap());
        let problems = decode(&bytes).unwrap().problems;
        assert_eq!(problems.len(), PROBLEMS_MAX);
        assert!(
            problems.iter().all(|problem| problem.len() == PROBLEM_MAX_CHARS && !problem.contains('\x1b'))
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }
}
