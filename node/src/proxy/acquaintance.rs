//! What the requests of one connection have in common, kept so that it is worked out once: how backends are told of the
//! client, and what its cookie says. A browser sends the same cookie with every request; unsealing it anew each time
//! would cost more than routing the request.
//!
//! Bounded: one introduction and one cookie a connection, the latter of [`LINE_MAX_BYTES`] at most. What is kept are
//! copies; a request's own values would hold on to the buffer they were read into.
use std::net::IpAddr;
use std::rc::Rc;

use gossip::clock::Wall;
use gossip::id::ServiceName;
use http::header::{COOKIE, HeaderMap, HeaderValue};
use storage::cookie::{Cookies, SessionCookie};

use super::affinity::{self, Told};
use super::fields::Fields;
use super::forwarded::Introduction;
use crate::config::model::StickyCookie;

const LINE_MAX_BYTES: usize = 1024;
const DAY_SECONDS: u64 = 86_400;

/// What is known of a connection's client from its requests so far.
#[derive(Debug, Default)]
pub(super) struct Acquaintance {
    introduction: Option<Rc<Introduction>>,
    session: Option<Known>,
}

/// A Cookie header, what it told, and all that this depended on.
#[derive(Debug)]
struct Known {
    line: Box<[u8]>,
    service: ServiceName,
    cookie_name: String,
    /// Of the keys.
    generation: u64,
    day: u64,
    cookie: SessionCookie,
    /// The line without the session's cookie.
    rest: Option<HeaderValue>,
}

impl Acquaintance {
    /// How backends are told of the client, who asks for `host`.
    pub(super) fn introduce(
        &mut self,
        peer: IpAddr,
        scheme: &'static str,
        host: &HeaderValue,
    ) -> &Rc<Introduction> {
        let known = self.introduction.take().filter(|known| known.is_for(host));
        self.introduction.insert(known.unwrap_or_else(|| Rc::new(Introduction::new(peer, scheme, host))))
    }

    /// Takes the session's cookie out of a request, so that no backend sees it, and opens it.
    pub(super) fn session(
        &mut self,
        headers: &mut HeaderMap,
        fields: Fields,
        service: &ServiceName,
        sticky: &StickyCookie,
        cookies: &Cookies,
        now: Wall,
    ) -> Told {
        if !fields.any(Fields::COOKIE) {
            return Told::Nothing;
        }
        let mut lines = headers.get_all(COOKIE).iter();
        let line = lines.next().filter(|_| lines.next().is_none());
        let generation = cookies.generation();
        let day = now.seconds() / DAY_SECONDS;
        if let (Some(known), Some(line)) = (&self.session, line)
            && *known.line == *line.as_bytes()
            && known.service == *service
            && known.cookie_name == sticky.name
            && (known.generation, known.day) == (generation, day)
        {
            match &known.rest {
                Some(rest) => drop(headers.insert(COOKIE, rest.clone())),
                None => drop(headers.remove(COOKIE)),
            }
            return affinity::told(known.cookie, sticky, now);
        }
        let line: Option<Box<[u8]>> =
            line.map(HeaderValue::as_bytes).filter(|line| line.len() <= LINE_MAX_BYTES).map(Box::from);
        let told = affinity::open(headers, service, sticky, cookies, now);
        self.session = match (told, line) {
            (Told::Session(cookie), Some(line)) => Some(Known {
                line,
                service: service.clone(),
                cookie_name: sticky.name.clone(),
                generation,
                day,
                cookie,
                rest: headers.get(COOKIE).cloned(),
            }),
            _ => None,
        };
        told
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gossip::clock::Hlc;
    use gossip::id::{BackendId, SessionId, Tag};
    use gossip::keyring::Keyring;

    use super::*;

    const NOW: Wall = Wall(1_700_000_000_000);

    fn sealed(cookies: &Cookies, service: &ServiceName, id: u8) -> String {
        let seconds = NOW.seconds() as u32;
        let cookie = SessionCookie {
            id: SessionId([id; 16]),
            pool: Tag(1),
            backend: BackendId(2),
            assigned: Hlc(3),
            home: Tag(4),
            first_seen: seconds,
            last_seen: seconds,
        };
        cookies.seal(service, &cookie, NOW)
    }

    #[test]
    fn a_cookie_told_again_says_what_it_said_until_something_changes() {
        let (web, api) = (ServiceName::new("web").unwrap(), ServiceName::new("api").unwrap());
        let ring = Keyring::generate();
        let cookies = Cookies::new(&ring);
        let sticky = crate::proxy::fixture::sticky();
        let (one, two) = (sealed(&cookies, &web, 1), sealed(&cookies, &web, 2));
        let mut acquaintance = Acquaintance::default();
        let mut ask = |cookies: &Cookies, service: &ServiceName, line: &str, now: Wall| {
            let mut headers = HeaderMap::new();
            headers.insert(COOKIE, HeaderValue::from_str(line).unwrap());
            let fields = Fields::of(&headers);
            let told = acquaintance.session(&mut headers, fields, service, &sticky, cookies, now);
            let id = match told {
                Told::Session(cookie) => Some(cookie.id.0[0]),
                _ => None,
            };
            (id, headers.get(COOKIE).map(|rest| rest.to_str().unwrap().to_owned()))
        };
        let name = &sticky.name;
        for _ in 0..2 {
            assert_eq!(ask(&cookies, &web, &format!("{name}={one}"), NOW), (Some(1), None));
        }
        for _ in 0..2 {
            let line = format!("a=b; {name}={two}; c=d");
            assert_eq!(ask(&cookies, &web, &line, NOW), (Some(2), Some("a=b; c=d".into())));
        }
        // Another service's cookie it is not, though the line is the same.
        assert_eq!(ask(&cookies, &api, &format!("{name}={two}"), NOW).0, None);
        assert_eq!(ask(&cookies, &web, &format!("{name}={two}"), NOW).0, Some(2));
        // Too old now.
        let later = NOW.plus(sticky.ttl).plus(Duration::from_secs(1));
        assert_eq!(ask(&cookies, &web, &format!("{name}={two}"), later).0, None);
        // Under other keys.
        assert_eq!(ask(&Cookies::new(&Keyring::generate()), &web, &format!("{name}={two}"), NOW).0, None);
        let long = format!("a={}; {name}={one}", "x".repeat(LINE_MAX_BYTES));
        for _ in 0..2 {
            assert_eq!(ask(&cookies, &web, &long, NOW).0, Some(1));
        }
    }
}
