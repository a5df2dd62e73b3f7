use proptest::prelude::*;

use super::*;

const SERVICES: &str = "# the zone\n[dns.zone.\"example.com\"]\nfile = \"zones/example.zone\" # here\n";

/// A folder with a configuration and a zone file; the configuration is read.
fn file(services: &str, zone: &str) -> (tempfile::TempDir, ServicesFile) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("zones")).unwrap();
    std::fs::write(folder.path().join("zones/example.zone"), zone).unwrap();
    std::fs::write(folder.path().join("services.toml"), services).unwrap();
    let read = ServicesFile::read(&folder.path().join("services.toml")).unwrap();
    (folder, read)
}

/// `FILE:LINE:COLUMN MESSAGE`, without the file where it is the configuration itself.
fn faults(report: &Report) -> Vec<String> {
    let shown = report.entries().iter().map(|entry| {
        let file = entry.file.as_ref().map(|file| format!("{file}:")).unwrap_or_default();
        let mark = if entry.severity == Severity::Warning { "? " } else { "" };
        format!("{mark}{file}{}:{} {}", entry.line, entry.column, entry.message)
    });
    shown.collect()
}

fn refused(services: &str, zone: &str) -> Vec<String> {
    faults(&file(services, zone).1.validate().unwrap_err())
}

#[test]
fn a_zone_file_becomes_a_part_of_the_revision() {
    let zone = "@ NS ns\nns A 192.0.2.53\nwww TXT \"it's \\\"here\\\"\"\n";
    let (_folder, file) = file(SERVICES, zone);
    let direct = file.validate().unwrap().services;
    let revision = file.revision();
    assert!(revision.starts_with(
        "# the zone\n[dns.zone.\"example.com\"]\nfile = { name = \"zones/example.zone\", text = '''\n@ NS"
    ));
    assert!(revision.ends_with("''' } # here\n"), "{revision}");
    let alone = services::parse("services.toml", &revision).unwrap().services;
    assert_eq!(alone.zones[0].file, direct.zones[0].file);
    assert_eq!(alone.zones[0].file.as_ref().unwrap().records.len(), 3);
    // What a node gives back is applied as it is.
    let again = ServicesFile::beside(Path::new("-"), revision.clone());
    assert_eq!(again.revision(), revision);
}

#[test]
fn a_revision_that_names_a_file_is_refused_by_nodes() {
    let report = services::parse("services.toml", SERVICES).unwrap_err();
    assert_eq!(
        faults(&report),
        ["3:8 the text of the zone file `zones/example.zone` is missing, and no node has that file"]
    );
    assert!(report.entries()[0].hint.as_ref().unwrap().contains("meridian apply"));
}

#[test]
fn faults_of_a_zone_file_have_its_name_and_line() {
    let zone = "@ NS ns\nns A 192.0.2\n@ MX 10\n@ MX 5 m\n@ MX 5 m\n";
    let (_folder, read) = file(SERVICES, zone);
    let report = read.validate().unwrap_err();
    assert_eq!(
        faults(&report),
        [
            "zones/example.zone:2:6 the A value `192.0.2` is no IPv4 address, such as 192.0.2.1",
            "zones/example.zone:3:6 the MX value needs a preference and a name: `10 mail.example.com.`",
            "? zones/example.zone:5:3 this record is there twice; one counts",
        ]
    );
    assert!(
        report.to_string().contains("zones/example.zone:2:6]\n 2 | ns A 192.0.2\n   :      ^^^^^^^"),
        "{report}"
    );
    // The same from a node, which has the text from the revision.
    let report = services::parse("services.toml", &read.revision()).unwrap_err();
    assert_eq!(faults(&report).len(), 3);
    assert!(faults(&report)[0].starts_with("zones/example.zone:2:6 "), "{report}");
}

#[test]
fn a_file_and_the_configuration_must_not_contradict_each_other() {
    let with = |rest: &str| format!("{SERVICES}{rest}");
    let servers = "nameserver = { ns1 = [\"192.0.2.1\"] }\n";
    let soa = "@ SOA ns host 1 1 1 1 1\n@ NS ns.example.net.\n";
    assert_eq!(
        refused(&with(servers), soa),
        ["4:1 the zone file has the zone's name servers (NS), which `nameserver` says too"]
    );
    assert_eq!(
        refused(&with("contact = \"a@b.example\"\n"), soa),
        ["4:1 the zone file has the zone's SOA, which `contact` says too"]
    );
    assert_eq!(refused(SERVICES, "a A 192.0.2.1\n"), ["2:1 `nameserver` is missing here"]);
    let report = file(SERVICES, "a A 192.0.2.1\n").1.validate().unwrap_err();
    assert!(report.entries()[0].hint.as_ref().unwrap().contains("NS records of the zone itself in the file"));
    let steered = "steer.www.service = \"web\"\n[service.web]\nsplit.p = 1\n[pool.p]\nbackend = [{ address = \"192.0.2.9:80\" }]\n";
    assert_eq!(
        refused(&with(steered), "@ NS x.example.\nwww A 192.0.2.1\nwww TXT x\n"),
        [
            "zones/example.zone:2:5 this record stands beside steer.\"www\": a steered name has no A, AAAA or CNAME of its own; take one of the two out"
        ]
    );
    assert_eq!(
        refused(SERVICES, "@ NS ns9\n"),
        [
            "zones/example.zone:1:3 this record names the name server ns9.example.com., which has no address in this zone; add an A or AAAA record of it"
        ]
    );
    let record = "[[dns.zone.\"example.com\".record]]\nname = \"a\"\ntype = \"A\"\nvalue = \"192.0.2.1\"\n";
    assert_eq!(
        refused(&with(record), "@ NS x.example.\na CNAME b\n"),
        [
            "zones/example.zone:2:3 this record is an alias (CNAME) beside other records of this name; an alias stands alone"
        ]
    );
    assert!(file(&with(record), "@ NS x.example.\na 30 A 192.0.2.2\n").1.validate().is_ok());
    assert!(file(&with(servers), "a A 192.0.2.2\n").1.validate().is_ok());
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("services.toml");
    let read = |text: &str| ServicesFile::beside(&path, text.into()).validate().unwrap_err();
    let report = read(SERVICES);
    assert_eq!(report.entries().len(), 1, "{report}");
    assert!(
        faults(&report)[0].starts_with("3:8 the zone file `zones/example.zone` cannot be read: No such file"),
        "{report}"
    );
    std::fs::create_dir(folder.path().join("zones")).unwrap();
    std::fs::write(folder.path().join("zones/example.zone"), b"a\n\xff").unwrap();
    assert!(faults(&read(SERVICES))[0].ends_with("cannot be read: line 2 is not UTF-8"));
    assert!(faults(&read("[dns.zone.\"example.com\"]\nfile = \"/\""))[0].contains("cannot be read: "));
    for (value, expected) in [
        ("1", "`file` must be a string, not an integer"),
        ("{}", "`name` is missing here"),
        ("\"\"", "an empty string is no value for `file`"),
    ] {
        let report = read(&format!("[dns.zone.\"example.com\"]\nfile = {value}"));
        assert!(faults(&report)[0].contains(expected), "{report}");
    }
}

#[test]
fn all_files_together_fit_a_revision() {
    let record = "a TXT \"0123456789012345678901234567890123456789012345678901234567890123456789\"\n";
    let zone = |number: usize| {
        let owner = |at: usize| record.replacen('a', &format!("n{number}-{at}"), 1);
        (0..30_000).map(owner).collect::<String>() + "@ NS ns.example.net.\n"
    };
    let folder = tempfile::tempdir().unwrap();
    let mut services = String::new();
    for number in 0..2 {
        std::fs::write(folder.path().join(format!("{number}.zone")), zone(number)).unwrap();
        services += &format!("[dns.zone.\"z{number}.example\"]\nfile = \"{number}.zone\"\n");
        let valid = ServicesFile::beside(&folder.path().join("services.toml"), services.clone()).validate();
        match number {
            0 => assert!(valid.is_ok()),
            _ => assert!(faults(&valid.unwrap_err())[0].contains("with its zone files this has 5")),
        }
    }
}

proptest! {
    #[test]
    fn any_text_survives_the_revision(zone in "([a-z\"'\\\\ \t\r\n;\u{1}\u{85}é]|'''|\"\"\"){0,40}", path in "[a-z\"'\\\\ \t]{1,9}") {
        let services = format!("[dns.zone.\"example.com\"]\nfile = {}\nttl = \"1s\"\n", quoted(&path));
        let files = ZoneFiles(BTreeMap::from([(path.clone(), Ok(zone.clone()))]));
        let revision = ServicesFile { name: "x".into(), text: services, files }.revision();
        let read: toml::Table = revision.parse().unwrap();
        let file = &read["dns"]["zone"]["example.com"]["file"];
        prop_assert_eq!(file["name"].as_str(), Some(path.as_str()));
        prop_assert_eq!(file["text"].as_str(), Some(zone.as_str()));
    }
}
