//! Two versions side by side: new users are split, and each stays on the version first met.

use anyhow::{Result, ensure};
use tests::backend::{HttpBackend, Seen, http_backends};
use tests::client::Browser;
use tests::cluster::Cluster;
use tests::load::all_visit;
use tests::prove;
use tests::services::{HTTP_CHECK, STICKY_COOKIE, Services};
use tests::wait::secs;

const USERS: usize = 10_000;
const AT_ONCE: usize = 32;

/// Three backends of the first version, then three of the second.
const VERSIONS: [(&str, usize); 6] = [("eu", 1), ("us", 1), ("ap", 1), ("eu", 1), ("us", 1), ("ap", 1)];

fn services(backends: &[HttpBackend], split: &str) -> Services {
    let (v1, v2) = backends.split_at(3);
    Services::new()
        .http_listener()
        .service("web", split, STICKY_COOKIE)
        .pool("web-v1", HTTP_CHECK, v1)
        .pool("web-v2", HTTP_CHECK, v2)
}

fn version<'a>(backends: &[HttpBackend], seen: &'a Seen) -> &'a str {
    let index = backends.iter().position(|backend| backend.id() == seen.backend);
    if index.is_some_and(|index| index < 3) { "web-v1" } else { "web-v2" }
}

/// So many visits, a share through each node.
async fn everybody(mesh: &Cluster<'_>, users: &mut [Browser], shift: usize) -> Result<Vec<Seen>> {
    let targets: Vec<_> = mesh.running().map(|node| node.http()).collect();
    let share = users.len().div_ceil(targets.len());
    let mut seen = Vec::new();
    for (index, group) in users.chunks_mut(share).enumerate() {
        seen.extend(all_visit(group, targets[(index + shift) % targets.len()], AT_ONCE).await?);
    }
    Ok(seen)
}

#[test]
fn ten_thousand_new_users_are_split_ninety_to_ten_and_none_changes_version() {
    prove!(Heavy, secs(240), async |stage| {
        let backends = http_backends(&stage.net, &VERSIONS).await?;
        let mesh = Cluster::of(stage, &[("eu", 1), ("us", 1), ("ap", 1)]).await?;
        mesh.apply("eu-1", &services(&backends, "web-v1 = 90, web-v2 = 10")).await?;
        mesh.healthy().await?;

        let mut users: Vec<Browser> = (0..USERS).map(|_| Browser::new().closing()).collect();
        let first = everybody(&mesh, &mut users, 0).await?;
        let new = first.iter().filter(|seen| version(&backends, seen) == "web-v2").count();
        let (least, most) = (USERS * 8 / 100, USERS * 12 / 100);
        ensure!((least..=most).contains(&new), "{new} of {USERS} new users met the new version");

        // All again, through the node of another region; then many after the split was turned round.
        let again = everybody(&mesh, &mut users, 1).await?;
        let stayed = |other: &[Seen]| {
            let pairs = first.iter().zip(other);
            pairs.filter(|(was, is)| version(&backends, was) != version(&backends, is)).count()
        };
        ensure!(stayed(&again) == 0, "{} users changed version", stayed(&again));
        mesh.apply("ap-1", &services(&backends, "web-v1 = 10, web-v2 = 90")).await?;
        let later = everybody(&mesh, &mut users[..2000], 0).await?;
        ensure!(stayed(&later) == 0, "{} users changed version with the split", stayed(&later));
        let mut newcomers: Vec<Browser> = (0..500).map(|_| Browser::new().closing()).collect();
        let seen = everybody(&mesh, &mut newcomers, 0).await?;
        let new = seen.iter().filter(|seen| version(&backends, seen) == "web-v2").count();
        ensure!((400..=490).contains(&new), "{new} of 500 newcomers met the new version");
        Ok(())
    });
}
