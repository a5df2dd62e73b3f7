//! Puts signatures behind the sets of an answer, one set after the other as they are written.

use std::net::IpAddr;
use std::time::Instant;

use super::canonical::{CanonicalSet, head_bytes};
use super::desk::Desk;
use super::key::SIGNATURE_BYTES;
use super::keys::ZoneKeys;
use super::nsec::Deny;
use crate::counters::Tally;
use crate::limit::Limiter;
use crate::moment::Moment;
use crate::wire::{Owner, Rcode, Reply, Section};
use crate::zone::Kind;

/// Why a set went out without its signature, and with it the whole answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// It does not fit.
    NoRoom,
    /// Too many were made of late, by this thread or for this client's network.
    TooMany,
}

/// What one answer may be signed with, whatever zone it comes from.
pub(crate) struct Signer<'p> {
    pub(crate) desk: &'p mut Desk,
    /// Who asked, and how many signatures its network may have made.
    pub(crate) from: IpAddr,
    pub(crate) limiter: Option<&'p Limiter>,
    pub(crate) now: Moment,
    pub(crate) tally: &'p Tally,
}

/// What signs one answer.
pub(crate) struct Pen<'p> {
    desk: &'p mut Desk,
    keys: &'p ZoneKeys,
    from: IpAddr,
    limiter: Option<&'p Limiter>,
    now: Moment,
    tally: &'p Tally,
}

/// Where a set stands: its section, its owner as it is written, and as it is signed, folded.
type Place<'a> = (Section, Owner<'a>, &'a [u8]);

impl<'p> Pen<'p> {
    pub(crate) fn new(signer: Signer<'p>, keys: &'p ZoneKeys) -> Self {
        let Signer { desk, from, limiter, now, tally } = signer;
        Self { desk, keys, from, limiter, now, tally }
    }

    /// Signs a prepared set that was just written. `name` is its owner, folded; `ttl` the one it was sent with.
    pub(crate) fn sign_set(
        &mut self,
        reply: &mut Reply<'_, '_>,
        place: Place<'_>,
        ttl: u32,
        set: &CanonicalSet,
    ) -> Result<(), Stopped> {
        let (_, _, name) = place;
        self.desk.data.begin(name, set.kind, set.ttl, self.keys.signer(), self.now.unix);
        for data in set.data() {
            self.desk.data.push(name, [data]);
        }
        self.put(reply, place, set.kind, ttl)
    }

    /// Signs the records that were written behind `start`, none of whose data is compressed. `zone_ttl` is the TTL that
    /// they have at rest.
    pub(crate) fn sign_written(
        &mut self,
        reply: &mut Reply<'_, '_>,
        place: Place<'_>,
        start: usize,
        kind: Kind,
        ttls: (u32, u32),
    ) -> Result<(), Stopped> {
        let ((_, owner, name), (ttl, zone_ttl)) = (place, ttls);
        let Desk { data, places, .. } = &mut *self.desk;
        places.clear();
        places.extend(reply.data_behind(start, owner));
        places.sort_unstable_by_key(|(start, end)| reply.bytes(*start, *end));
        places.dedup_by_key(|(start, end)| reply.bytes(*start, *end));
        data.begin(name, kind, zone_ttl, self.keys.signer(), self.now.unix);
        for (start, end) in places.iter() {
            data.push(name, [reply.bytes(*start, *end)]);
        }
        self.put(reply, place, kind, ttl)
    }

    /// Writes what is not there at a name, and signs it. `ttls` are the one it is sent with and the one it has at rest.
    pub(crate) fn deny(
        &mut self,
        reply: &mut Reply<'_, '_>,
        place: Place<'_>,
        ttls: (u32, u32),
        deny: Deny<'_>,
    ) -> Result<(), Stopped> {
        self.write_denial(reply, place, ttls.0, deny)?;
        self.sign_denial(reply, place, ttls, deny)
    }

    /// Writes what is not there at a name.
    pub(crate) fn write_denial(
        &mut self,
        reply: &mut Reply<'_, '_>,
        (section, owner, name): Place<'_>,
        ttl: u32,
        deny: Deny<'_>,
    ) -> Result<(), Stopped> {
        deny.bitmap(&mut self.desk.bitmap);
        let next = deny.next(name);
        let data = [next.as_slice(), self.desk.bitmap.as_slice()];
        if reply.record(section, owner, Kind::NSEC, ttl, data) { Ok(()) } else { Err(Stopped::NoRoom) }
    }

    /// The signature of what [`Pen::write_denial`] writes, written or not.
    pub(crate) fn sign_denial(
        &mut self,
        reply: &mut Reply<'_, '_>,
        place: Place<'_>,
        (ttl, zone_ttl): (u32, u32),
        deny: Deny<'_>,
    ) -> Result<(), Stopped> {
        let (_, _, name) = place;
        let Desk { data, bitmap, .. } = &mut *self.desk;
        deny.bitmap(bitmap);
        data.begin(name, Kind::NSEC, zone_ttl, self.keys.signer(), self.now.unix);
        data.push(name, [deny.next(name).as_slice(), bitmap]);
        self.put(reply, place, Kind::NSEC, ttl)
    }

    /// Writes the RRSIG records of what lies on the desk.
    fn put(
        &mut self,
        reply: &mut Reply<'_, '_>,
        (section, owner, _): Place<'_>,
        kind: Kind,
        ttl: u32,
    ) -> Result<(), Stopped> {
        let keys = self.keys.for_sets(kind);
        let bytes = head_bytes(self.keys.signer()) + SIGNATURE_BYTES;
        if !reply.has_room(owner, bytes, keys.len()) {
            return Err(Stopped::NoRoom);
        }
        for key in keys {
            self.desk.data.set_tag(key.tag());
            let hash = self.desk.hash(key);
            let signature = match self.desk.find(hash, self.now.unix) {
                Some(signature) => signature,
                None => {
                    if !self.may_sign(self.now.monotonic) {
                        self.tally.sign_not();
                        return Err(Stopped::TooMany);
                    }
                    self.tally.sign();
                    self.desk.sign(key, hash, self.now.unix).ok_or(Stopped::TooMany)?
                }
            };
            let data = [self.desk.data.head(), signature.as_slice()];
            reply.record(section, owner, Kind::RRSIG, ttl, data);
        }
        Ok(())
    }

    fn may_sign(&mut self, now: Instant) -> bool {
        let network =
            self.limiter.is_none_or(|limiter| limiter.admits(self.from, Rcode::NOERROR, false, now));
        network && self.desk.admits(now)
    }
}
