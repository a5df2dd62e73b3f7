//! What the proxy counts: of the node, of each service, of each pool and backend.

use std::sync::atomic::Ordering;

use super::family::{Family, Histogram, Labels, Samples};
use crate::backend::Snapshot;
use crate::discovery::POOL_MAX;
use crate::proxy::{Affinity, BOUNDS_MICROS, CLIENTS_MAX, Cut, End, ProxyHandle, ServiceCounts, WAITING_MAX};

/// The classes of statuses, as [`ServiceCounts::classes`] counts them.
const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

pub(super) fn of_node(proxy: &ProxyHandle) -> Vec<Family> {
    let counted = proxy.counters();
    let read = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
    let (places, (waiting, most)) = (proxy.places(), proxy.evidence_waiting());
    let by_listener = |of: fn(&(String, usize, usize)) -> usize| {
        places.iter().map(move |place| (vec![("listener", place.0.clone())], of(place) as f64))
    };
    vec![
        Family::counts(
            "ends",
            "Requests and TCP connections that have ended, by the reason",
            "end",
            End::ALL.iter().map(|end| (end.as_str(), counted.ends(*end))),
        ),
        Family::counts(
            "session_outcomes",
            "Requests of sticky services by what became of the session",
            "outcome",
            Affinity::ALL.iter().map(|how| (how.as_str(), counted.affinity(*how))),
        ),
        Family::counts(
            "connections_cut",
            "Connections that were cut for what the client did",
            "reason",
            Cut::ALL.iter().map(|why| (why.as_str(), counted.cut(*why))),
        ),
        Family::count("connections", "Connections accepted", read(&counted.connections)),
        Family::count(
            "connections_held",
            "Times that accepting waited because a listener had all its connections",
            read(&counted.connections_held),
        ),
        Family::count(
            "connections_refused",
            "Connections of clients that had as many as one may have",
            read(&counted.connections_refused),
        ),
        Family::counts(
            "tls_handshakes",
            "TLS handshakes with users",
            "result",
            [
                ("full", read(&counted.tls_handshakes).saturating_sub(read(&counted.tls_resumed))),
                ("resumed", read(&counted.tls_resumed)),
                ("failed", read(&counted.tls_failed)),
            ],
        ),
        Family::count("retries", "Second and further tries", read(&counted.retries)),
        Family::count(
            "retries_refused",
            "Tries that were not made because the service's budget was empty",
            read(&counted.retries_refused),
        ),
        Family::counts(
            "tunnels",
            "Requests and connections that crossed between regions",
            "direction",
            [("out", read(&counted.tunnels_out)), ("in", read(&counted.tunnels_in))],
        ),
        Family::counts(
            "queue_dropped",
            "What was dropped because a queue was full",
            "queue",
            [
                ("tunnels", read(&counted.tunnels_dropped)),
                ("access_log", read(&counted.log_dropped)),
                ("health_evidence", read(&counted.evidence_dropped)),
            ],
        ),
        Family::count(
            "session_commits_degraded",
            "Answers that told users of a pin before another node had it",
            read(&counted.degraded),
        ),
        Family::count(
            "backend_cookies_dropped",
            "Cookies with the session's own name that backends tried to set",
            read(&counted.cookies_dropped),
        ),
        Family::gauge(
            "in_flight_requests",
            "Requests and TCP relays in flight here",
            proxy.in_flight() as f64,
        ),
        Family::gauge(
            "open_connections",
            "Connections and inbound tunnels, idle ones too",
            proxy.connections() as f64,
        ),
        Family::gauges("listener_connections", "Connections of a listener", by_listener(|place| place.1)),
        Family::gauges(
            "listener_connections_limit",
            "Connections that a listener may have here",
            by_listener(|place| place.2),
        ),
        Family::gauge(
            "health_evidence_queue",
            "What requests met that health has not looked at",
            waiting as f64,
        ),
        Family::gauge("health_evidence_queue_limit", "How much of it may wait", most as f64),
        Family::gauge(
            "listeners_unbound",
            "Listeners of the revision that cannot be bound",
            proxy.problems().len() as f64,
        ),
    ]
}

pub(super) fn of_services(proxy: &ProxyHandle) -> Vec<Family> {
    let services = proxy.services();
    let budgets = proxy.retry_budgets().into_iter();
    let budgets = budgets.map(|(name, (left, most))| (vec![("service", name.to_string())], left, most));
    let budgets = Family::bounded(
        [
            ("service_retry_budget", "Retries that a service had left after its last request"),
            ("service_retry_budget_limit", "Retries that can be saved up"),
        ],
        budgets,
    );
    let clients = proxy.limited_clients().into_iter();
    let clients = Family::bounded(
        [
            (
                "service_rate_limit_clients",
                "Clients that have used of a service's limit by client and are known for it",
            ),
            (
                "service_rate_limit_clients_limit",
                "How many can be known; then who has used the least is forgotten",
            ),
        ],
        clients.map(|(name, known)| (vec![("service", name.to_string())], known as f64, CLIENTS_MAX as f64)),
    );
    let each = |of: &dyn Fn(&ServiceCounts) -> u64| -> Samples {
        let one = services.iter().map(|(name, counts)| (vec![("service", name.to_string())], of(counts)));
        Samples::Counters(one.collect())
    };
    let by = |label: &'static str, names: &dyn Fn(&ServiceCounts) -> Vec<(&'static str, u64)>| -> Samples {
        let all = services.iter().flat_map(|(service, counts)| {
            let labels = |value: &str| vec![("service", service.to_string()), (label, value.to_owned())];
            names(counts).into_iter().map(move |(value, count)| (labels(value), count))
        });
        // Sums of many services and reasons: what never happened is left out.
        Samples::Counters(all.filter(|(_, count)| *count > 0).collect())
    };
    let ends = |counts: &ServiceCounts| {
        End::ALL.iter().map(|end| (end.as_str(), counts.ends[*end as usize])).collect()
    };
    let classes = |counts: &ServiceCounts| CLASSES.into_iter().zip(counts.classes).collect();
    let took = services.iter().map(|(name, counts)| (vec![("service", name.to_string())], histogram(counts)));
    let families = vec![
        Family {
            name: "service_requests",
            help: "Requests and TCP connections of a service, by the reason they ended with",
            samples: by("end", &ends),
        },
        Family {
            name: "service_responses",
            help: "Requests of a service, by the class of the status",
            samples: by("class", &classes),
        },
        Family {
            name: "service_failures",
            help: "Requests that were not served though nothing was wrong with them, and answers from 500",
            samples: each(&|counts| counts.failed),
        },
        Family {
            name: "service_sent_bytes",
            help: "Bytes of bodies sent to users",
            samples: each(&|counts| counts.sent_bytes),
        },
        Family {
            name: "request_duration_seconds",
            help: "From the request's head to the answer's last byte",
            samples: Samples::Histograms(took.collect()),
        },
    ];
    families.into_iter().chain(budgets).chain(clients).collect()
}

fn histogram(counts: &ServiceCounts) -> Histogram {
    let bounds = BOUNDS_MICROS.iter().map(|micros| *micros as f64 / 1e6).chain([f64::INFINITY]);
    Histogram { sum: counts.took_micros as f64 / 1e6, buckets: bounds.zip(counts.took).collect() }
}

pub(super) fn of_pools(snapshot: &Snapshot) -> Vec<Family> {
    const STATES: [&str; 8] =
        ["up", "going-down", "down", "going-up", "draining", "maintenance", "ejected", "unknown"];
    let (mut states, mut waiting) = (Vec::new(), Vec::new());
    let (mut flight, mut requests, mut limits, mut queued, mut weights) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (name, pool) in &snapshot.pools {
        let of_pool = || ("pool", name.to_string());
        for state in STATES {
            let count = pool.backends.iter().filter(|backend| backend.state.as_str() == state).count();
            states.push((vec![of_pool(), ("state", state.to_owned())], count as f64));
        }
        waiting.push((vec![of_pool()], pool.queue.waiting() as f64));
        for backend in &pool.backends {
            let labels = || -> Labels { vec![of_pool(), ("backend", backend.config.address.to_string())] };
            flight.push((labels(), f64::from(backend.shared.in_flight())));
            requests.push((labels(), backend.shared.requests()));
            queued.push((labels(), backend.shared.queue().waiting() as f64));
            weights.push((labels(), f64::from(backend.weight)));
            if let Some(limit) = pool.config.max_connections {
                limits.push((labels(), f64::from(limit)));
            }
        }
    }
    vec![
        Family::gauges("pool_backends", "Backends of a pool in a state, as this node sees it", states),
        Family::gauges("pool_queued_requests", "Requests that wait here for any backend of a pool", waiting),
        Family::gauge(
            "queued_requests_limit",
            "Requests that may wait here for one pool, and for one backend; more get 503",
            WAITING_MAX as f64,
        ),
        Family::gauge("pool_backends_limit", "Backends that a pool may have", POOL_MAX as f64),
        Family::gauges("backend_in_flight_requests", "Requests of this node in flight on a backend", flight),
        Family::gauges("backend_in_flight_requests_limit", "What `max_connections` allows this node", limits),
        Family::gauges("backend_queued_requests", "Requests that wait here for this backend alone", queued),
        Family::gauges("backend_weight", "The weight in force", weights),
        Family {
            name: "backend_requests",
            help: "Requests that this node sent to a backend",
            samples: Samples::Counters(requests),
        },
    ]
}
