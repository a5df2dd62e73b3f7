//! Waiting for a condition, with a bound and the last thing seen.

use std::time::Duration;

use anyhow::{Result, anyhow};
use gossip::clock::Clock;

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// What is waited for cannot come true any more: [`eventually`] gives up at once.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Hopeless(pub String);

/// Asks `look` again and again, with growing pauses, until it answers `Ok`.
///
/// # Errors
/// When `within` has passed or the case is [`Hopeless`]: `what` did not come true, and why not when last looked at.
pub async fn eventually<T, L>(what: &str, within: Duration, mut look: L) -> Result<T>
where
    L: AsyncFnMut() -> Result<T>,
{
    let clock = Clock::system();
    let end = clock.now() + within;
    let mut pause = FIRST_PAUSE;
    let mut last = anyhow!("never looked at");
    loop {
        let left = end.saturating_duration_since(clock.now());
        match tokio::time::timeout(left, look()).await {
            Ok(Ok(seen)) => return Ok(seen),
            Ok(Err(why)) if why.is::<Hopeless>() => return Err(why.context(format!("never: {what}"))),
            Ok(Err(why)) => last = why,
            Err(_) => return Err(last.context(format!("not within {within:?}: {what}"))),
        }
        if clock.now() + pause >= end {
            return Err(last.context(format!("not within {within:?}: {what}")));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

/// Seconds, for readable bounds.
pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Milliseconds, for readable bounds.
pub const fn millis(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_error_tells_what_was_seen_last() {
        let mut looked = 0;
        let error = eventually::<(), _>("the sun rises", millis(60), async || {
            looked += 1;
            Err(anyhow!("dark the {looked}. time"))
        })
        .await
        .unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("the sun rises") && text.contains("dark the"), "{text}");
    }

    #[tokio::test]
    async fn a_look_that_hangs_is_given_up() {
        let error = eventually::<(), _>("an answer", millis(30), async || std::future::pending().await)
            .await
            .unwrap_err();
        assert!(format!("{error:#}").contains("an answer"));
    }

    #[tokio::test]
    async fn a_hopeless_case_is_given_up_at_once() {
        let look = async || Err::<(), _>(Hopeless("it is dead".to_owned()).into());
        let error = tokio::time::timeout(secs(5), eventually("it speaks", secs(600), look))
            .await
            .unwrap()
            .unwrap_err();
        assert!(format!("{error:#}").contains("it is dead"));
    }

    #[tokio::test]
    async fn what_comes_true_is_returned() {
        let mut looked = 0;
        let value = eventually("three looks", secs(5), async || {
            looked += 1;
            if looked == 3 { Ok(looked) } else { Err(anyhow!("{looked}")) }
        });
        assert_eq!(value.await.unwrap(), 3);
    }
}
