//! What a backend's answer tells of the software behind, and what of it users are told (I15). Pure.
//!
//! Versions help nobody but attackers, and a Via names machines inside, so these headers end here unless the service passes them
//! or says a Server of its own.
//!
//! A backend's cookie that has the name of the session's own would replace it in the browser, and the next request would
//! come without a session. It would be of no use to the backend either, which never sees a cookie of that name. It ends here too.
use http::header::{HeaderMap, HeaderValue, SERVER, SET_COOKIE};

use super::fields::Fields;
use crate::config::model::{Disclosure, Telltale};

/// Leaves in an answer's headers what users may know. `own_cookie` is the name of the session's cookie. Returns how many
/// cookies of that name the backend tried to set. To be called before the session's own cookie is set.
pub(super) fn disguise(
    headers: &mut HeaderMap,
    fields: Fields,
    disclosure: &Disclosure,
    own_cookie: Option<&str>,
) -> usize {
    let hides = |telltale: &&Telltale| !disclosure.passes.contains(telltale);
    if fields.any(Fields::TELLTALE) {
        for telltale in Telltale::ALL.iter().filter(hides) {
            headers.remove(telltale.name());
        }
    } else if fields.any(Fields::SERVER) && hides(&&Telltale::Server) {
        headers.remove(SERVER);
    }
    if let Some(server) = &disclosure.server {
        headers.insert(SERVER, server.clone());
    }
    own_cookie.filter(|_| fields.any(Fields::SET_COOKIE)).map_or(0, |own| drop_cookies(headers, own))
}

/// Drops every Set-Cookie of this name (RFC 6265 §5.2: up to the first `=`, without white space around it).
fn drop_cookies(headers: &mut HeaderMap, name: &str) -> usize {
    let is_named = |line: &HeaderValue| {
        let pair = line.as_bytes().split(|&byte| byte == b';').next().unwrap_or_default();
        let own = pair.split(|&byte| byte == b'=').next().unwrap_or_default();
        pair.contains(&b'=') && own.trim_ascii() == name.as_bytes()
    };
    let dropped = headers.get_all(SET_COOKIE).iter().filter(|line| is_named(line)).count();
    if dropped > 0 {
        let kept: Vec<HeaderValue> =
            headers.get_all(SET_COOKIE).iter().filter(|line| !is_named(line)).cloned().collect();
        headers.remove(SET_COOKIE);
        for line in kept {
            headers.append(SET_COOKIE, line);
        }
    }
    dropped
}

#[cfg(test)]
mod tests {
    use http::header::HeaderName;

    use super::*;

    fn answer() -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("server", "nginx/1.22.1"),
            ("via", "1.1 cache-7.internal"),
            ("content-type", "text/html"),
            ("x-powered-by", "PHP/8.2.7"),
            ("x-powered-by", "Express"),
            ("x-aspnet-version", "4.0"),
            ("x-aspnetmvc-version", "5.2"),
            ("x-power", "kept"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    fn disguise(headers: &mut HeaderMap, disclosure: &Disclosure, own_cookie: Option<&str>) -> usize {
        super::disguise(headers, Fields::of(headers), disclosure, own_cookie)
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn what_tells_of_the_software_ends_here() {
        let mut headers = answer();
        assert_eq!(disguise(&mut headers, &Disclosure::default(), Some("meridian")), 0);
        assert_eq!(names(&headers), ["content-type", "x-power"]);
    }

    #[test]
    fn what_the_service_passes_stays_and_what_it_says_is_said() {
        let disclosure = Disclosure { passes: vec![Telltale::Via, Telltale::XPoweredBy], server: None };
        let mut headers = answer();
        disguise(&mut headers, &disclosure, None);
        assert_eq!(names(&headers), ["content-type", "via", "x-power", "x-powered-by"]);
        assert_eq!(headers.get_all("x-powered-by").iter().count(), 2);
        let server = Some(HeaderValue::from_static("shop"));
        let mut headers = answer();
        disguise(&mut headers, &Disclosure { passes: Vec::new(), server }, None);
        assert_eq!(headers["server"], "shop");
    }

    #[test]
    fn a_cookie_of_the_sessions_name_is_dropped_and_no_other() {
        let mut headers = HeaderMap::new();
        for line in ["cart=1; Path=/", "m=stolen; Path=/x", " m =again", "mm=2", "x=m=3", "m", "M=4"] {
            headers.append(SET_COOKIE, HeaderValue::from_static(line));
        }
        assert_eq!(disguise(&mut headers, &Disclosure::default(), Some("m")), 2);
        let left: Vec<_> = headers.get_all(SET_COOKIE).iter().map(|line| line.to_str().unwrap()).collect();
        assert_eq!(left, ["cart=1; Path=/", "mm=2", "x=m=3", "m", "M=4"]);
        assert_eq!(disguise(&mut headers, &Disclosure::default(), None), 0);
        assert_eq!(headers.get_all(SET_COOKIE).iter().count(), 5);
    }
}
