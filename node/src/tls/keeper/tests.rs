use std::fs;

use tempfile::TempDir;

use gossip::keyring::Keyring;

use super::*;
use crate::proxy::fixture::{http_listener, pool};
use crate::tls::testing::Authority;

struct Desk {
    folder: TempDir,
    authority: Authority,
    keeper: Keeper,
    clock: Clock,
}

impl Desk {
    fn new() -> Self {
        let clock = Clock::system();
        Self {
            folder: tempfile::tempdir().unwrap(),
            authority: Authority::new(),
            keeper: Keeper::new(TicketKeys::new(&Keyring::generate(), clock.clone())),
            clock,
        }
    }

    fn write(&self, name: &str) -> CertificateFiles {
        self.authority.sign(&[&format!("{name}.example")]).write(self.folder.path(), name)
    }

    fn absent(&self, name: &str) -> CertificateFiles {
        let path = |end: &str| self.folder.path().join(format!("{name}.{end}"));
        CertificateFiles { cert: path("pem"), key: path("key") }
    }

    fn look(&mut self, services: &Services) -> Table {
        let table = self.keeper.look(services, self.clock.wall());
        for problem in &table.problems {
            assert!(!problem.contains("PRIVATE"), "{problem}");
        }
        table
    }

    fn serving(&self) -> Vec<Option<Vec<String>>> {
        let parts = &self.keeper.listeners["https"].parts;
        parts.identities.iter().map(|identity| Some(identity.as_ref()?.names.clone())).collect()
    }
}

fn services(certificates: &[&CertificateFiles], client_ca: Option<PathBuf>) -> Services {
    let listener = Listener {
        protocol: ListenerProtocol::Https,
        certificates: certificates.iter().map(|files| (*files).clone()).collect(),
        client_ca,
        ..http_listener("https", 443)
    };
    let mut services = Services::default();
    services.listeners.insert(listener.name.clone(), Arc::new(listener));
    services
}

fn with_ca(ca: Option<PathBuf>) -> Services {
    let tls = Some(BackendTls { ca, server_name: None });
    let pool = crate::config::model::Pool { tls, ..pool("web", &[]) };
    let mut services = Services::default();
    services.pools.insert(pool.name.clone(), Arc::new(pool));
    services
}

fn named(name: &str) -> Option<Vec<String>> {
    Some(vec![format!("{name}.example")])
}

#[test]
fn what_did_not_change_stays_the_same_configuration() {
    let mut desk = Desk::new();
    let services = services(&[&desk.write("a"), &desk.write("b")], None);
    let first = desk.look(&services).listeners["https"].clone().unwrap();
    let again = desk.look(&services).listeners["https"].clone().unwrap();
    assert!(Arc::ptr_eq(&first, &again));
    assert_eq!(desk.serving(), [named("a"), named("b")]);
}

#[test]
fn a_changed_file_is_in_use_and_a_broken_one_is_not() {
    let mut desk = Desk::new();
    let files = desk.write("a");
    let services = services(&[&files], None);
    desk.look(&services);
    desk.authority.sign(&["new.example"]).write(desk.folder.path(), "a");
    assert_eq!(desk.look(&services).problems, [""; 0]);
    assert_eq!(desk.serving(), [named("new")]);

    // A key that was replaced before its certificate.
    let other = desk.write("other");
    let good = fs::read(&files.key).unwrap();
    fs::copy(&other.key, &files.key).unwrap();
    let problems = desk.look(&services).problems;
    assert!(problems[0].starts_with("listener https: the key in "), "{problems:?}");
    assert!(problems[0].ends_with("the certificate read before stays in use"), "{problems:?}");
    assert_eq!(desk.serving(), [named("new")]);
    fs::write(&files.key, good).unwrap();
    assert_eq!(desk.look(&services).problems, [""; 0]);

    fs::remove_file(&files.cert).unwrap();
    assert!(desk.look(&services).problems[0].contains("there is no such file"));
    assert_eq!(desk.serving(), [named("new")]);
}

#[test]
fn every_kind_of_bad_file_has_its_words() {
    let mut desk = Desk::new();
    let good = desk.write("a");
    let path = |name: &str| desk.folder.path().join(name);
    let (empty, noise, torn, large) = (path("empty"), path("noise"), path("torn"), path("large"));
    fs::write(&empty, "").unwrap();
    fs::write(&noise, [0xff; 4096]).unwrap();
    let pem = fs::read_to_string(&good.cert).unwrap();
    fs::write(&torn, &pem[..pem.len() / 2]).unwrap();
    fs::write(&large, vec![b'\n'; 2 << 20]).unwrap();
    for (bad, words) in [
        (&empty, "holds no certificate in PEM"),
        (&noise, "holds no certificate in PEM"),
        (&torn, "holds no certificate in PEM"),
        (&large, "more than 1048576 bytes"),
        (&desk.folder.path().to_owned(), "it is not a file"),
        (&good.key, "holds no certificate in PEM"),
    ] {
        let files = CertificateFiles { cert: bad.clone(), key: good.key.clone() };
        let problems = desk.look(&services(&[&desk.absent("none"), &files], None)).problems;
        assert!(problems.iter().any(|problem| problem.contains(words)), "{words}: {problems:?}");
    }
    let files = CertificateFiles { cert: good.cert.clone(), key: good.cert.clone() };
    let problems = desk.look(&services(&[&files], None)).problems;
    assert!(problems[0].contains("holds no private key in PEM"), "{problems:?}");
}

#[test]
fn a_revision_with_files_that_are_not_there_takes_nothing_away() {
    let mut desk = Desk::new();
    let (a, b) = (desk.write("a"), desk.write("b"));
    desk.look(&services(&[&a, &b], None));
    let absent = desk.absent("c");
    let problems = desk.look(&services(&[&a, &absent], None)).problems;
    assert!(problems[0].ends_with("the certificate read before stays in use"), "{problems:?}");
    assert_eq!(desk.serving(), [named("a"), named("b")]);
    desk.write("c");
    assert_eq!(desk.look(&services(&[&a, &absent], None)).problems, [""; 0]);
    assert_eq!(desk.serving(), [named("a"), named("c")]);
}

#[test]
fn a_file_that_never_was_costs_only_its_own_handshakes() {
    let mut desk = Desk::new();
    let services = services(&[&desk.write("a"), &desk.absent("b")], None);
    let table = desk.look(&services);
    assert!(table.listeners["https"].is_some());
    assert!(table.problems[0].ends_with("handshakes that need it are refused"), "{:?}", table.problems);
    assert_eq!(desk.serving(), [named("a"), None]);
}

#[test]
fn without_the_authorities_of_clients_nobody_is_let_in() {
    let mut desk = Desk::new();
    let ca = desk.folder.path().join("ca.pem");
    let services = services(&[&desk.write("a")], Some(ca.clone()));
    let table = desk.look(&services);
    assert!(table.listeners["https"].is_none());
    assert!(table.problems[0].ends_with("all handshakes are refused"), "{:?}", table.problems);
    fs::write(&ca, desk.authority.pem()).unwrap();
    let table = desk.look(&services);
    assert!(table.listeners["https"].is_some() && table.problems.is_empty());
    fs::remove_file(&ca).unwrap();
    let table = desk.look(&services);
    assert!(table.listeners["https"].is_some());
    assert!(table.problems[0].ends_with("the authorities read before stay in use"), "{:?}", table.problems);
}

#[test]
fn backends_that_cannot_be_verified_are_not_used() {
    let mut desk = Desk::new();
    let ca = desk.folder.path().join("ca.pem");
    assert!(desk.look(&with_ca(None)).pools["web"].is_some());
    let table = desk.look(&with_ca(Some(ca.clone())));
    assert!(table.pools["web"].is_none());
    assert!(table.problems[0].ends_with("its backends cannot be verified and are not used"));
    fs::write(&ca, desk.authority.pem()).unwrap();
    let first = desk.look(&with_ca(Some(ca.clone()))).pools["web"].clone().unwrap();
    let again = desk.look(&with_ca(Some(ca))).pools["web"].clone().unwrap();
    assert!(Arc::ptr_eq(&first, &again));
}

#[test]
fn an_expired_certificate_is_told() {
    let mut desk = Desk::new();
    let files = desk.authority.sign_expired(&["a.example"]).write(desk.folder.path(), "a");
    let problems = desk.look(&services(&[&files], None)).problems;
    assert!(problems[0].ends_with("a.pem has expired"), "{problems:?}");
}
