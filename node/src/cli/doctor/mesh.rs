//! The mesh, as the node that is asked sees it.

use http::{Method, StatusCode};

use super::{Finding, fail, ok, warn};
use crate::admin::api::{Readiness, Status};
use crate::cli::client::Client;
use crate::cli::problems;

/// A round trip that is longer makes acknowledged sessions slow.
const RTT_LONG_MS: f64 = 300.0;

/// A clock that is farther off the mesh's is a problem that `status` tells.
const CLOCK_FINE_MS: u64 = 500;

/// What a node says of itself and of the mesh.
pub(super) struct Told {
    status: Status,
    readiness: Option<Readiness>,
}

/// Asks the node, if one answers.
pub(super) async fn ask(client: &Client) -> Option<Told> {
    let status = client.json::<Status>(Method::GET, "/v1/status").await.ok()?;
    let answer = client.send(Method::GET, "/readyz?verbose=1", None, &[]).await.ok();
    let told = answer
        .filter(|answer| answer.status.is_success() || answer.status == StatusCode::SERVICE_UNAVAILABLE);
    Some(Told { status, readiness: told.and_then(|answer| answer.parse().ok()) })
}

pub(super) fn look(told: Option<&Told>) -> Vec<Finding> {
    let Some(Told { status, readiness }) = told else {
        return vec![warn("node", "no node answers here", "meridian start; or name one with --node")];
    };
    let mut findings = vec![ok("node", format!("{} answers, version {}", status.node, status.version))];
    for check in readiness.iter().flat_map(|readiness| &readiness.checks).filter(|check| !check.ok) {
        findings.push(fail("ready", check.detail.clone(), "meridian healthcheck  shows all checks"));
    }
    findings.extend(peers(status));
    findings.extend(versions(status));
    findings.extend(clock(status));
    let told = problems::grouped(&status.problems, &status.members);
    let told = told.into_iter().filter(|problem| !problem.starts_with("node "));
    findings.extend(told.map(|problem| fail("status", problem, "meridian status  shows the whole")));
    findings
}

/// Every peer must be reached from here.
fn peers(status: &Status) -> Vec<Finding> {
    let others: Vec<_> =
        status.members.iter().filter(|member| member.name != status.node && member.state != "left").collect();
    let hint = "UDP of the mesh port and the one above must be open both ways";
    let mut findings: Vec<Finding> = others
        .iter()
        .filter_map(|member| match (member.state.as_str(), member.rtt_ms) {
            ("alive" | "draining", Some(rtt)) if rtt > RTT_LONG_MS => Some(warn(
                "peers",
                format!("{} is {rtt:.0} ms away", member.name),
                "sessions that cross wait for it",
            )),
            ("alive" | "draining", Some(_)) => None,
            ("alive" | "draining", None) => Some(fail(
                "peers",
                format!("{} ({}) lives, and cannot be reached from here", member.name, member.address),
                hint,
            )),
            (state, _) => {
                Some(fail("peers", format!("{} ({}) is {state}", member.name, member.address), hint))
            }
        })
        .collect();
    if findings.is_empty() {
        findings.push(match others.len() {
            0 => warn("peers", "this node is alone", "start a second one with --seed, or nobody takes over"),
            peers => ok("peers", format!("all {peers} are reached")),
        });
    }
    findings
}

/// How far this node's clock is off the mesh's; what is too much stands among the problems.
fn clock(status: &Status) -> Option<Finding> {
    let off = status.clock_behind_ms?.unsigned_abs();
    (off <= CLOCK_FINE_MS).then(|| ok("clock of the mesh", format!("{off} ms off this node's")))
}

fn versions(status: &Status) -> Option<Finding> {
    let versions: std::collections::BTreeSet<&str> = status
        .members
        .iter()
        .filter(|member| member.state == "alive")
        .map(|member| member.version.as_str())
        .collect();
    (versions.len() > 1).then(|| {
        let versions = Vec::from_iter(versions).join(", ");
        warn("versions", format!("the nodes run {versions}"), "meridian upgrade on those that lag behind")
    })
}
