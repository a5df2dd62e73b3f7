//! What is to be done about keys, and what speaks against it. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use gossip::clock::Wall;
use gossip::id::NodeName;
use gossip::state::{ClusterView, Member, MemberState};
use storage::intents::{Intent, IntentMap, Order, Target};

use super::stored::{Files, Stored};
use crate::config::model::Services;

/// Clocks of nodes may differ by this much before a session is taken for expired.
const CLOCKS_DIFFER: Duration = Duration::from_secs(5);

/// One key, as the mesh holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyState {
    /// Its id.
    pub(crate) id: u32,
    /// Whether any living node seals and signs with it, as far as is known.
    pub(crate) in_use: bool,
    /// Living nodes that seal and sign with it.
    pub(crate) used_by: Vec<NodeName>,
    /// Living nodes that hold it, those that use it too.
    pub(crate) held_by: Vec<NodeName>,
    /// Living nodes that do not.
    pub(crate) lacking: Vec<NodeName>,
    /// Living nodes that were asked and did not answer: of them nobody knows.
    pub(crate) unknown: Vec<NodeName>,
}

/// What speaks against an order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Objection {
    /// Nobody here holds it.
    #[error("the mesh has no key {0:08x}; `meridian key list` shows which it has")]
    Unknown(u32),
    /// Nodes would lose their peers.
    #[error("{} of {of} nodes have key {id:08x}, {} not yet; wait, or say --force", .of - .lacking.len(), names(.lacking))]
    Lacking {
        /// The key.
        id: u32,
        /// Who lacks it.
        lacking: Vec<NodeName>,
        /// How many nodes live.
        of: usize,
    },
    /// It seals and signs.
    #[error("key {id:08x} is in use on {}; use another one first: meridian key use ID", names(.by))]
    InUse {
        /// The key.
        id: u32,
        /// Where.
        by: Vec<NodeName>,
    },
    /// Nodes that are away would not be let in again.
    #[error(
        "{} may be away with key {id:08x} alone and could not come back without being given the new one by hand; wait for them, or say --force",
        names(.away)
    )]
    Away {
        /// The key.
        id: u32,
        /// Who.
        away: Vec<NodeName>,
    },
    /// Nodes would start with it alone, and be let in by nobody.
    #[error(
        "{} cannot write {} and would start with key {id:08x} alone; put another key there where the file comes from \
         (meridian key install FILE), or say --force",
        names(.nodes),
        if .nodes.len() == 1 { "its key file" } else { "their key files" }
    )]
    ReadOnly {
        /// The key.
        id: u32,
        /// Who.
        nodes: Vec<NodeName>,
    },
    /// Nobody knows with which keys they would start.
    #[error(
        "{} did not answer, and may start with key {id:08x} alone; try again, or say --force",
        names(.nodes)
    )]
    Silent {
        /// The key.
        id: u32,
        /// Who.
        nodes: Vec<NodeName>,
    },
    /// Sessions would end.
    #[error(
        "cookies sealed under key {id:08x} may live until {}; remove it then, or say --force to end their sessions now",
        humantime::format_rfc3339_seconds(.until.system_time())
    )]
    Cookies {
        /// The key.
        id: u32,
        /// When the last of them has expired.
        until: Wall,
    },
}

fn names(names: &[NodeName]) -> String {
    let names: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
    match names.as_slice() {
        [] => "nobody".to_owned(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

fn living(view: &ClusterView) -> impl Iterator<Item = &Member> {
    view.members.values().filter(|member| member.counts()).map(|member| &**member)
}

/// A node of a version that does not tell which keys it holds is not counted against anybody.
fn tells(member: &&Member) -> bool {
    !member.record.keys.is_empty()
}

fn named<'a>(members: impl Iterator<Item = &'a Member>) -> Vec<NodeName> {
    members.map(|member| member.record.name.clone()).collect()
}

/// All keys that this node or a living one holds: those in use first, then by id. Who is `silent` is counted as that.
pub(crate) fn list(own: &[u32], view: &ClusterView, silent: &[NodeName]) -> Vec<KeyState> {
    let told = living(view).flat_map(|member| member.record.keys.iter().copied());
    let ids: BTreeSet<u32> = own.iter().copied().chain(told).collect();
    let is_silent = |member: &&Member| silent.contains(&member.record.name);
    let answering = || living(view).filter(tells).filter(|member| !is_silent(member));
    let state = |id: u32| KeyState {
        id,
        in_use: living(view).any(|member| member.record.keys.first() == Some(&id)),
        used_by: named(answering().filter(|member| member.record.keys.first() == Some(&id))),
        held_by: named(answering().filter(|member| member.record.keys.contains(&id))),
        lacking: named(answering().filter(|member| !member.record.keys.contains(&id))),
        unknown: named(living(view).filter(tells).filter(is_silent)),
    };
    let mut keys: Vec<KeyState> = ids.into_iter().map(state).collect();
    keys.sort_by_key(|key| std::cmp::Reverse((key.in_use, key.used_by.len())));
    keys
}

/// Nodes that are believed dead, with the keys that they were heard to hold.
pub(super) fn away(view: &ClusterView) -> Vec<(NodeName, Vec<u32>)> {
    let dead = view.members.values().filter(|member| member.state == MemberState::Dead);
    dead.map(|member| (member.record.name.clone(), member.record.keys.to_vec())).collect()
}

/// What the orders want of a ring that holds `keys`, the one in use first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Steps {
    /// Keys to be asked for, each with the node that was first told of it.
    pub(super) fetch: Vec<(u32, NodeName)>,
    /// The key to be taken into use.
    pub(super) take: Option<u32>,
    /// Keys to be dropped.
    pub(super) drop: Vec<u32>,
}

/// See [`Steps`].
pub(super) fn steps(keys: &[u32], orders: &IntentMap) -> Steps {
    let mut steps = Steps::default();
    let mut in_use = keys.first().copied();
    let about = orders.iter().map(|((target, _), intent)| (target, intent));
    for (_, Intent { order, .. }) in about.clone() {
        if let Order::UseKey(id) = order
            && in_use != Some(*id)
            && keys.contains(id)
        {
            steps.take = Some(*id);
            in_use = Some(*id);
        }
    }
    for (target, Intent { order, by, .. }) in about {
        match (target, order) {
            (Target::Key(id), Order::InstallKey) if !keys.contains(id) => steps.fetch.push((*id, by.clone())),
            // The key in use is never dropped: its successor comes first, or the node would have none.
            (Target::Key(id), Order::RemoveKey) if keys.contains(id) && in_use != Some(*id) => {
                steps.drop.push(*id);
            }
            _ => {}
        }
    }
    steps
}

/// Whether a key was ordered to be installed: only then is its secret given to peers.
pub(super) fn is_installed(id: u32, orders: &IntentMap) -> bool {
    let is_it = |(target, intent): (&Target, &Intent)| {
        *target == Target::Key(id) && intent.order == Order::InstallKey
    };
    orders.iter().map(|((target, _), intent)| (target, intent)).any(is_it)
}

/// Whether a key was ordered to be removed: the sessions that needed it have ended with that order.
fn is_removed(id: u32, orders: &IntentMap) -> bool {
    orders.iter().any(|((target, _), intent)| *target == Target::Key(id) && intent.order == Order::RemoveKey)
}

/// What speaks against taking a key into use.
pub(super) fn may_use(id: u32, own: &[u32], view: &ClusterView, force: bool) -> Result<(), Objection> {
    if !own.contains(&id) {
        return Err(Objection::Unknown(id));
    }
    let lacking = named(living(view).filter(tells).filter(|member| !member.record.keys.contains(&id)));
    match lacking.is_empty() || force {
        true => Ok(()),
        false => Err(Objection::Lacking { id, lacking, of: living(view).count() }),
    }
}

/// When a key is to be removed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Removal<'a> {
    /// It is so late.
    pub(super) now: Wall,
    /// So long a session lives at most without a request.
    pub(super) longest: Duration,
    /// What was ordered before.
    pub(super) orders: &'a IntentMap,
    /// Though sessions end by it, or nodes that are away need it.
    pub(super) force: bool,
}

/// What speaks against removing a key.
pub(super) fn may_remove(
    id: u32,
    own: &[u32],
    view: &ClusterView,
    Removal { now, longest, orders, force }: Removal<'_>,
) -> Result<(), Objection> {
    let held = |member: &&Member| member.record.keys.contains(&id);
    let uses = |member: &&Member| member.record.keys.first() == Some(&id);
    if own.first() == Some(&id) {
        return Err(Objection::InUse { id, by: vec![view.me.clone()] });
    }
    if !own.contains(&id) && !living(view).any(|member| held(&member)) {
        return Err(Objection::Unknown(id));
    }
    if force {
        return Ok(());
    }
    let by = named(living(view).filter(uses));
    if !by.is_empty() {
        return Err(Objection::InUse { id, by });
    }
    let all = || view.members.values().map(|member| &**member);
    let alone = |member: &&Member| uses(member) || member.record.keys == [id];
    let away = named(all().filter(|member| member.state == MemberState::Dead).filter(alone));
    if !away.is_empty() {
        return Err(Objection::Away { id, away });
    }
    if is_removed(id, orders) {
        return Ok(());
    }
    // Who left while it used the key sealed until then; when that was is known no better than "before now".
    let left = all().any(|member| member.state == MemberState::Left && uses(&member));
    let others = all().filter(|member| !uses(member)).map(|member| member.record.key_since);
    let last = if left { now } else { others.max().unwrap_or(now).min(now) };
    let until = last.plus(longest + CLOCKS_DIFFER);
    match until > now && longest > Duration::ZERO {
        true => Err(Objection::Cookies { id, until }),
        false => Ok(()),
    }
}

/// What the nodes' files say against removing a key from a ring of `own` keys.
pub(super) fn may_lose(id: u32, own: &[u32], files: &Files) -> Result<(), Objection> {
    let stays = |key: &u32| *key != id && own.contains(key);
    let lost = |file: &&Stored| !file.writable && !file.keys.is_empty() && !file.keys.iter().any(stays);
    let nodes: Vec<NodeName> = files.told.iter().filter(lost).map(|file| file.node.clone()).collect();
    if !nodes.is_empty() {
        return Err(Objection::ReadOnly { id, nodes });
    }
    match files.silent.is_empty() {
        true => Ok(()),
        false => Err(Objection::Silent { id, nodes: files.silent.clone() }),
    }
}

/// How long a session of these services lives at most without a request: what is used is sealed anew under the key in use.
pub(super) fn longest(services: &Services) -> Duration {
    let lives = services.services.values().map(|service| {
        let cookie = service.sticky_cookie.as_ref().map(|sticky| sticky.ttl.min(sticky.max_age));
        cookie.unwrap_or_default().max(service.sticky_source_ip.unwrap_or_default())
    });
    lives.max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use gossip::clock::Hlc;

    use super::*;
    use crate::registry::fixture::{member, node, view};

    const NOW: Wall = Wall(1_790_000_000_000);
    const TTL: Duration = Duration::from_secs(3600);

    fn with(name: &str, keys: &[u32], since: u64) -> Member {
        let mut member = member(name, "eu");
        member.record.keys = keys.to_vec();
        member.record.key_since = Wall(since);
        member
    }

    fn orders(of: &[(Target, Order)]) -> IntentMap {
        let entry = |(target, order): &(Target, Order)| {
            let intent = Intent { order: order.clone(), at: Hlc::ZERO, by: node("eu-1") };
            ((target.clone(), order.aspect()), intent)
        };
        of.iter().map(entry).collect()
    }

    #[test]
    fn orders_lead_to_one_ring_step_by_step() {
        let all = orders(&[
            (Target::Key(1), Order::RemoveKey),
            (Target::Key(2), Order::InstallKey),
            (Target::Mesh, Order::UseKey(2)),
        ]);
        let fetch = vec![(2, node("eu-1"))];
        assert_eq!(steps(&[1], &all), Steps { fetch, ..Steps::default() }, "the only key stays");
        assert_eq!(steps(&[1, 2], &all), Steps { take: Some(2), drop: vec![1], ..Steps::default() });
        assert_eq!(steps(&[2, 1], &all), Steps { drop: vec![1], ..Steps::default() });
        assert_eq!(steps(&[2], &all), Steps::default());
        assert!(is_installed(2, &all) && !is_installed(1, &all) && !is_installed(3, &all));
    }

    #[test]
    fn a_key_is_used_once_all_that_live_have_it() {
        let mut mesh = vec![with("eu-1", &[1, 2], 0), with("eu-2", &[1], 0), with("eu-3", &[], 0)];
        let refused = may_use(2, &[1, 2], &view("eu-1", mesh.clone()), false).unwrap_err();
        assert_eq!(refused.to_string(), "2 of 3 nodes have key 00000002, eu-2 not yet; wait, or say --force");
        assert_eq!(may_use(2, &[1, 2], &view("eu-1", mesh.clone()), true), Ok(()));
        assert_eq!(may_use(3, &[1, 2], &view("eu-1", mesh.clone()), true), Err(Objection::Unknown(3)));
        mesh[1].state = MemberState::Dead;
        assert_eq!(may_use(2, &[1, 2], &view("eu-1", mesh), false), Ok(()), "it is let in by the old one");
    }

    #[test]
    fn a_key_is_removed_once_nothing_sealed_under_it_can_live() {
        let hour = TTL.as_millis() as u64 + 5000;
        let judge_after = |mesh: &[Member], force, orders: &IntentMap| {
            let removal = Removal { now: NOW, longest: TTL, orders, force };
            may_remove(1, &mesh[0].record.keys, &view("eu-1", mesh.to_vec()), removal)
        };
        let judge = |mesh: &[Member], force| judge_after(mesh, force, &IntentMap::default());
        let mut mesh = vec![with("eu-1", &[2, 1], NOW.0 - hour), with("eu-2", &[2, 1], NOW.0 - hour)];
        assert_eq!(judge(&mesh, false), Ok(()));
        mesh[1] = with("eu-2", &[2, 1], NOW.0 - hour + 1);
        assert_eq!(judge(&mesh, false), Err(Objection::Cookies { id: 1, until: Wall(NOW.0 + 1) }));
        assert_eq!(judge(&mesh, true), Ok(()));
        let forced = orders(&[(Target::Key(1), Order::RemoveKey)]);
        assert_eq!(judge_after(&mesh, false, &forced), Ok(()), "its sessions have ended: nobody needs it");
        let again = orders(&[(Target::Key(1), Order::InstallKey)]);
        assert!(matches!(judge_after(&mesh, false, &again), Err(Objection::Cookies { .. })), "given again");
        mesh[1] = with("eu-2", &[1, 2], 0);
        assert_eq!(judge(&mesh, false), Err(Objection::InUse { id: 1, by: vec![node("eu-2")] }));
        mesh[1].state = MemberState::Dead;
        assert_eq!(judge(&mesh, false), Err(Objection::Away { id: 1, away: vec![node("eu-2")] }));
        mesh[1].state = MemberState::Left;
        assert!(matches!(judge(&mesh, false), Err(Objection::Cookies { .. })));
        mesh[0] = with("eu-1", &[1, 2], 0);
        assert!(matches!(judge(&mesh, true), Err(Objection::InUse { .. })), "never the one in use here");
    }

    #[test]
    fn a_key_stays_while_a_node_would_start_with_it_alone() {
        let file =
            |name: &str, writable, keys: &[u32]| Stored { node: node(name), writable, keys: keys.into() };
        let judge = |told: &[Stored]| may_lose(1, &[2, 1], &Files { told: told.into(), silent: vec![] });
        assert_eq!(judge(&[file("eu-1", true, &[1]), file("eu-2", false, &[1, 2])]), Ok(()));
        assert_eq!(judge(&[file("eu-1", false, &[])]), Ok(()), "nobody knows");
        let refused = judge(&[file("eu-1", false, &[1]), file("eu-2", false, &[1, 9])]).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "eu-1 and eu-2 cannot write their key files and would start with key 00000001 alone; put another key there \
             where the file comes from (meridian key install FILE), or say --force"
        );
        let files = Files { told: vec![file("eu-1", true, &[2])], silent: vec![node("eu-2")] };
        assert_eq!(
            may_lose(1, &[2, 1], &files).unwrap_err().to_string(),
            "eu-2 did not answer, and may start with key 00000001 alone; try again, or say --force"
        );
    }

    #[test]
    fn keys_are_listed_with_who_has_them() {
        let mut mesh = vec![with("eu-1", &[1, 2], 0), with("eu-2", &[1], 0), with("eu-3", &[], 0)];
        assert_eq!(away(&view("eu-1", mesh.clone())), []);
        let seen = view("eu-1", mesh.clone());
        (mesh[1].state, mesh[2].state) = (MemberState::Dead, MemberState::Left);
        assert_eq!(away(&view("eu-1", mesh)), [(node("eu-2"), vec![1])]);
        let named = |names: &[&str]| names.iter().map(|name| node(name)).collect::<Vec<_>>();
        let of = |id, used: &[&str], held: &[&str], lacking: &[&str], unknown: &[&str]| KeyState {
            id,
            in_use: id == 1,
            used_by: named(used),
            held_by: named(held),
            lacking: named(lacking),
            unknown: named(unknown),
        };
        let both = ["eu-1", "eu-2"];
        let expected = [of(1, &both, &both, &[], &[]), of(2, &[], &["eu-1"], &["eu-2"], &[])];
        assert_eq!(list(&[1, 2], &seen, &[]), expected);
        let expected = [of(1, &["eu-1"], &["eu-1"], &[], &["eu-2"]), of(2, &[], &["eu-1"], &[], &["eu-2"])];
        assert_eq!(list(&[1, 2], &seen, &named(&["eu-2"])), expected, "who is silent lacks nothing");
    }
}
