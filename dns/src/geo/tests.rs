use std::sync::Arc;

use super::*;
use crate::fixtures::{geoip_databases, start};
use crate::{Policy, RegionSpec, Responder, Source, State, SteerSpec, Table, TableSpec, ZoneSpec};

#[allow(unreachable_pub, reason = "the harness of the proofs offers it to all")]
#[path = "../../../tests/src/mmdb.rs"]
mod mmdb;

fn here() -> PathBuf {
    std::env::temp_dir()
}

#[test]
fn distances_are_those_of_the_globe() {
    let place = |latitude, longitude| Location::new(latitude, longitude).unwrap();
    let [frankfurt, virginia, tokyo] = [place(50.11, 8.68), place(38.95, -77.45), place(35.68, 139.69)];
    assert!((frankfurt.distance_km(&virginia) - 6540.0).abs() < 30.0);
    assert!((frankfurt.distance_km(&tokyo) - 9340.0).abs() < 40.0);
    assert_eq!(frankfurt.distance_km(&frankfurt), 0.0);
    let [near, far] = [virginia, tokyo].map(|place| frankfurt.point().chord_squared(&place.point()));
    assert!(near < far && far < 4.0);
    // Over the date line and from pole to pole.
    assert!(place(0.0, 179.5).distance_km(&place(0.0, -179.5)) < 112.0);
    assert!((place(90.0, 0.0).distance_km(&place(-90.0, 0.0)) - 20015.0).abs() < 1.0);
    assert_eq!(Location::new(91.0, 0.0), None);
    assert_eq!(Location::new(f64::NAN, 0.0), None);
}

#[test]
fn a_missing_file_is_named() {
    let error = GeoIp::load(Path::new("/nonexistent/city.mmdb"), &here()).unwrap_err();
    assert!(matches!(error, GeoError::Unreadable { .. }));
    assert!(error.to_string().contains("/nonexistent/city.mmdb"), "{error}");
}

#[test]
fn a_file_of_something_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("city.mmdb");
    for content in [b"".as_slice(), b"hello", &[0xff; 4096]] {
        std::fs::write(&path, content).unwrap();
        assert!(matches!(GeoIp::load(&path, &here()), Err(GeoError::Damaged { .. })));
    }
}

#[test]
fn a_city_database_locates() {
    let Some(folder) = geoip_databases() else { return };
    let geo = GeoIp::load(&folder.join("GeoLite2-City-Test.mmdb"), &here()).unwrap();
    let london = geo.locate("81.2.69.160".parse().unwrap());
    let place = london.location.unwrap();
    assert!(place.distance_km(&Location::new(51.5, -0.1).unwrap()) < 50.0);
    assert!((8..=32).contains(&london.prefix_len));
    let nowhere = geo.locate("10.0.0.1".parse().unwrap());
    assert_eq!(nowhere.location, None);
    assert!(geo.locate("2001:218::1".parse().unwrap()).location.is_some());
    let country = GeoIp::load(&folder.join("GeoLite2-Country-Test.mmdb"), &here());
    assert!(matches!(country, Err(GeoError::NoLocations { .. })));
}

#[test]
fn damaged_databases_are_refused_or_read_without_a_panic() {
    let Some(folder) = geoip_databases() else { return };
    for entry in std::fs::read_dir(folder.join("bad")).unwrap() {
        let path = entry.unwrap().path();
        match GeoIp::load(&path, &here()) {
            Err(error) => assert!(error.to_string().contains(path.to_str().unwrap())),
            Ok(geo) => {
                for byte in 0..=255u8 {
                    geo.locate([byte, byte, 1, 1].into());
                    geo.locate([u16::from(byte) << 8, 0, 0, 0, 0, 0, 0, 1].into());
                }
            }
        }
    }
}

const FRANKFURT: (f64, f64) = (50.11, 8.68);
const VIRGINIA: (f64, f64) = (39.04, -77.49);

/// A database that places these networks.
fn written(folder: &Path, built: u64, places: &[(&str, (f64, f64))]) -> PathBuf {
    let places: Vec<_> = places.iter().map(|(network, (north, east))| (*network, *north, *east)).collect();
    let path = folder.join("city.mmdb");
    std::fs::write(&path, mmdb::database(built, &places)).unwrap();
    path
}

#[test]
fn what_a_database_says_holds_for_its_network() {
    let folder = tempfile::tempdir().unwrap();
    let places =
        [("198.51.100.0/24", FRANKFURT), ("2001:db8::/33", VIRGINIA), ("198.51.100.128/25", VIRGINIA)];
    let path = written(folder.path(), 1_700_000_000, &places);
    let geo = GeoIp::load(&path, folder.path()).unwrap();
    assert_eq!((geo.kind(), geo.built()), ("Test-City", 1_700_000_000));
    let locate = |address: &str| {
        let Located { location, prefix_len } = geo.locate(address.parse().unwrap());
        (location.map(|location| (location.latitude, location.longitude)), prefix_len)
    };
    assert_eq!(locate("198.51.100.7"), (Some(FRANKFURT), 25));
    assert_eq!(locate("198.51.100.200"), (Some(VIRGINIA), 25));
    assert_eq!(locate("2001:db8:1::1"), (Some(VIRGINIA), 33));
    assert_eq!(locate("192.0.2.1").0, None);
}

#[test]
fn a_database_cannot_play_with_a_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(folder.path(), 1, &[("198.51.100.0/24", FRANKFURT)]);
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(9).position(|window| window == b"Test-City").unwrap();
    bytes[at..at + 4].copy_from_slice(b"\x1b[2J");
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(GeoIp::load(&path, folder.path()).unwrap().kind(), "[2J-City");
}

#[test]
fn what_becomes_of_the_file_does_not_matter() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(folder.path(), 1, &[("198.51.100.0/24", FRANKFURT)]);
    let geo = GeoIp::load(&path, folder.path()).unwrap();
    assert!(geo.is_mapped());
    let place = geo.locate("198.51.100.7".parse().unwrap());
    assert!(place.location.is_some());
    // Under a map of the file itself this would end the process.
    std::fs::write(&path, b"").unwrap();
    assert_eq!(geo.locate("198.51.100.7".parse().unwrap()), place);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(geo.locate("198.51.100.7".parse().unwrap()), place);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the copy has no name");
}

#[test]
fn without_room_for_a_copy_the_file_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(folder.path(), 1, &[("198.51.100.0/24", FRANKFURT)]);
    let geo = GeoIp::load(&path, &folder.path().join("missing")).unwrap();
    assert!(!geo.is_mapped());
    assert!(geo.locate("198.51.100.7".parse().unwrap()).location.is_some());
}

#[test]
fn a_folder_or_a_pipe_is_no_database() {
    let folder = tempfile::tempdir().unwrap();
    let error = GeoIp::load(folder.path(), folder.path()).unwrap_err();
    assert!(error.to_string().ends_with("it is not a file"), "{error}");
}

#[test]
fn every_cut_of_a_database_is_refused_or_read_without_a_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(folder.path(), 1, &[("198.51.100.0/24", FRANKFURT), ("2001:db8::/32", VIRGINIA)]);
    let whole = std::fs::read(&path).unwrap();
    for length in (0..whole.len()).step_by(7) {
        std::fs::write(&path, &whole[..length]).unwrap();
        assert!(GeoIp::load(&path, folder.path()).is_err(), "{length} bytes");
    }
}

#[test]
fn another_database_moves_its_users() {
    let folder = tempfile::tempdir().unwrap();
    let load = |place| {
        let path = written(folder.path(), 1, &[("198.51.100.0/24", place)]);
        Some(Arc::new(GeoIp::load(&path, folder.path()).unwrap()))
    };
    let region = |name: &str, location, prefixes: &[&str]| RegionSpec {
        name: name.into(),
        location: Some(location),
        prefixes: prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect(),
    };
    let zone = ZoneSpec {
        name: "example.com".into(),
        nameservers: vec![("ns1".into(), vec!["192.0.2.1".parse().unwrap()])],
        contact: "a@example.com".into(),
        ttl: std::time::Duration::from_secs(30),
        steers: vec![SteerSpec {
            label: "www".into(),
            service: "web".into(),
            policy: Policy::Nearest,
            answers: 1,
            shed: None,
        }],
        ..ZoneSpec::default()
    };
    let regions = vec![region("eu", FRANKFURT, &["198.51.100.240/28"]), region("us", VIRGINIA, &[])];
    let table = Table::build(&TableSpec { serial: 1, zones: vec![zone], regions }).unwrap();
    let responder = Responder::new(table, 1);
    responder.set_state(Arc::new(State { own_region: "eu".into(), ..crate::fixtures::state() }));
    let explain = |address: &str| {
        let client = address.parse().unwrap();
        let steering =
            responder.explain("www.example.com", "A", client, start().monotonic).unwrap().steering.unwrap();
        (steering.source, steering.order[0].clone())
    };
    let (user, pinned) = ("198.51.100.7/32", "198.51.100.241/32");
    assert_eq!(explain(user), (Source::OwnRegion, "eu".into()));
    responder.set_geo(load(VIRGINIA));
    assert_eq!(explain(user), (Source::GeoIp, "us".into()));
    assert_eq!(explain(pinned), (Source::Prefixes, "eu".into()), "prefixes overrule the file");
    responder.set_geo(load(FRANKFURT));
    assert_eq!(explain(user), (Source::GeoIp, "eu".into()));
}
