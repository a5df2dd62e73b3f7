//! Where a session moves to: weighted rendezvous hashing, the same answer on every node that knows the same backends.
//!
//! The score of an item is `−weight / ln(u)`, `u` being its hash for this key read as a number between 0 and 1
//! (Schindelhauer and Schomaker, "Weighted distributed hash tables", 2005). An item that leaves moves only its own keys.
use gossip::id::{BackendId, SessionId, rendezvous};

/// Chooses one of `(index, backend, weight)` for the session; `None` when no candidate has positive weight.
pub fn pick(
    session: &SessionId,
    candidates: impl IntoIterator<Item = (usize, BackendId, u32)>,
) -> Option<usize> {
    candidates
        .into_iter()
        .filter(|(_, _, weight)| *weight > 0)
        .map(|(index, backend, weight)| (score(session, backend, weight), backend, index))
        .max_by(|(a, x, _), (b, y, _)| a.total_cmp(b).then(x.cmp(y)))
        .map(|(.., index)| index)
}

fn score(session: &SessionId, backend: BackendId, weight: u32) -> f64 {
    let hash = rendezvous(&session.0, &backend.0.to_le_bytes());
    // The upper 53 bits and a half: never 0 and never 1.
    let unit = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -f64::from(weight) / unit.ln()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn session(n: u32) -> SessionId {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&n.to_le_bytes());
        SessionId(bytes)
    }

    #[test]
    fn weights_are_honoured() {
        let backends = [(0, BackendId(11), 100), (1, BackendId(22), 300)];
        let second = (0..8000).filter(|&n| pick(&session(n), backends) == Some(1)).count();
        assert!((5800..6200).contains(&second), "{second}");
    }

    proptest! {
        #[test]
        fn a_backend_that_leaves_moves_only_its_own_sessions(
            ids in prop::collection::hash_set(any::<u64>(), 2..10),
            gone: prop::sample::Index,
            n: u32,
        ) {
            let all: Vec<_> = ids.iter().enumerate().map(|(at, &id)| (at, BackendId(id), 100)).collect();
            let gone = gone.index(all.len());
            let before = pick(&session(n), all.iter().copied()).unwrap();
            let after = pick(&session(n), all.iter().copied().filter(|(at, ..)| *at != gone)).unwrap();
            prop_assert!(before == gone || before == after);
            prop_assert_ne!(after, gone);
        }

        #[test]
        fn the_order_of_candidates_does_not_matter(ids in prop::collection::hash_set(any::<u64>(), 1..10), n: u32) {
            let all: Vec<_> = ids.iter().enumerate().map(|(at, &id)| (at, BackendId(id), 50 + at as u32)).collect();
            prop_assert_eq!(
                pick(&session(n), all.iter().copied()),
                pick(&session(n), all.iter().rev().copied())
            );
        }
    }
}
