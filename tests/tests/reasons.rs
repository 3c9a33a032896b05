//! The operator's table of reasons says exactly what the code says. `HEDGEROW_WRITE=1` writes it anew.

use std::collections::BTreeSet;

const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../appliance/REASONS.md");

#[test]
fn table_documents_every_reason() {
    let expected = hedgerow::explain::markdown();
    if std::env::var_os("HEDGEROW_WRITE").is_some() {
        std::fs::write(TABLE, &expected).expect("writing the table");
    }
    let written = std::fs::read_to_string(TABLE).unwrap_or_default();
    assert!(
        written == expected,
        "appliance/REASONS.md differs from the code: HEDGEROW_WRITE=1 tests/run reasons"
    );
}

#[test]
fn names_are_unique_and_paragraphs_say_something() {
    let dataplane: Vec<(&str, &str)> =
        hedgerow_dataplane::Reason::ALL.iter().map(|reason| (reason.name(), reason.manual())).collect();
    let policy: Vec<(&str, &str)> =
        hedgerow_policy::Reason::ALL.iter().map(|reason| (reason.name(), reason.manual())).collect();
    for set in [&dataplane, &policy] {
        let names: BTreeSet<&str> = set.iter().map(|(name, _)| *name).collect();
        assert_eq!(names.len(), set.len(), "a name is used twice");
        for (name, manual) in set {
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
            assert!(manual.trim().len() > 10 && manual.trim().ends_with(['.', ')']), "{name}: {manual}");
        }
    }
}
