//! The program under test: the same as `meridian`, built with the tests. One of its nodes may claim to speak other versions of the
//! mesh's protocol than it does, so that a mesh of mixed versions can be formed while there is one version.

fn main() -> std::process::ExitCode {
    if let Ok(versions) = std::env::var(tests::cluster::VERSIONS) {
        let versions = versions.split(' ').map(|version| version.parse().expect("a version")).collect();
        gossip::claim_versions(versions);
    }
    node::main()
}
