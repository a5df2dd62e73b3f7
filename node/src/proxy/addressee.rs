//! For whom a request is (pure): for a backend, as nearly all are, or for this node.
//!
//! `OPTIONS *` asks of the server that the client talks to, not of anything that it serves (RFC 9110 §9.3.7): a ping. Passed on, it would
//! tell of one backend out of many, so the node answers. A request that may be forwarded no further ends here too (Max-Forwards, §7.6.2).
use http::header::{HeaderValue, MAX_FORWARDS};
use http::{Method, Request};

/// Who is to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Addressee {
    /// A backend.
    Backend,
    /// This node.
    Node,
    /// This node, which would have to repeat the request, its cookies among it (TRACE, §9.3.8), and does not.
    Nobody,
}

/// Says for whom a request is, and counts the step if it goes on.
pub(super) fn of<B>(request: &mut Request<B>) -> Addressee {
    let here = match *request.method() {
        Method::OPTIONS => Addressee::Node,
        Method::TRACE => Addressee::Nobody,
        _ => return Addressee::Backend,
    };
    if request.uri().path() == "*" {
        return here;
    }
    match request.headers().get(MAX_FORWARDS).map(left) {
        Some(Some(0)) => here,
        Some(Some(left)) => {
            request.headers_mut().insert(MAX_FORWARDS, HeaderValue::from(left - 1));
            Addressee::Backend
        }
        // What is no number bounds nothing.
        _ => Addressee::Backend,
    }
}

fn left(value: &HeaderValue) -> Option<u32> {
    let digits = value.to_str().ok()?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(method: Method, target: &str, left: Option<&str>) -> (Addressee, Option<String>) {
        let mut request = Request::builder().method(method).uri(target);
        if let Some(left) = left {
            request = request.header(MAX_FORWARDS, left);
        }
        let mut request = request.body(()).unwrap();
        let addressee = of(&mut request);
        (addressee, request.headers().get(MAX_FORWARDS).map(|left| left.to_str().unwrap().to_owned()))
    }

    #[test]
    fn what_asks_of_the_server_or_may_go_no_further_ends_here() {
        assert_eq!(asked(Method::OPTIONS, "*", None).0, Addressee::Node);
        assert_eq!(asked(Method::OPTIONS, "*", Some("7")).0, Addressee::Node);
        assert_eq!(asked(Method::OPTIONS, "/x", Some("0")).0, Addressee::Node);
        assert_eq!(asked(Method::TRACE, "/x", Some("0")).0, Addressee::Nobody);
    }

    #[test]
    fn all_else_goes_on_and_is_counted_where_that_is_asked() {
        let on = |left: Option<&str>| (Addressee::Backend, left.map(str::to_owned));
        assert_eq!(asked(Method::OPTIONS, "/x", None), on(None));
        assert_eq!(asked(Method::OPTIONS, "/x", Some("3")), on(Some("2")));
        assert_eq!(asked(Method::TRACE, "/x", Some("1")), on(Some("0")));
        assert_eq!(asked(Method::GET, "/x", Some("0")), on(Some("0")), "it bounds no other method");
        for odd in ["-1", "+1", "x", "", "99999999999"] {
            assert_eq!(asked(Method::OPTIONS, "/x", Some(odd)), on(Some(odd)));
        }
    }
}
