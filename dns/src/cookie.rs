//! DNS cookies (RFC 7873) in the form that all servers understand (RFC 9018): who shows one back has been reached at the
//! address it says.
//!
//! ```text
//!   client cookie, 8 │ version 1 │ reserved 3 │ timestamp 4 │ SipHash-2-4 of all these and the address, 8
//!                    └──────────────────────── server cookie, 16 ────────────────────────────────────────┘
//! ```

use std::hash::Hasher;
use std::net::IpAddr;

use crate::terms::CookieSecret;

/// The option's length with both cookies.
pub(crate) const COOKIE_BYTES: usize = 24;
/// That of the client's cookie before it.
pub(crate) const CLIENT_BYTES: usize = 8;
const VERSION: u8 = 1;
/// How old a cookie may be, and from when on it is renewed (RFC 9018 §4.3), in seconds.
const OLDEST: u32 = 3600;
const RENEWED: u32 = 1800;
/// How far in the future another server's clock may be, in seconds.
const AHEAD: u32 = 300;

/// What a client's cookie option leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cookie {
    /// What it is told.
    pub(crate) told: [u8; COOKIE_BYTES],
    /// Whether what it showed was made here or by a server that has the same secret.
    pub(crate) valid: bool,
}

impl Cookie {
    /// Takes the option of a query, its length already checked. `None`: there is no secret to make cookies with.
    pub(crate) fn answer(secrets: &[CookieSecret], option: &[u8], from: IpAddr, unix: u64) -> Option<Self> {
        let newest = secrets.first()?;
        let client = option.first_chunk::<CLIENT_BYTES>()?;
        // Serial arithmetic (RFC 1982): the timestamp wraps in 2106.
        let now = unix as u32;
        let shown = <&[u8; COOKIE_BYTES]>::try_from(option).ok().filter(|shown| shown[8] == VERSION);
        let age = shown
            .map(|shown| now.wrapping_sub(u32::from_be_bytes([shown[12], shown[13], shown[14], shown[15]])));
        let in_time = age.is_some_and(|age| age <= OLDEST || age.wrapping_neg() <= AHEAD);
        let made_with =
            |secret: &CookieSecret| shown.is_some_and(|shown| shown[16..] == seal(secret, shown, from));
        let valid = in_time && secrets.iter().any(made_with);
        if let (true, Some(shown)) =
            (valid && age.is_some_and(|age| age < RENEWED) && made_with(newest), shown)
        {
            return Some(Self { told: *shown, valid });
        }
        let mut told = [0; COOKIE_BYTES];
        told[..CLIENT_BYTES].copy_from_slice(client);
        told[8] = VERSION;
        told[12..16].copy_from_slice(&now.to_be_bytes());
        let sealed = seal(newest, &told, from);
        told[16..].copy_from_slice(&sealed);
        Some(Self { told, valid })
    }
}

/// The hash over everything before it and the client's address.
#[expect(
    deprecated,
    reason = "the standard library's SipHash-2-4 is what RFC 9018 asks for, whatever hash maps use"
)]
fn seal(secret: &CookieSecret, cookie: &[u8; COOKIE_BYTES], from: IpAddr) -> [u8; 8] {
    let half = |bytes: &[u8]| bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    let (low, high) = secret.0.split_at(8);
    let mut hasher = std::hash::SipHasher::new_with_keys(half(low), half(high));
    hasher.write(&cookie[..16]);
    match from.to_canonical() {
        IpAddr::V4(address) => hasher.write(&address.octets()),
        IpAddr::V6(address) => hasher.write(&address.octets()),
    }
    hasher.finish().to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        let bytes: Vec<u8> =
            (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect();
        bytes.try_into().unwrap()
    }

    fn secret(text: &str) -> CookieSecret {
        CookieSecret(hex(text))
    }

    /// RFC 9018, appendix A.
    #[test]
    fn cookies_are_those_of_the_standard() {
        let secrets = [secret("e5e973e5a6b2a43f48e7dc849e37bfcf")];
        let v4: IpAddr = "198.51.100.100".parse().unwrap();
        let first = Cookie::answer(&secrets, &hex::<8>("2464c4abcf10c957"), v4, 1_559_731_985).unwrap();
        assert_eq!(first.told, hex("2464c4abcf10c957010000005cf79f111f8130c3eee29480"));
        assert!(!first.valid);
        let renewed = Cookie::answer(&secrets, &first.told, v4, 1_559_734_385).unwrap();
        assert_eq!(renewed.told, hex("2464c4abcf10c957010000005cf7a871d4a564a1442aca77"));
        assert!(renewed.valid);
        // A new secret beside the one that the cookie was made with.
        let secrets =
            [secret("445536bcd2513298075a5d379663c962"), secret("dd3bdf9344b678b185a6f5cb60fca715")];
        let v6: IpAddr = "2001:db8:220:1:59de:d0f4:8769:82b8".parse().unwrap();
        let shown = hex::<24>("22681ab97d52c298010000005cf7c57926556bd0934c72f8");
        let rolled = Cookie::answer(&secrets, &shown, v6, 1_559_741_961).unwrap();
        assert_eq!(rolled.told, hex("22681ab97d52c298010000005cf7c609a6bb79d16625507a"));
        assert!(rolled.valid);
    }

    #[test]
    fn what_was_not_made_here_or_long_ago_is_not_believed() {
        let secrets = [secret("e5e973e5a6b2a43f48e7dc849e37bfcf")];
        let from: IpAddr = "198.51.100.100".parse().unwrap();
        let made = Cookie::answer(&secrets, &[7; 8], from, 1_000_000).unwrap().told;
        let valid = |shown: &[u8], from, unix| Cookie::answer(&secrets, shown, from, unix).unwrap().valid;
        for (unix, expected) in
            [(1_000_000, true), (1_003_600, true), (1_003_601, false), (999_700, true), (999_699, false)]
        {
            assert_eq!(valid(&made, from, unix), expected, "{unix}");
        }
        assert!(!valid(&made, "198.51.100.101".parse().unwrap(), 1_000_000));
        assert!(valid(&made, "::ffff:198.51.100.100".parse().unwrap(), 1_000_000));
        for at in 0..COOKIE_BYTES {
            let mut damaged = made;
            damaged[at] ^= 1;
            assert!(!valid(&damaged, from, 1_000_000), "{at}");
        }
        assert!(!valid(&[1; 40], from, 1_000_000), "a server cookie of another form");
        // A young one is told again as it is.
        assert_eq!(Cookie::answer(&secrets, &made, from, 1_001_000).unwrap().told, made);
        assert_eq!(Cookie::answer(&[], &made, from, 1_001_000), None);
    }
}
