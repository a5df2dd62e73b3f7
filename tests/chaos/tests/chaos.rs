//! All that may befall a mesh, in one run, with a table in the end and limits that fail it.
//!
//! Needs root: namespaces and TUN devices. `cargo test -p chaos --test chaos -- --nocapture` prints the table;
//! `MERIDIAN_CHAOS="kill a node"` plays only what begins so.

use std::path::Path;

use chaos::ground::unfit;
use chaos::story::{self, Story};
use chaos::table::render;

#[test]
fn what_befalls_a_mesh_costs_what_it_may() {
    if let Some(reason) = unfit() {
        return tests::stage::skip(&reason);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let rows = runtime.expect("a runtime").block_on(async {
        let program = Path::new(env!("CARGO_BIN_EXE_meridian-under-chaos"));
        let mut story = Story::begin(program).await.expect("the mesh starts");
        let mut rows = Vec::new();
        // The name, and what it plays.
        macro_rules! play {
            ($($name:literal => $scenario:ident),* $(,)?) => {$(
                let wanted = std::env::var("MERIDIAN_CHAOS").unwrap_or_default();
                if $name.starts_with(&wanted) {
                    match story::$scenario(&mut story).await {
                        Ok(row) => rows.push(row),
                        Err(error) => panic!("{}\n{error:?}", render(&rows)),
                    }
                }
            )*};
        }
        play! {
            "kill a node" => kill_a_node,
            "kill a region" => kill_a_region,
            "cut a region off" => cut_a_region,
            "cut in halves" => cut_in_halves,
            "one-way cut" => cut_one_way,
            "5 % loss" => lose_some,
            "30 % loss" => lose_many,
            "500 ms jitter" => jitter,
            "freeze 3 s" => freeze_shortly,
            "freeze 30 s" => freeze_long,
            "flapping backend" => flapping_backend,
            "restart loop" => restart_in_a_loop,
            "seeds gone" => seeds_gone,
        }
        rows
    });
    println!("{}", render(&rows));
    let excesses: Vec<String> = rows.iter().flat_map(chaos::table::Row::excesses).collect();
    assert!(excesses.is_empty(), "{}\n{}", render(&rows), excesses.join("\n"));
}
