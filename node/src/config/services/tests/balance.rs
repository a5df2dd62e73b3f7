//! Keys that say how backends are chosen.

use std::time::Duration;

use super::*;
use crate::config::model::{
    BalancePolicy, Disclosure, EjectionRule, FailureRate, HashOn, Rate, RateLimit, Telltale,
};

fn pool(keys: &str) -> String {
    format!("[pool.p]\n{keys}\nbackend = [{{ address = \"10.0.0.1:80\" }}]\n")
}

fn balance(keys: &str) -> BalancePolicy {
    accepted(&pool(keys)).pools["p"].balance.clone()
}

#[test]
fn policies() {
    assert_eq!(balance("balance = \"peak-ewma\""), BalancePolicy::PeakEwma);
    assert_eq!(balance("balance = \"random\""), BalancePolicy::Random);
    assert_eq!(balance("balance = \"hash\""), BalancePolicy::Hash(HashOn::SourceIp));
    assert_eq!(
        balance("balance = \"hash\"\nhash = { cookie = \"user\" }"),
        BalancePolicy::Hash(HashOn::Cookie("user".into()))
    );
    let header = HashOn::Header(http::HeaderName::from_static("x-user"));
    assert_eq!(balance("balance = \"hash\"\nhash.header = \"X-User\""), BalancePolicy::Hash(header));
    assert_eq!(balance("balance = \"hash\"\nhash.source_ip = true"), BalancePolicy::Hash(HashOn::SourceIp));
}

#[test]
fn a_hash_is_on_one_thing_and_for_its_policy() {
    let text = pool("balance = \"hash\"\nhash = { header = \"x y\", cookie = \"user\", source_ip = true }");
    let odd = |fault: &String| !fault.starts_with('?');
    assert_eq!(
        faults(&text).into_iter().filter(odd).collect::<Vec<_>>(),
        ["3:8 `hash` is on one thing: `header`, `cookie` or `source_ip`", "3:19 `x y` is no header name",]
    );
    assert_eq!(
        faults(&pool("hash = { source_ip = true }")).into_iter().filter(odd).collect::<Vec<_>>(),
        [r#"2:1 `hash` means nothing to balance `least-busy` (balance = "hash")"#]
    );
}

#[test]
fn slow_start() {
    assert_eq!(accepted(&pool("slow_start = \"30s\"")).pools["p"].slow_start, Some(Duration::from_secs(30)));
    assert_eq!(accepted(&pool("slow_start = \"0s\"")).pools["p"].slow_start, None);
}

#[test]
fn ejection() {
    let rule = |keys: &str| accepted(&pool(keys)).pools["p"].ejection;
    let usual = EjectionRule {
        consecutive: 5,
        base: Duration::from_secs(5),
        max_share: 0.5,
        rate: FailureRate {
            interval: Duration::from_secs(10),
            min_requests: 100,
            failures: None,
            deviations: None,
        },
    };
    assert_eq!(rule(""), usual);
    assert_eq!(
        rule("ejection = { consecutive = 3, base = \"30s\", max_share = 1 }"),
        EjectionRule { consecutive: 3, base: Duration::from_secs(30), max_share: 1.0, ..usual }
    );
    let rate = FailureRate {
        interval: Duration::from_secs(5),
        min_requests: 20,
        failures: Some(0.5),
        deviations: Some(2.0),
    };
    assert_eq!(
        rule("ejection = { interval = \"5s\", min_requests = 20, failures = 0.5, deviations = 2 }"),
        EjectionRule { rate, ..usual }
    );
}

#[test]
fn an_interval_that_judges_nothing_is_told() {
    let valid = parse("services.toml", &pool("ejection = { interval = \"5s\" }")).unwrap();
    let told = valid.warnings.to_string();
    assert!(told.contains("`interval` changes nothing"), "{told}");
}

#[test]
fn rate_limit() {
    let limit = |text: &str| {
        let text = format!("[service.a]\nsplit.p = 1\nrate_limit = {text}\n[pool.p]\nbackend = []\n");
        accepted(&text).services["a"].rate_limit
    };
    let rate = |per_second, burst| Some(Rate { per_second, burst });
    let per_client =
        |per_second, burst| Some(RateLimit { per_client: rate(per_second, burst), service: None });
    assert_eq!(limit("{ per_client = 100, burst = 200 }"), per_client(100.0, 200));
    assert_eq!(limit("{ per_client = 0.5 }"), per_client(0.5, 1));
    let both = RateLimit { per_client: rate(10.0, 10), service: rate(5000.0, 9000) };
    assert_eq!(limit("{ per_client = 10, service = 5000, service_burst = 9000 }"), Some(both));
    let alone = RateLimit { per_client: None, service: rate(5000.0, 5000) };
    assert_eq!(limit("{ service = 5000 }"), Some(alone));
}

#[test]
fn what_users_are_told() {
    let told = |keys: &str| {
        let text = format!("[service.a]\nsplit.p = 1\n{keys}\n[pool.p]\nbackend = []\n");
        let service = accepted(&text).services["a"].clone();
        (service.disclosure.clone(), service.min_body_rate)
    };
    assert_eq!(told(""), (Disclosure::default(), 500));
    let passes = vec![Telltale::Server, Telltale::Via];
    let keys = "pass_headers = [\"Server\", \"via\"]\nmin_body_rate = 0";
    assert_eq!(told(keys), (Disclosure { passes, server: None }, 0));
    let server = Some(http::HeaderValue::from_static("shop"));
    assert_eq!(told("server = \"shop\"").0, Disclosure { passes: vec![], server });
    for (keys, expected) in [
        ("pass_headers = [\"sever\"]", "`sever` is no header that is taken out"),
        (
            "pass_headers = [\"server\"]\nserver = \"x\"",
            "either `server` is said, or the backend's is passed",
        ),
        ("server = \"a\\nb\"", "visible ASCII"),
    ] {
        let text = format!("[service.a]\nsplit.p = 1\n{keys}\n[pool.p]\nbackend = []\n");
        let report = parse("services.toml", &text).err().unwrap().to_string();
        assert!(report.contains(expected), "{report}");
    }
}

#[test]
fn max_connections() {
    assert_eq!(accepted(&pool("max_connections = 200")).pools["p"].max_connections, Some(200));
    assert_eq!(accepted(&pool("")).pools["p"].max_connections, None);
}
