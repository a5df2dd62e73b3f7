//! The dashboard: a page that every node serves, built into the program. It loads nothing from elsewhere, works without a network,
//! and holds no data: what it shows it asks the admin API for, with the token that its reader enters.

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::HeaderValue;
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};

/// Scripts and styles of this node alone, and nobody may frame it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Every file: its path, its type, itself.
const FILES: [(&str, &str, &str); 7] = [
    ("/", "text/html; charset=utf-8", include_str!("index.html")),
    ("/dashboard/style.css", "text/css; charset=utf-8", include_str!("style.css")),
    ("/dashboard/app.js", "text/javascript; charset=utf-8", include_str!("app.js")),
    ("/dashboard/map.js", "text/javascript; charset=utf-8", include_str!("map.js")),
    ("/dashboard/diff.js", "text/javascript; charset=utf-8", include_str!("diff.js")),
    ("/dashboard/morph.js", "text/javascript; charset=utf-8", include_str!("morph.js")),
    ("/dashboard/icon.svg", "image/svg+xml", include_str!("icon.svg")),
];

/// Whether this path is one of the page's own files, which hold no data and need no token.
pub(crate) fn is_file(path: &str) -> bool {
    FILES.iter().any(|(file, _, _)| *file == path)
}

/// The page's routes.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.into_iter().fold(Router::new(), |router, (path, kind, text)| {
        router.route(path, get(async move || file(kind, text)))
    })
}

fn file(kind: &'static str, text: &'static str) -> Response {
    let headers = [(CONTENT_TYPE, kind), (CONTENT_SECURITY_POLICY, POLICY)];
    (headers.map(|(name, value)| (name, HeaderValue::from_static(value))), text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_loaded_from_elsewhere() {
        for (path, _, text) in FILES {
            // The name of the format is no address.
            let text = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains("http://") && !text.contains("https://"), "{path} names another host");
            assert!(!text.contains("innerHTML") && !text.contains("style=\""), "{path} makes markup of text");
        }
    }

    #[test]
    fn every_file_that_is_named_is_there() {
        let named = |text: &str, at: &str| text.contains(at);
        let (_, _, page) = FILES[0];
        for (path, _, _) in FILES.iter().skip(1) {
            let name = path.rsplit('/').next().unwrap_or_default();
            let user = FILES.iter().any(|(_, _, text)| named(text, name));
            assert!(user && is_file(path), "{path}");
        }
        assert!(named(page, "dashboard/app.js") && !is_file("/v1/status"));
    }
}
