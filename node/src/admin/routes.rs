//! What can be asked and ordered: one line a route, documented where it is answered.

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn;
use axum::routing::get;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::problem::{explained, problem};
use super::{
    Context, backends as registered, endings, events, explain, keys, metrics, openapi, orders, probes,
    revisions, scale, sessions, shield, state, traffic, upgrade, zones,
};
use crate::dashboard;

/// The largest configuration that is taken.
const BODY_MAX_BYTES: usize = 4 << 20;

/// All routes.
pub(super) fn router(context: Arc<Context>) -> Router {
    let (router, document) = documented().split_for_parts();
    let document = openapi::finish(document);
    router
        .route("/v1/openapi.json", get(async move || ([(CONTENT_TYPE, "application/json")], document)))
        .merge(dashboard::routes())
        .fallback(async || problem(StatusCode::NOT_FOUND, "there is nothing here; the API is under /v1"))
        .method_not_allowed_fallback(async || {
            problem(StatusCode::METHOD_NOT_ALLOWED, "this can be asked for in another way only")
        })
        .layer(DefaultBodyLimit::max(BODY_MAX_BYTES))
        .layer(from_fn(explained))
        .layer(from_fn(shield::shield))
        .with_state(context)
}

/// All that stands in the document.
fn documented() -> OpenApiRouter<Arc<Context>> {
    OpenApiRouter::with_openapi(openapi::document())
        .routes(routes!(probes::livez))
        .routes(routes!(probes::readyz))
        .routes(routes!(metrics::metrics))
        .routes(routes!(state::whole))
        .routes(routes!(state::members))
        .routes(routes!(state::nodes))
        .routes(routes!(state::node))
        .routes(routes!(state::regions))
        .routes(routes!(state::pools))
        .routes(routes!(state::pool))
        .routes(routes!(state::backends))
        .routes(routes!(state::backend))
        .routes(routes!(registered::put, registered::remove))
        .routes(routes!(registered::sources))
        .routes(routes!(scale::list))
        .routes(routes!(state::all_services))
        .routes(routes!(state::service))
        .routes(routes!(traffic::routes::traffic))
        .routes(routes!(traffic::routes::users))
        .routes(routes!(events::routes::events))
        .routes(routes!(sessions::list))
        .routes(routes!(endings::end))
        .routes(routes!(sessions::one))
        .routes(routes!(sessions::of_client))
        .routes(routes!(sessions::consistency))
        .routes(routes!(explain::explain))
        .routes(routes!(zones::ds))
        .routes(routes!(zones::keys))
        .routes(routes!(zones::retire, zones::restore))
        .routes(routes!(upgrade::upgrade))
        .routes(routes!(keys::list, keys::install))
        .routes(routes!(keys::take))
        .routes(routes!(keys::remove))
        .routes(routes!(revisions::list, revisions::apply))
        .routes(routes!(revisions::current))
        .routes(routes!(revisions::one))
        .routes(routes!(revisions::rollback))
        .routes(routes!(orders::intents))
        .routes(routes!(orders::drain, orders::undrain))
        .routes(routes!(orders::maintain, orders::unmaintain))
        .routes(routes!(orders::weigh, orders::unweigh))
        .routes(routes!(orders::split, orders::unsplit))
        .routes(routes!(orders::deny, orders::undeny))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each of these is in the contract with scripts.
    #[test]
    fn every_route_is_documented_with_what_it_answers() {
        let document = openapi::finish(documented().split_for_parts().1);
        let document: serde_json::Value = serde_json::from_slice(&document).unwrap();
        let paths = document["paths"].as_object().unwrap();
        for path in ["/v1/status", "/v1/nodes", "/v1/regions", "/v1/pools", "/v1/backends", "/v1/services"] {
            assert!(paths[path]["get"]["responses"]["200"].is_object(), "{path}");
        }
        for (path, methods) in paths {
            for (method, operation) in methods.as_object().unwrap() {
                let said = operation["summary"].as_str().or(operation["description"].as_str());
                assert!(said.is_some(), "{method} {path} says nothing of itself");
                assert!(operation["responses"]["default"].is_object(), "{method} {path} has no errors");
            }
            assert!(methods.get("get").is_none_or(|get| get.get("requestBody").is_none()), "{path}");
        }
    }
}
