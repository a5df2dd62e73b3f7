//! What only the whole zone shows: aliases, hints, delegations.

use rustc_hash::FxHashSet;

use super::{Builder, MAX_CHAIN, MAX_HINT_BYTES};
use crate::hinted::{Hinted, has_own_hints};
use crate::name::{Name, suffixes};
use crate::spec::{Place, parse_label};
use crate::zone::{Draft, DraftSet, Kind};

impl Builder<'_> {
    /// RFC 2181 §10.1: an alias stands alone. And none runs in a circle.
    pub(super) fn check_aliases(&mut self) {
        for (place, name, kind) in self.placed.clone() {
            if kind != Kind::CNAME {
                continue;
            }
            let Some(node) = self.nodes.get(name.folded().as_slice()) else { continue };
            let Some(set) = node.set(Kind::CNAME) else { continue };
            if node.sets.len() > 1 {
                self.wrong(
                    place,
                    "is an alias (CNAME) beside other records of this name; an alias stands alone",
                );
            } else if set.data.len() > 1 {
                self.wrong(place, "is one of several aliases (CNAME) of this name; there can be one");
            } else if self.chain_is_too_long(set) {
                self.wrong(place, format!("begins a chain of more than {MAX_CHAIN} aliases, or a circle"));
            }
        }
    }

    /// What answers for a folded name: it itself, or the wildcard below its closest encloser (RFC 4592 §3.3.1).
    fn find(&self, folded: &[u8]) -> Option<&Draft> {
        let encloser = suffixes(folded).find(|suffix| self.nodes.contains_key(*suffix))?;
        if encloser.len() == folded.len() {
            return self.nodes.get(folded);
        }
        self.nodes.get([b"\x01*", encloser].concat().as_slice())
    }

    fn chain_is_too_long(&self, first: &DraftSet) -> bool {
        let mut set = first;
        for _ in 0..MAX_CHAIN {
            let Some(target) = set.data.first() else { return false };
            let next = self.find(&target.to_ascii_lowercase());
            match next.and_then(|node| node.set(Kind::CNAME)) {
                None => return false,
                Some(next) => set = next,
            }
        }
        true
    }

    /// At a steered name hints are those of its addresses, and the records fit an answer with them.
    pub(super) fn check_hints(&mut self) {
        let mut overflowing = FxHashSet::default();
        for (place, name, kind) in self.placed.clone() {
            let Some(node) = self.nodes.get(name.folded().as_slice()).filter(|node| node.steer.is_some())
            else {
                continue;
            };
            let own = node.set(kind).is_some_and(|set| set.data.iter().any(|data| has_own_hints(kind, data)));
            if own {
                self.wrong(
                    place,
                    "has ipv4hint or ipv6hint, but the name is steered, which makes them; leave them out",
                );
                continue;
            }
            let set = node.set(kind).filter(|set| Hinted::new(kind, set.ttl, &set.data).is_some());
            let bytes: usize =
                set.map_or(0, |set| set.data.iter().map(|data| data.len() + 12 + MAX_HINT_BYTES).sum());
            if bytes > self.max_set_bytes() && overflowing.insert((name, kind)) {
                self.wrong(
                    place,
                    "is one of too many records of this name and type for one answer with the hints of the steered name",
                );
            }
        }
    }

    /// Below a delegation only its glue can stand (RFC 1034 §4.2.1).
    pub(super) fn check_cuts(&mut self) {
        for (place, name, kind) in self.placed.clone() {
            let allowed = matches!(kind, Kind::A | Kind::AAAA);
            match self.cut_above(&name) {
                Some(cut) if cut == name && (allowed || matches!(kind, Kind::NS | Kind::DS)) => {}
                Some(cut) if cut != name && allowed => {}
                Some(cut) => {
                    self.wrong(place, format!("lies in {cut}, which is delegated by its NS records"))
                }
                None => {}
            }
        }
        for steer in &self.spec.steers {
            let Ok(name) = parse_label(&self.origin, &steer.label) else { continue };
            if let Some(cut) = self.cut_above(&name) {
                let place =
                    Place::Steer { zone: self.spec.name.clone(), label: steer.label.clone(), key: "" };
                self.wrong(place, format!("lies in {cut}, which is delegated by its NS records"));
            }
        }
    }

    /// The highest delegation at or above a name, below the apex.
    fn cut_above(&self, name: &Name) -> Option<Name> {
        let folded = name.folded();
        let apex_bytes = self.origin.wire().len();
        suffixes(&folded)
            .take_while(|suffix| suffix.len() > apex_bytes)
            .filter_map(|suffix| self.nodes.get(suffix))
            .filter(|node| node.set(Kind::NS).is_some())
            .last()
            .map(|node| node.name.clone())
    }
}
