//! Nodes that know one seed each become one mesh, and nobody without the key gets in.

use anyhow::ensure;
use tests::cluster::{Cluster, node_at};
use tests::prove;
use tests::wait::secs;

#[test]
fn six_nodes_that_know_one_seed_each_agree_on_six_members() {
    prove!(Heavy, secs(120), async |stage| {
        let mut mesh = Cluster::empty(stage).await?;
        for region in ["eu", "us", "ap", "eu", "us", "ap"] {
            let node = mesh.add(region).await?;
            ensure!(node.seeds.len() <= 1, "{} was told more than one seed", node.name);
        }
        mesh.agree().await?;
        for status in mesh.statuses().await {
            ensure!(status.members.len() == 6, "{} shows {:?}", status.node, status.members);
            ensure!(status.revision.is_none(), "{} has a revision before the first apply", status.node);
            for member in &status.members {
                let region = member.name.split('-').next().unwrap_or_default();
                ensure!(member.region == region, "{} shows {member:?}", status.node);
                ensure!(!member.version.is_empty(), "{member:?}");
            }
        }

        // Somebody with a key of his own and the right address.
        let key = stage.folder().join("stranger.key");
        stage.cli().key_new(&key).await?;
        let seed = mesh.node("eu-1").mesh();
        let mut stranger = node_at(stage, 50, "stranger", "eu", vec![seed], Some(key));
        stranger.start().await?;
        stranger.says(&[&seed.to_string(), "key"], secs(20)).await?;

        let alone = stranger.cli().status().await?;
        ensure!(alone.members.len() == 1, "the stranger has company: {:?}", alone.members);
        mesh.agree().await?;
        for status in mesh.statuses().await {
            ensure!(status.member("stranger").is_err(), "{} knows the stranger", status.node);
        }
        Ok(())
    });
}
