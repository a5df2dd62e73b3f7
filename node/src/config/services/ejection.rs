//! `pool.*.ejection`

use crate::config::model::{EjectionRule, FailureRate};
use crate::config::read::{self, ms, secs};
use crate::config::walk::Value;

pub(super) fn read(value: &Value<'_>) -> Option<EjectionRule> {
    let mut table = value.table()?;
    let consecutive = table.optional("consecutive", read::integer::<u32>(1..=1_000_000));
    let base = table.optional("base", read::duration(ms(1)..=secs(86_400)));
    let max_share = table.optional("max_share", read::number(0.0..=1.0));
    let failures = table.optional("failures", read::number(0.01..=1.0));
    let deviations = table.optional("deviations", read::number(0.5..=10.0));
    for key in ["interval", "min_requests"] {
        if let Some(place) = table.place(key).filter(|_| failures.is_none() && deviations.is_none()) {
            let hint = "`failures = 0.5` ejects by the share alone, `deviations = 1.9` beside the others";
            let message = format!("`{key}` changes nothing without `failures` or `deviations`");
            table.sink().warning(place, message, Some(hint.into()));
        }
    }
    let interval = table.optional("interval", read::duration(secs(1)..=secs(3_600)));
    let min_requests = table.optional("min_requests", read::integer::<u32>(1..=1_000_000));
    table.finish();
    let usual = EjectionRule::default();
    Some(EjectionRule {
        consecutive: consecutive.unwrap_or(usual.consecutive),
        base: base.unwrap_or(usual.base),
        max_share: max_share.unwrap_or(usual.max_share),
        rate: FailureRate {
            interval: interval.unwrap_or(usual.rate.interval),
            min_requests: min_requests.unwrap_or(usual.rate.min_requests),
            failures,
            deviations,
        },
    })
}
