//! Where the demo takes orders while it runs: `curl -X POST http://127.77.0.1:7999/fail/eu`.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::plan::Plan;

/// An order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Order {
    Fail(String),
    Heal(String),
    Kill(String),
}

/// Takes orders until the receiver is gone.
pub(super) async fn listen(listener: TcpListener, plan: Plan, orders: mpsc::Sender<Order>) {
    let plan = Arc::new(plan);
    while let Ok((stream, _)) = listener.accept().await {
        let (plan, orders) = (plan.clone(), orders.clone());
        let answer = service_fn(move |request| answer(request, plan.clone(), orders.clone()));
        tokio::spawn(async move {
            // A connection that breaks is the asker's affair.
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    plan: Arc<Plan>,
    orders: mpsc::Sender<Order>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let order = (request.method() == Method::POST).then(|| parse(request.uri().path())).flatten();
    let (status, text) = match order {
        Some(order) => match unknown(&plan, &order) {
            Some(text) => (StatusCode::NOT_FOUND, text),
            None => match orders.send(order).await {
                Ok(()) => (StatusCode::ACCEPTED, "done".into()),
                Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the demo is ending".into()),
            },
        },
        None => (StatusCode::NOT_FOUND, "POST /fail/REGION, /heal/REGION or /kill/NODE".into()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text + "\n")));
    *response.status_mut() = status;
    Ok(response)
}

/// Why an order cannot be obeyed: the demo has nothing of that name.
pub(super) fn unknown(plan: &Plan, order: &Order) -> Option<String> {
    match order {
        Order::Fail(name) | Order::Heal(name) if plan.region(name).is_none() => {
            let names: Vec<_> = plan.regions.iter().map(|region| region.name).collect();
            Some(format!("there is no region {name:?}; the demo has {}", names.join(", ")))
        }
        Order::Kill(name) if plan.node(name).is_none() => {
            let names: Vec<_> = plan.nodes().map(|node| node.name.as_str()).collect();
            Some(format!("there is no node {name:?}; the demo has {}", names.join(", ")))
        }
        _ => None,
    }
}

fn parse(path: &str) -> Option<Order> {
    match path.strip_prefix('/')?.split_once('/')? {
        ("fail", region) => Some(Order::Fail(region.into())),
        ("heal", region) => Some(Order::Heal(region.into())),
        ("kill", node) => Some(Order::Kill(node.into())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_paths() {
        assert_eq!(parse("/fail/eu"), Some(Order::Fail("eu".into())));
        assert_eq!(parse("/kill/eu-1"), Some(Order::Kill("eu-1".into())));
        assert_eq!(parse("/x/eu"), None);
        assert_eq!(parse("/"), None);
    }

    #[test]
    fn an_order_names_what_exists() {
        let plan = Plan::new(77, 3, 2);
        assert_eq!(unknown(&plan, &Order::Fail("ap".into())), None);
        assert!(unknown(&plan, &Order::Heal("xx".into())).unwrap().contains("eu, us, ap"));
        assert!(unknown(&plan, &Order::Kill("eu-9".into())).unwrap().contains("eu-2"));
    }
}
