use super::*;

#[allow(unreachable_pub, reason = "the harness of the proofs offers it to all")]
#[path = "../../../tests/src/mmdb.rs"]
mod mmdb;

fn database(built: u64) -> Vec<u8> {
    mmdb::database(built, &[("198.51.100.0/24", 50.11, 8.68)])
}

/// Two looks: the first sees what there is, the second that it is still the same.
fn twice(file: &mut GeoFile) -> Option<u64> {
    let first = file.look();
    let found = first.or(file.look());
    found.map(|database| database.built())
}

#[test]
fn a_replaced_file_is_opened_and_a_bad_one_takes_nothing_away() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("city.mmdb");
    let mut file = GeoFile::new(&path, folder.path());
    assert_eq!(twice(&mut file), None);
    assert!(file.status.problem.as_ref().is_some_and(|problem| problem.contains("No such file")));

    std::fs::write(&path, database(1)).unwrap();
    assert_eq!(twice(&mut file), Some(1));
    assert_eq!((file.status.problem.clone(), twice(&mut file)), (None, None), "it is opened once");

    // Put in its place, as geoipupdate does.
    std::fs::write(folder.path().join("new"), database(2)).unwrap();
    std::fs::rename(folder.path().join("new"), &path).unwrap();
    assert_eq!(twice(&mut file), Some(2));

    std::fs::write(&path, b"half a file").unwrap();
    assert_eq!(twice(&mut file), None);
    assert_eq!(file.status.database, Some(("Test-City".into(), 2)), "the old one stays in use");
    assert!(file.status.problem.as_ref().is_some_and(|problem| problem.contains("damaged")));

    std::fs::write(&path, database(3)).unwrap();
    assert_eq!(twice(&mut file), Some(3));
    assert_eq!(file.status.problem, None);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(twice(&mut file), None);
    assert!(file.status.problem.is_some() && file.status.database.is_some());
}

#[test]
fn a_file_that_is_being_written_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("city.mmdb");
    let whole = database(1);
    let mut file = GeoFile::new(&path, folder.path());
    for end in [10, 100, whole.len()] {
        std::fs::write(&path, &whole[..end]).unwrap();
        assert!(file.look().is_none() && file.status.problem.is_none(), "it was not touched at {end}");
    }
    assert!(file.look().is_some());
}

#[test]
fn operators_are_told_what_is_used_instead() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("city.mmdb");
    let responder = Responder::new(dns::Table::empty(), 1);
    let (geo, mut file) = (Geo::default(), GeoFile::new(&path, folder.path()));
    assert_eq!(geo.problem(), None, "no file is configured");
    let mut step = || {
        let database = file.look().or_else(|| file.look());
        told(&geo, &file.status, database, &responder);
        geo.problem()
    };
    let problem = step().unwrap();
    assert!(problem.contains("city.mmdb") && problem.contains("placed by prefix"), "{problem}");
    std::fs::write(&path, database(1)).unwrap();
    assert_eq!(step(), None);
    std::fs::write(&path, b"").unwrap();
    assert!(step().unwrap().ends_with("Test-City as it was read before stays in use"));
}
