//! The names of things: nodes, regions, zones, pools, services, backends, sessions, revisions.
//!
//! A name is a small validated string that is cheap to clone. Strings from files and from the network become
//! names at the edge and stay names from there on; a name that exists is a valid one.

use std::borrow::Borrow;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The greatest length of any name, in bytes.
pub const NAME_MAX_BYTES: usize = 63;

/// Why a string is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The string is empty.
    #[error("a name cannot be empty")]
    Empty,
    /// The string is longer than [`NAME_MAX_BYTES`].
    #[error("a name has at most {NAME_MAX_BYTES} characters, this one has {0}")]
    TooLong(usize),
    /// The string holds a character that no name may hold.
    #[error(
        "a name is made of letters, digits, '-', '_' and '.', and starts with a letter or digit; {0:?} is not allowed here"
    )]
    Character(char),
}

fn check(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > NAME_MAX_BYTES {
        return Err(NameError::TooLong(text.len()));
    }
    for (at, c) in text.chars().enumerate() {
        let fits = c.is_ascii_alphanumeric() || (at > 0 && matches!(c, '-' | '_' | '.'));
        if !fits {
            return Err(NameError::Character(c));
        }
    }
    Ok(())
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        ///
        /// 1 to 63 ASCII letters, digits, `-`, `_` and `.`, starting with a letter or digit. Clones share the text.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks `text` and makes a name of it.
            pub fn new(text: &str) -> Result<Self, NameError> {
                check(text)?;
                Ok(Self(text.into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::new(&text).map_err(serde::de::Error::custom)
            }
        }
    )*};
}

names! {
    /// One running binary. Unique in the mesh; its certificate carries it.
    NodeName;
    /// A place with its own users and backends: a data centre, a cloud region.
    RegionName;
    /// A part of a region that fails by itself.
    ZoneName;
    /// A part of a zone that fails by itself.
    RackName;
    /// A set of backends that are alike: one version of one application.
    PoolName;
    /// What users ask for.
    ServiceName;
    /// A port and its protocol.
    ListenerName;
}

/// One backend of one pool: the first 8 bytes of BLAKE3 over the pool's name, a zero byte and the address.
///
/// The id depends on nothing else, so every node computes the same one and a backend that comes back after an
/// absence finds its sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BackendId(pub u64);

impl BackendId {
    /// The id of the backend at `address` in `pool`.
    pub fn of(pool: &PoolName, address: SocketAddr) -> Self {
        let mut hash = blake3::Hasher::new();
        hash.update(pool.as_str().as_bytes());
        hash.update(&[0]);
        hash.update(address.to_string().as_bytes());
        Self(first_u64(&hash.finalize()))
    }
}

impl fmt::Display for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// One user's session: 16 bytes, random for a cookie, a keyed hash of service and address for source-address sessions.
///
/// Whoever knows it knows nothing else; still it is never written to a log (I13).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId(pub [u8; 16]);

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId(..)")
    }
}

/// A name where 4 bytes must do: in cookies, pins and datagrams. The first 4 bytes of BLAKE3 over the name.
///
/// A mesh has tens of regions and pools; whoever resolves a tag looks among the names it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Tag(pub u32);

impl Tag {
    /// The tag of a name.
    pub fn of(name: &str) -> Self {
        let mut first = [0; 4];
        first.copy_from_slice(&blake3::hash(name.as_bytes()).as_bytes()[..4]);
        Self(u32::from_le_bytes(first))
    }
}

/// One immutable version of the mesh-wide configuration. The greater `(epoch, hash)` wins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RevisionId {
    /// The parent's epoch + 1; the first revision has epoch 1.
    pub epoch: u64,
    /// BLAKE3 of the revision's encoded content.
    pub hash: [u8; 32],
}

impl RevisionId {
    /// The hash as 64 lower-case hexadecimal digits.
    pub fn hash_hex(&self) -> String {
        blake3::Hash::from(self.hash).to_hex().to_string()
    }
}

impl fmt::Display for RevisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.hash_hex())
    }
}

impl fmt::Debug for RevisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a string is no revision id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a revision is written EPOCH:HASH, a number and 64 hexadecimal digits")]
pub struct RevisionIdError;

impl FromStr for RevisionId {
    type Err = RevisionIdError;
    fn from_str(text: &str) -> Result<Self, RevisionIdError> {
        let (epoch, hash) = text.split_once(':').ok_or(RevisionIdError)?;
        let epoch = epoch.parse().map_err(|_| RevisionIdError)?;
        let hash = blake3::Hash::from_hex(hash).map_err(|_| RevisionIdError)?;
        Ok(Self { epoch, hash: hash.into() })
    }
}

/// The weight of `item` for `key` in rendezvous (highest random weight) hashing: the holder of the highest one
/// wins. Thaler and Ravishankar, "A name-based mapping scheme for rendezvous", 1996.
pub fn rendezvous(key: &[u8], item: &[u8]) -> u64 {
    let mut hash = blake3::Hasher::new();
    hash.update(&(key.len() as u64).to_le_bytes());
    hash.update(key);
    hash.update(item);
    first_u64(&hash.finalize())
}

fn first_u64(hash: &blake3::Hash) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert_eq!(NodeName::new("eu-1").map(|n| n.to_string()), Ok("eu-1".into()));
        assert_eq!(NodeName::new(""), Err(NameError::Empty));
        assert_eq!(NodeName::new("-x"), Err(NameError::Character('-')));
        assert_eq!(NodeName::new("a b"), Err(NameError::Character(' ')));
        assert_eq!(NodeName::new(&"a".repeat(64)), Err(NameError::TooLong(64)));
    }

    #[test]
    fn a_backend_id_is_the_same_on_every_node_for_ever() {
        let pool = PoolName::new("web-v1").unwrap();
        let id = BackendId::of(&pool, "10.0.1.11:8080".parse().unwrap());
        assert_eq!(id.to_string(), "c118d7e9cbf2ea67");
    }

    #[test]
    fn a_revision_id_reads_what_it_writes() {
        let id = RevisionId { epoch: 7, hash: [0xab; 32] };
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("7".parse::<RevisionId>(), Err(RevisionIdError));
        assert_eq!("7:zz".parse::<RevisionId>(), Err(RevisionIdError));
    }
}
