//! A request's session as its cookie tells it (pure): taken out of the request, opened, judged, sealed again.
use std::time::Duration;

use bytes::Bytes;
use gossip::clock::{Hlc, Wall};
use gossip::id::ServiceName;
use http::StatusCode;
use http::header::{CACHE_CONTROL, COOKIE, HeaderMap, HeaderValue, SET_COOKIE};
use storage::cookie::{CookieError, Cookies, SessionCookie};

use crate::backend::BackendView;
use crate::config::model::StickyCookie;

/// What the cookies of a request say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// There is no cookie of ours.
    Nothing,
    /// A session of this mesh that has not ended.
    Session(SessionCookie),
    /// A session that has ended.
    Expired,
    /// Something this mesh did not make for this service.
    Invalid,
}

/// Takes the session's cookie out of the request, so that no backend sees it, and opens it.
pub(super) fn open(
    headers: &mut HeaderMap,
    service: &ServiceName,
    sticky: &StickyCookie,
    cookies: &Cookies,
    now: Wall,
) -> Told {
    let mut told = Told::Nothing;
    take(headers, &sticky.name, |value| {
        // A parent domain may have set another cookie of the same name: the first that opens counts.
        if matches!(told, Told::Session(_)) {
            return;
        }
        told = match cookies.open(service, value, now) {
            Ok(cookie) => self::told(cookie, sticky, now),
            Err(CookieError::Expired) => Told::Expired,
            Err(CookieError::Invalid) => Told::Invalid,
        };
    });
    told
}

/// What a cookie that was opened tells now.
pub(super) fn told(cookie: SessionCookie, sticky: &StickyCookie, now: Wall) -> Told {
    if has_ended(&cookie, sticky, now) { Told::Expired } else { Told::Session(cookie) }
}

fn has_ended(cookie: &SessionCookie, sticky: &StickyCookie, now: Wall) -> bool {
    let age = |since: u32| now.since(Wall(u64::from(since) * 1000));
    age(cookie.last_seen) > sticky.ttl || age(cookie.first_seen) > sticky.max_age
}

/// Removes every cookie called `name` from the Cookie headers (RFC 6265 §4.2) and shows its values; all others stay as
/// they are.
fn take(headers: &mut HeaderMap, name: &str, mut found: impl FnMut(&str)) {
    // Bytes, not text: other cookies of the user may be of any charset.
    let cookies = |line: &HeaderValue| line.as_bytes().split(|&byte| byte == b';').any(|c| is_named(c, name));
    if !headers.get_all(COOKIE).iter().any(cookies) {
        return;
    }
    let mut kept: Vec<HeaderValue> = Vec::new();
    for line in headers.get_all(COOKIE) {
        let mut rest = Vec::with_capacity(line.len());
        for cookie in line.as_bytes().split(|&byte| byte == b';') {
            if is_named(cookie, name) {
                let value = cookie.splitn(2, |&byte| byte == b'=').nth(1).unwrap_or_default().trim_ascii();
                let bare = value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value);
                // What is no text is not ours, but neither is it anybody else's.
                found(std::str::from_utf8(bare).unwrap_or_default());
            } else if !cookie.trim_ascii().is_empty() {
                if !rest.is_empty() {
                    rest.extend_from_slice(b"; ");
                }
                rest.extend_from_slice(cookie.trim_ascii());
            }
        }
        if !rest.is_empty()
            && let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(rest))
        {
            kept.push(value);
        }
    }
    headers.remove(COOKIE);
    for line in kept {
        headers.append(COOKIE, line);
    }
}

fn is_named(cookie: &[u8], name: &str) -> bool {
    let mut halves = cookie.splitn(2, |&byte| byte == b'=');
    let own = halves.next().unwrap_or_default();
    halves.next().is_some() && own.trim_ascii() == name.as_bytes()
}

/// How a session's backend stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It has been up without a break since the assignment: nobody is asked (I2).
    Keep,
    /// It serves, but broke off since: another node may have moved the session meanwhile.
    Ask,
    /// It does not serve.
    Gone,
}

/// Judges the backend of a session that was assigned to it at `assigned`.
pub(super) fn judge(backend: &BackendView, assigned: Hlc) -> Standing {
    match backend.serves() {
        false => Standing::Gone,
        true if backend.up_since <= assigned => Standing::Keep,
        true => Standing::Ask,
    }
}

/// Whether the expiry is due to be moved: at most every quarter of the idle time.
pub(super) fn is_refresh_due(last_seen: u32, ttl: Duration, now: Wall) -> bool {
    now.since(Wall(u64::from(last_seen) * 1000)) >= ttl / 4
}

/// Seconds since 1970 at which a session that is used now ends if it is not used again.
pub(super) fn expiry(now: Wall, first_seen: u32, ttl: Duration, max_age: Duration) -> u32 {
    let idle = now.plus(ttl).seconds();
    let absolute = u64::from(first_seen).saturating_add(max_age.as_secs());
    u32::try_from(idle.min(absolute)).unwrap_or(u32::MAX)
}

/// Sets the session's cookie on a response, and keeps shared caches from giving it to others.
pub(super) fn set_cookie(
    headers: &mut HeaderMap,
    status: StatusCode,
    name: &str,
    sealed: &str,
    max_age: Duration,
    secure: bool,
) {
    let secure = if secure { "; Secure" } else { "" };
    let seconds = max_age.as_secs();
    let line = format!("{name}={sealed}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}");
    if let Ok(line) = HeaderValue::from_maybe_shared(Bytes::from(line)) {
        headers.append(SET_COOKIE, line);
    }
    if is_cacheable(status) {
        make_private(headers);
    }
}

/// The statuses that a cache may keep without being told (RFC 9110 §15.1), and 206.
fn is_cacheable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 206 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// Adds `private` (RFC 9111 §5.2.2.7) and drops what allows the opposite.
fn make_private(headers: &mut HeaderMap) {
    let mut value = String::from("private");
    for line in headers.get_all(CACHE_CONTROL) {
        for directive in line.to_str().unwrap_or_default().split(',').map(str::trim) {
            let name = directive.split('=').next().unwrap_or(directive);
            if name.eq_ignore_ascii_case("private") || name.eq_ignore_ascii_case("no-store") {
                return;
            }
            let shared = name.eq_ignore_ascii_case("public") || name.eq_ignore_ascii_case("s-maxage");
            if !directive.is_empty() && !shared {
                value.push_str(", ");
                value.push_str(directive);
            }
        }
    }
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(value)) {
        headers.insert(CACHE_CONTROL, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(COOKIE, HeaderValue::from_str(line).unwrap());
        }
        headers
    }

    #[test]
    fn only_the_named_cookie_is_taken() {
        let cases: &[(&[&str], &[&str], &[&str])] = &[
            (&[], &[], &[]),
            (&["a=1; b=2"], &[], &["a=1; b=2"]),
            (&["m=x"], &["x"], &[]),
            (&["a=1; m=x;b=2"], &["x"], &["a=1; b=2"]),
            (&["a=1; m=x; mm=3; m=y"], &["x", "y"], &["a=1; mm=3"]),
            (&["m=\"x\"", "c=3"], &["x"], &["c=3"]),
            (&["m=; odd; d==="], &[""], &["odd; d==="]),
        ];
        for (lines, values, left) in cases {
            let mut headers = headers(lines);
            let mut found = Vec::new();
            take(&mut headers, "m", |value| found.push(value.to_owned()));
            assert_eq!(&found, values, "{lines:?}");
            let rest: Vec<_> = headers.get_all(COOKIE).iter().map(|v| v.to_str().unwrap()).collect();
            assert_eq!(&rest, left, "{lines:?}");
        }
    }

    #[test]
    fn cookies_of_another_charset_hide_nothing_and_stay() {
        let mut headers = HeaderMap::new();
        let line = "city=Köln; m=x; odd=\u{1f600}";
        headers.append(COOKIE, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        headers.append(COOKIE, HeaderValue::from_bytes(b"m=\xff; a=\xe9").unwrap());
        let mut found = Vec::new();
        take(&mut headers, "m", |value| found.push(value.to_owned()));
        assert_eq!(found, ["x", ""]);
        let left: Vec<_> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
        assert_eq!(left, ["city=Köln; odd=\u{1f600}".as_bytes(), b"a=\xe9"]);
    }

    #[test]
    fn the_end_of_a_session_is_idle_time_or_age() {
        let sticky = crate::proxy::fixture::sticky();
        let mut cookie = SessionCookie {
            id: gossip::id::SessionId([0; 16]),
            pool: gossip::id::Tag(0),
            backend: gossip::id::BackendId(0),
            assigned: Hlc::ZERO,
            home: gossip::id::Tag(0),
            first_seen: 1_000_000,
            last_seen: 1_000_000,
        };
        let at = |seconds: u64| Wall(seconds * 1000);
        assert!(!has_ended(&cookie, &sticky, at(1_000_000 + 8 * 3600)));
        assert!(has_ended(&cookie, &sticky, at(1_000_001 + 8 * 3600)));
        cookie.last_seen = 1_000_000 + 23 * 3600;
        assert!(!has_ended(&cookie, &sticky, at(1_000_000 + 24 * 3600)));
        assert!(has_ended(&cookie, &sticky, at(1_000_001 + 24 * 3600)));
        // A cookie from a node whose clock is ahead is young, not old.
        assert!(!has_ended(&cookie, &sticky, at(900_000)));
        assert_eq!(expiry(at(1_000_000), 1_000_000, sticky.ttl, sticky.max_age), 1_000_000 + 8 * 3600);
        let late = at(1_000_000 + 20 * 3600);
        assert_eq!(expiry(late, 1_000_000, sticky.ttl, sticky.max_age), 1_000_000 + 24 * 3600);
    }

    #[test]
    fn a_refresh_is_due_after_a_quarter_of_the_idle_time() {
        let ttl = Duration::from_secs(400);
        assert!(!is_refresh_due(1000, ttl, Wall(1_099_000)));
        assert!(is_refresh_due(1000, ttl, Wall(1_100_000)));
    }

    #[test]
    fn shared_caches_do_not_keep_a_cookie() {
        let cases = [
            (None, 200, Some("private")),
            (Some("public, max-age=60, s-maxage=5"), 200, Some("private, max-age=60")),
            (Some("no-store"), 200, Some("no-store")),
            (Some("private=\"x\""), 200, Some("private=\"x\"")),
            (None, 500, None),
        ];
        for (before, status, after) in cases {
            let mut headers = HeaderMap::new();
            if let Some(before) = before {
                headers.insert(CACHE_CONTROL, HeaderValue::from_static(before));
            }
            let status = StatusCode::from_u16(status).unwrap();
            set_cookie(&mut headers, status, "m", "v", Duration::from_secs(9), true);
            assert_eq!(headers[SET_COOKIE], "m=v; Path=/; Max-Age=9; HttpOnly; SameSite=Lax; Secure");
            assert_eq!(headers.get(CACHE_CONTROL).map(|v| v.to_str().unwrap()), after, "{before:?}");
        }
    }

    #[test]
    fn a_backend_is_judged_by_its_last_break() {
        use gossip::state::BackendState;
        let pool =
            std::sync::Arc::new(crate::proxy::fixture::pool("p", &[("127.0.0.1:1".parse().unwrap(), "eu")]));
        let mut backend = crate::proxy::fixture::pool_view(&pool).backends.remove(0);
        assert_eq!(judge(&backend, Hlc(5)), Standing::Keep);
        backend.up_since = Hlc(5);
        assert_eq!(judge(&backend, Hlc(5)), Standing::Keep);
        assert_eq!(judge(&backend, Hlc(4)), Standing::Ask);
        backend.state = BackendState::Draining;
        assert_eq!(judge(&backend, Hlc(6)), Standing::Keep);
        backend.state = BackendState::Ejected;
        assert_eq!(judge(&backend, Hlc(6)), Standing::Gone);
    }
}
