use proptest::prelude::*;

use super::*;

const EXAMPLE: &str = include_str!("../../../../../deploy/examples/services.toml");

const ESCAPE: char = '\u{1b}';

/// Every entry points into the text, the report can be drawn, and a refusal has a reason.
fn check(text: &str) -> Result<(), TestCaseError> {
    let report = match parse("services.toml", text) {
        Ok(valid) => {
            prop_assert!(!valid.warnings.has_errors());
            valid.warnings
        }
        Err(report) => {
            prop_assert!(report.has_errors());
            report
        }
    };
    let lines: Vec<&str> = text.split('\n').collect();
    for entry in report.entries().iter().filter(|entry| entry.line > 0) {
        prop_assert!(entry.line <= lines.len(), "{entry:?}");
        prop_assert!((1..=lines[entry.line - 1].chars().count() + 1).contains(&entry.column), "{entry:?}");
    }
    prop_assert!(report.entries().len() <= Report::MAX_ENTRIES + 1);
    prop_assert!(report.is_empty() || report.render(true).contains("services.toml"));
    let plain = report.render(false);
    prop_assert!(!plain.contains(ESCAPE), "{plain}");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_text_is_answered(text in "\\PC{0,200}") {
        check(&text)?;
    }

    #[test]
    fn any_toml_like_text_is_answered(text in "([\\[\\]{}=,.\"'#\n\ra-c0-9 é]|pool|service|backend|sticky|\\[\\[){0,80}") {
        check(&text)?;
    }

    #[test]
    fn a_cut_is_answered(from in 0..EXAMPLE.len(), length in 0..200usize) {
        let to = (from + length).min(EXAMPLE.len());
        check(&[&EXAMPLE[..from], &EXAMPLE[to..]].concat())?;
    }

    #[test]
    fn another_value_is_answered(line in 0..EXAMPLE.lines().count(), value in "-?[0-9]{0,25}|\"\\PC{0,9}\"|\\[\\]|\\{\\}|true|1e999|nan|1979-05-27") {
        let lines = EXAMPLE.lines().enumerate().map(|(at, text)| match text.split_once(" = ") {
            Some((key, _)) if at == line => format!("{key} = {value}\n"),
            _ => format!("{text}\n"),
        });
        check(&lines.collect::<String>())?;
    }

    #[test]
    fn a_slip_in_a_key_is_found_at_its_place(key in prop::sample::select(vec!["latitude", "prefixes", "contact", "policy", "protocol", "split", "balance", "send_proxy"])) {
        let at = EXAMPLE.find(&format!("\n{key} =")).unwrap() + 1;
        let text = [&EXAMPLE[..at], "x", &EXAMPLE[at..]].concat();
        let line = EXAMPLE[..at].lines().count() + 1;
        let expected = format!("{line}:1 unknown key `x{key}` (did you mean `{key}`?)");
        prop_assert!(faults(&text).contains(&expected), "{:?}", faults(&text));
    }
}

#[test]
fn a_flood_of_faults_is_bounded() {
    let text = "[service.x]\n".to_owned() + &(0..50_000).map(|n| format!("k{n} = 1\n")).collect::<String>();
    let report = parse("services.toml", &text).unwrap_err();
    assert_eq!(report.entries().len(), Report::MAX_ENTRIES + 1);
    let last = report.entries().last().unwrap();
    assert_eq!((last.line, last.message.as_str()), (0, "and 49901 more"));
}

#[test]
fn a_file_that_is_too_large_is_not_looked_at() {
    let text = "x".repeat(walk::MAX_BYTES + 1);
    assert_eq!(faults(&text), ["0:0 the file has 4194305 bytes, and at most 4194304 are read"]);
}

#[test]
fn deep_nesting_is_refused() {
    assert!(parse("services.toml", &("x = ".to_owned() + &"[".repeat(100_000))).is_err());
    assert!(parse("services.toml", &("x".to_owned() + &".x".repeat(100_000) + " = 1")).is_err());
}

#[test]
fn no_number_of_warnings_hides_an_error() {
    let warnings: String = (0..2_000).map(|n| format!("[pool.p{n}]\nbackend = []\n")).collect();
    for text in [warnings.clone() + "bogus = 1\n", "bogus = 1\n".to_owned() + &warnings] {
        let report = parse("services.toml", &text).unwrap_err();
        assert!(report.entries()[..100].iter().any(|entry| entry.message == "unknown key `bogus`"));
    }
    assert!(parse("services.toml", &warnings).is_ok());
}
