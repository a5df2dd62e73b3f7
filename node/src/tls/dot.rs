//! What DNS over TLS shows: certificates named by `node.toml`, read at the start and again within seconds when they change.
//!
//! As with listeners, a file that cannot be read takes nothing away: what was read before stays in use, and without anything clients
//! are turned away and DNS goes on by its other ways.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use gossip::clock::{Clock, Wall};
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};

use super::files::{self, Identity, Tracked};
use super::keeper::{LOOK, TlsConfig};
use super::server::{self, Parts};
use super::tickets::TicketKeys;
use crate::config::model::CertificateFiles;

/// What tickets are bound to; no listener has a blank in its name.
const CONTEXT: &str = "dns over tls";

#[derive(Debug, Default)]
struct InForce {
    config: Option<Arc<ServerConfig>>,
    problems: BTreeSet<String>,
}

/// What is in force. Cheap to clone; the default shows nothing and has no problem.
#[derive(Debug, Clone, Default)]
pub(crate) struct Dot(Arc<ArcSwap<InForce>>);

impl Dot {
    /// What the next client is shown; `None`: there is no certificate.
    pub(crate) fn config(&self) -> Option<Arc<ServerConfig>> {
        self.0.load().config.clone()
    }

    /// What is wrong with files, in words for operators.
    pub(crate) fn problems(&self) -> Vec<String> {
        self.0.load().problems.iter().cloned().collect()
    }
}

/// Reads the certificates, then goes on by itself; the task runs until it is aborted.
pub(crate) fn start(
    certificates: Vec<CertificateFiles>,
    config: &TlsConfig,
) -> (Dot, impl Future<Output = ()> + Send + use<>) {
    let mut keeper = Keeper {
        files: certificates.into_iter().map(|files| (files, Tracked::default())).collect(),
        tickets: config.tickets.clone(),
        provider: Arc::new(aws_lc_rs::default_provider()),
        shown: None,
    };
    let dot = Dot::default();
    let first = keeper.look(config.clock.wall());
    keeper.tell(&dot, first);
    let follower = follow(keeper, dot.clone(), config.clock.clone());
    (dot, follower)
}

async fn follow(mut keeper: Keeper, dot: Dot, clock: Clock) {
    loop {
        tokio::time::sleep(LOOK).await;
        let now = clock.wall();
        let looked = tokio::task::spawn_blocking(move || {
            let next = keeper.look(now);
            (keeper, next)
        });
        let Ok(looked) = looked.await else {
            return tracing::error!(
                "certificates of DNS over TLS are no longer looked after; those in force stay"
            );
        };
        keeper = looked.0;
        keeper.tell(&dot, looked.1);
    }
}

struct Keeper {
    files: Vec<(CertificateFiles, Tracked<Identity>)>,
    tickets: TicketKeys,
    provider: Arc<CryptoProvider>,
    shown: Option<(Parts, Arc<ServerConfig>)>,
}

impl Keeper {
    /// Looks at every file and says what is in force from now on.
    fn look(&mut self, now: Wall) -> InForce {
        let mut problems = BTreeSet::new();
        let mut identities = Vec::new();
        for (files, tracked) in &mut self.files {
            let paths: [&Path; 2] = [&files.cert, &files.key];
            let first = tracked.value().is_none();
            if tracked.look(&paths, || files::identity(files, &self.provider)) && !first {
                tracing::info!(certificate = %files.cert.display(), "the certificate of DNS over TLS changed and is in use");
            }
            let identity = tracked.value().cloned();
            if let Some(error) = tracked.error() {
                let instead = match identity {
                    Some(_) => "the certificate read before stays in use",
                    None => "clients that need it are turned away",
                };
                problems.insert(format!("DNS over TLS: {error}; {instead}"));
            } else if identity.as_ref().is_some_and(|identity| identity.is_expired(now)) {
                problems
                    .insert(format!("DNS over TLS: the certificate in {} has expired", files.cert.display()));
            }
            identities.push(identity);
        }
        if identities.iter().all(Option::is_none) {
            self.shown = None;
            return InForce { config: None, problems };
        }
        let parts = Parts { identities, clients: None };
        if !self.shown.as_ref().is_some_and(|(shown, _)| shown.are(&parts)) {
            match server::config(CONTEXT, &parts, &[dns::DOT_ALPN], &self.tickets, &self.provider) {
                Ok(config) => self.shown = Some((parts, Arc::new(config))),
                Err(error) => drop(problems.insert(format!("DNS over TLS: {error}"))),
            }
        }
        InForce { config: self.shown.as_ref().map(|(_, config)| config.clone()), problems }
    }

    /// Puts it in force; each problem is told once.
    fn tell(&self, dot: &Dot, next: InForce) {
        let before = dot.0.load();
        for problem in next.problems.difference(&before.problems) {
            tracing::error!("{problem}");
        }
        for problem in before.problems.difference(&next.problems) {
            tracing::info!("no longer: {problem}");
        }
        dot.0.store(Arc::new(next));
    }
}

#[cfg(test)]
mod tests {
    use gossip::keyring::Keyring;

    use super::*;
    use crate::tls::testing::Authority;

    #[test]
    fn certificates_are_read_again_and_bad_ones_take_nothing_away() {
        let folder = tempfile::tempdir().unwrap();
        let [cert, key] = ["dns.pem", "dns.key"].map(|name| folder.path().join(name));
        let keyring = Keyring::generate();
        let tickets = TicketKeys::new(&keyring, Clock::system());
        let config = TlsConfig { tickets, clock: Clock::system() };
        let files = CertificateFiles { cert: cert.clone(), key: key.clone() };
        let mut keeper = Keeper {
            files: vec![(files, Tracked::default())],
            tickets: config.tickets.clone(),
            provider: Arc::new(aws_lc_rs::default_provider()),
            shown: None,
        };
        let dot = Dot::default();
        let mut look = || {
            let next = keeper.look(config.clock.wall());
            keeper.tell(&dot, next);
            (dot.config(), dot.problems())
        };
        let (shown, problems) = look();
        assert!(
            shown.is_none() && problems.len() == 1 && problems[0].contains("there is no such file"),
            "{problems:?}"
        );
        let write = |name: &str| {
            Authority::new().sign(&[name]).write(folder.path(), "dns");
        };
        write("ns1.example");
        let (first, problems) = look();
        assert!(
            first.as_ref().is_some_and(|shown| shown.alpn_protocols == [dns::DOT_ALPN])
                && problems.is_empty()
        );
        assert!(Arc::ptr_eq(&look().0.unwrap(), first.as_ref().unwrap()), "nothing changed");
        std::fs::write(&cert, "nothing").unwrap();
        let (kept, problems) = look();
        assert!(Arc::ptr_eq(&kept.unwrap(), first.as_ref().unwrap()));
        assert!(problems[0].contains("stays in use"), "{problems:?}");
        write("ns1.example");
        let (second, problems) = look();
        assert!(!Arc::ptr_eq(&second.unwrap(), &first.unwrap()) && problems.is_empty());
    }
}
