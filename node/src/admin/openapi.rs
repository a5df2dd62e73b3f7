//! The API's description of itself (OpenAPI 3.1), put together from what stands at the routes.

use axum::body::Bytes;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{
    InfoBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Response, ResponseBuilder, SecurityRequirement,
};
use utoipa::{PartialSchema, ToSchema};

use super::api::{Finding, Problem};

/// The frame around the routes.
pub(super) fn document() -> OpenApi {
    let about = "Any node answers for the whole mesh. Nothing changes on a GET. Errors are problem+json (RFC 9457). More keys \
                 may come; none goes away or changes its meaning.";
    let info = InfoBuilder::new()
        .title("Meridian admin API")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(about))
        .build();
    OpenApiBuilder::new().info(info).build()
}

/// The whole document: every operation may answer with a problem, and needs the token where the node has one.
pub(super) fn finish(mut document: OpenApi) -> Bytes {
    let components = document.components.get_or_insert_with(Default::default);
    for (name, schema) in [
        (Problem::name(), <Problem as PartialSchema>::schema()),
        (Finding::name(), <Finding as PartialSchema>::schema()),
    ] {
        components.schemas.insert(name.into_owned(), schema);
    }
    components.add_security_scheme("token", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    for item in document.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            complete(operation);
        }
    }
    // Plain data in memory.
    Bytes::from(serde_json::to_vec_pretty(&document).unwrap_or_default())
}

fn complete(operation: &mut Operation) {
    let nobody = SecurityRequirement::default();
    let token = SecurityRequirement::new("token", Vec::<String>::new());
    operation.security.get_or_insert_with(|| vec![nobody, token]);
    let responses = &mut operation.responses.responses;
    responses.entry("default".into()).or_insert_with(|| RefOr::T(anything_else()));
}

fn anything_else() -> Response {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(Problem::name()))).build();
    ResponseBuilder::new()
        .description("what went wrong, and what to do")
        .content("application/problem+json", content)
        .build()
}
