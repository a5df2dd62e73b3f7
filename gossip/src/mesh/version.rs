//! Which versions of the mesh's protocols this program speaks. Pure.
//!
//! The version is in the protocol's name in the handshake (ALPN, RFC 7301). It counts what every message shares: the framing and
//! the handshake. Each message has a version byte of its own. A node offers all versions that it speaks, the latest
//! first, and accepts any of them: so one that speaks N and N-1 lives in one mesh with one that speaks N-1 alone. With none in
//! common the handshake fails, and both ends say why.

use super::endpoint::Purpose;

/// A version of a protocol.
type Version = u16;

/// The latest first. The next one stands here beside the one before, for as long as a mesh takes to be upgraded.
const MESH: &[Version] = &[1];
/// The same for tunnels.
const TUNNEL: &[Version] = &[1];

/// The versions that are spoken, the latest first.
fn spoken(purpose: Purpose) -> &'static [Version] {
    #[cfg(feature = "other-versions")]
    if let Some(claimed) = CLAIMED.get() {
        return claimed;
    }
    match purpose {
        Purpose::Mesh => MESH,
        Purpose::Tunnel => TUNNEL,
    }
}

/// What is offered and accepted in the handshake, the latest first.
pub(crate) fn protocols(purpose: Purpose) -> Vec<Vec<u8>> {
    let name = match purpose {
        Purpose::Mesh => "mesh",
        Purpose::Tunnel => "tunnel",
    };
    spoken(purpose).iter().map(|version| format!("meridian-{name}/{version}").into_bytes()).collect()
}

/// What to tell an operator when there is none in common.
pub(super) fn explain_none() -> String {
    let ours: Vec<_> = spoken(Purpose::Mesh).iter().map(ToString::to_string).collect();
    format!(
        "it speaks another version of the mesh protocol than this node ({}); upgrade the older of the two",
        ours.join(", ")
    )
}

#[cfg(feature = "other-versions")]
static CLAIMED: std::sync::OnceLock<Vec<Version>> = std::sync::OnceLock::new();

/// From now on this process says that it speaks these versions of all protocols, the latest first, and goes on speaking as ever: so
/// a proof can have nodes of the next version and of the one before while there is one. Only the first call counts.
#[cfg(feature = "other-versions")]
pub fn claim(versions: Vec<Version>) {
    // A second claim would leave endpoints that were made under the first.
    let _ = CLAIMED.set(versions);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_the_versions() {
        assert_eq!(protocols(Purpose::Mesh), [b"meridian-mesh/1"]);
        assert_eq!(protocols(Purpose::Tunnel), [b"meridian-tunnel/1"]);
        assert!(explain_none().contains("than this node (1);"), "{}", explain_none());
    }

    #[test]
    fn the_latest_is_offered_first_and_the_one_before_may_stand_beside_it() {
        for spoken in [MESH, TUNNEL] {
            assert!(!spoken.is_empty() && spoken.is_sorted_by(|later, earlier| later == &(earlier + 1)));
        }
    }
}
