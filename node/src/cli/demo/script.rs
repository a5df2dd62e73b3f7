//! `--kill eu-1@20s`, `--fail eu@30s`: what happens to the demo, and when.

use std::str::FromStr;
use std::time::Duration;

use super::control::{Order, unknown};
use super::plan::Plan;

/// A name and a time after the mesh is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scripted {
    name: String,
    at: Duration,
}

impl FromStr for Scripted {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, at) = text.split_once('@').ok_or("write NAME@TIME, for example eu-1@20s")?;
        let at = humantime::parse_duration(at).map_err(|error| format!("{at:?} is no time: {error}"))?;
        Ok(Self { name: name.to_owned(), at })
    }
}

/// The orders in the order of their times, all names checked.
pub(super) fn merge(
    plan: &Plan,
    kill: &[Scripted],
    fail: &[Scripted],
) -> Result<Vec<(Duration, Order)>, String> {
    let mut script = Vec::new();
    let mut add = |flag: &str, order: Order, at: &Duration| match unknown(plan, &order) {
        Some(text) => Err(format!("{flag}: {text}")),
        None => {
            script.push((*at, order));
            Ok(())
        }
    };
    for Scripted { name, at } in kill {
        add("--kill", Order::Kill(name.clone()), at)?;
    }
    for Scripted { name, at } in fail {
        add("--fail", Order::Fail(name.clone()), at)?;
    }
    script.sort_by_key(|(at, _)| *at);
    Ok(script)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_in_order_and_names_what_exists() {
        let plan = Plan::new(77, 3, 2);
        let kill = ["eu-1@20s".parse().unwrap()];
        let fail = ["ap@5s".parse().unwrap()];
        let script = merge(&plan, &kill, &fail).unwrap();
        assert_eq!(script[0], (Duration::from_secs(5), Order::Fail("ap".into())));
        assert_eq!(script[1], (Duration::from_secs(20), Order::Kill("eu-1".into())));
        assert!(merge(&plan, &["eu-9@1s".parse().unwrap()], &[]).unwrap_err().contains("eu-2"));
        assert!("eu-1".parse::<Scripted>().is_err());
        assert!("eu-1@soon".parse::<Scripted>().is_err());
    }
}
