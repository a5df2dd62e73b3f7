//! One key: ECDSA on P-256 with SHA-256 (RFC 6605, algorithm 13). The only file here that names aws-lc-rs.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA384, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

use crate::name::Name;

/// Zone key and secure entry point (RFC 4034 §2.1.1, RFC 3757): one key signs everything.
const FLAGS: u16 = 257;
const PROTOCOL: u8 = 3;
/// ECDSAP256SHA256.
pub(crate) const ALGORITHM: u8 = 13;
/// SHA-256 (RFC 4509).
const DIGEST_TYPE: u8 = 2;
pub(crate) const SIGNATURE_BYTES: usize = 64;

/// A key that signs a zone. Cheap to clone; shows nothing of its secret.
#[derive(Clone)]
pub struct SigningKey {
    pair: Arc<EcdsaKeyPair>,
    dnskey: Arc<[u8]>,
    tag: u16,
}

/// Why a key cannot be made or read. Says nothing of its secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The system gave no randomness.
    #[error("no key can be made: the system gives no randomness")]
    Make,
    /// The bytes are no key of this kind.
    #[error("these bytes hold no P-256 key in PKCS #8")]
    Read,
}

impl SigningKey {
    /// Makes the secret of a new key: PKCS #8 (RFC 5958), for [`SigningKey::from_pkcs8`].
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn generate() -> Result<Vec<u8>, KeyError> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
        document.map(|document| document.as_ref().to_vec()).map_err(|_| KeyError::Make)
    }

    /// Reads what [`SigningKey::generate`] made.
    ///
    /// # Errors
    /// When the bytes hold no such key.
    pub fn from_pkcs8(bytes: &[u8]) -> Result<Self, KeyError> {
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, bytes).map_err(|_| KeyError::Read)?;
        // The library gives the point with a format byte, which DNSKEY leaves out (RFC 6605 §4).
        let point = pair.public_key().as_ref().strip_prefix(&[4]).ok_or(KeyError::Read)?;
        let mut dnskey = FLAGS.to_be_bytes().to_vec();
        dnskey.extend_from_slice(&[PROTOCOL, ALGORITHM]);
        dnskey.extend_from_slice(point);
        let tag = key_tag(&dnskey);
        Ok(Self { pair: Arc::new(pair), dnskey: dnskey.into(), tag })
    }

    /// The key's tag (RFC 4034 appendix B): a hint, not unique.
    pub fn tag(&self) -> u16 {
        self.tag
    }

    /// The data of its DNSKEY record.
    pub fn dnskey(&self) -> &[u8] {
        &self.dnskey
    }

    /// The data of the DS record that the parent of `zone` needs (RFC 4034 §5.1, RFC 4509): tag, algorithm, digest type,
    /// and the SHA-256 of the zone's name and the key.
    pub fn ds(&self, zone: &Name) -> Vec<u8> {
        ds(zone, &self.dnskey, ALGORITHM, DIGEST_TYPE, &SHA256)
    }

    /// Signs a message: r and s (RFC 6605 §4). `None` when the library refuses, which it has no reason to.
    pub(crate) fn sign(&self, message: &[u8]) -> Option<[u8; SIGNATURE_BYTES]> {
        let signature = self.pair.sign(&SystemRandom::new(), message).ok()?;
        signature.as_ref().try_into().ok()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.tag)
    }
}

impl PartialEq for SigningKey {
    fn eq(&self, other: &Self) -> bool {
        self.dnskey == other.dnskey
    }
}

impl Eq for SigningKey {}

/// Whether the DS record with this data at the parent of `zone` names the key with this DNSKEY data. `false` too where the
/// digest is of a type that nobody here knows (RFC 4034, 4509 and 6605 are known).
pub fn names_key(zone: &Name, ds_data: &[u8], dnskey: &[u8]) -> bool {
    let ([_, _, algorithm, digest_type, ..], [_, _, _, key_algorithm, ..]) = (ds_data, dnskey) else {
        return false;
    };
    let hash = match digest_type {
        1 => &SHA1_FOR_LEGACY_USE_ONLY,
        2 => &SHA256,
        4 => &SHA384,
        _ => return false,
    };
    algorithm == key_algorithm && ds(zone, dnskey, *algorithm, *digest_type, hash) == ds_data
}

fn ds(zone: &Name, dnskey: &[u8], algorithm: u8, digest_type: u8, hash: &'static Algorithm) -> Vec<u8> {
    let digested = [zone.folded().as_slice(), dnskey].concat();
    let mut data = key_tag(dnskey).to_be_bytes().to_vec();
    data.extend_from_slice(&[algorithm, digest_type]);
    data.extend_from_slice(digest(hash, &digested).as_ref());
    data
}

fn key_tag(dnskey: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
    let sum: u32 = dnskey.chunks(2).map(word).sum();
    ((sum + (sum >> 16)) & 0xffff) as u16
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

    use super::*;

    /// RFC 6605 §6.1.
    const EXAMPLE: [u8; 68] = [
        0x01, 0x01, 0x03, 0x0d, 0x1a, 0x88, 0xc8, 0x86, 0x15, 0xd4, 0x37, 0xfb, 0xb8, 0xbf, 0x9e, 0x19, 0x42,
        0xa1, 0x92, 0x9f, 0x28, 0x56, 0x27, 0x06, 0xae, 0x6c, 0x2b, 0xd3, 0x99, 0xe7, 0xb1, 0xbf, 0xb6, 0xd1,
        0xe9, 0xe7, 0x5b, 0x92, 0xb4, 0xaa, 0x42, 0x91, 0x7a, 0xe1, 0xc6, 0x1b, 0x70, 0x1e, 0xf0, 0x35, 0xc3,
        0xfe, 0x7b, 0xe3, 0x00, 0x9c, 0xba, 0xfe, 0x5a, 0x2f, 0x71, 0x31, 0x6c, 0x90, 0x2d, 0xcf, 0x0d, 0x00,
    ];

    #[test]
    fn tag_and_digest_are_those_of_the_standard() {
        assert_eq!(key_tag(&EXAMPLE), 55_648);
        let name = Name::parse_absolute("example.net").unwrap();
        let data = ds(&name, &EXAMPLE, 13, 2, &SHA256);
        let hex: String = data[4..].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "b4c8c1fe2e7477127b27115656ad6256f424625bf5c1e2770ce6d6e37df61d17");
        assert!(names_key(&name, &data, &EXAMPLE));
        for (digest_type, hash) in [(1, &SHA1_FOR_LEGACY_USE_ONLY), (4, &SHA384)] {
            assert!(names_key(&name, &ds(&name, &EXAMPLE, 13, digest_type, hash), &EXAMPLE));
        }
        for at in 0..data.len() {
            let mut other = data.clone();
            other[at] ^= 1;
            assert!(!names_key(&name, &other, &EXAMPLE), "byte {at}");
        }
        assert!(!names_key(&name, &data[..3], &EXAMPLE) && !names_key(&name, &data, &EXAMPLE[..3]));
    }

    #[test]
    fn what_is_made_is_read_and_signs() {
        let secret = SigningKey::generate().unwrap();
        let key = SigningKey::from_pkcs8(&secret).unwrap();
        let signature = key.sign(b"a message").unwrap();
        let point = [&[4], &key.dnskey()[4..]].concat();
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
        assert!(public.verify(b"a message", &signature).is_ok());
        assert!(public.verify(b"another message", &signature).is_err());
        assert_eq!(format!("{key:?}"), format!("SigningKey({})", key.tag()));
        assert_eq!(SigningKey::from_pkcs8(&secret[1..]), Err(KeyError::Read));
        assert_eq!(SigningKey::from_pkcs8(b""), Err(KeyError::Read));
    }
}
