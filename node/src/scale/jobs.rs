//! Tasks, each with what it is about: that stays known when one ends badly.

use std::collections::HashMap;

use tokio::task::{Id, JoinError, JoinSet};

/// Tasks that end with `T`, and what each is about. Dropping them aborts them.
#[derive(Debug)]
pub(super) struct Jobs<A, T> {
    tasks: JoinSet<T>,
    about: HashMap<Id, A>,
}

impl<A, T: Send + 'static> Jobs<A, T> {
    pub(super) fn new() -> Self {
        Self { tasks: JoinSet::new(), about: HashMap::new() }
    }

    pub(super) fn spawn(&mut self, about: A, task: impl Future<Output = T> + Send + 'static) {
        let id = self.tasks.spawn(task).id();
        self.about.insert(id, about);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// The next one that ends, and how. `None`: there is none. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Option<(A, Result<T, JoinError>)> {
        let ended = self.tasks.join_next_with_id().await?;
        let (id, end) = match ended {
            Ok((id, end)) => (id, Ok(end)),
            Err(error) => (error.id(), Err(error)),
        };
        Some((self.about.remove(&id)?, end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_ends_badly_is_known() {
        let mut jobs = Jobs::new();
        jobs.spawn("good", async { 7 });
        jobs.spawn("bad", async { panic!("a fault that this test makes") });
        let mut ends = Vec::new();
        while let Some((about, end)) = jobs.next().await {
            ends.push((about, end.ok()));
        }
        ends.sort_unstable();
        assert_eq!(ends, [("bad", None), ("good", Some(7))]);
    }
}
