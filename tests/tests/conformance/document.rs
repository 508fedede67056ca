//! `docs/conformance.md` names tests that exist, and all of these.

use std::{collections::BTreeSet, fs, path::Path};

use crate::Result;

fn workspace() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the workspace")
}

/// What is in backquotes and looks like `path.rs::name`.
fn named(document: &str) -> BTreeSet<(&str, &str)> {
    let quoted = document.split('`').skip(1).step_by(2);
    quoted
        .filter_map(|text| text.split_once("::"))
        .filter(|(path, _)| path.ends_with(".rs"))
        .collect()
}

/// The functions that follow `#[test]`, and those of `proptest!`, which has that too.
fn tests(source: &str) -> BTreeSet<&str> {
    let after = source.split("#[test]").skip(1);
    after
        .filter_map(|rest| rest.split_once("fn ")?.1.split(['(', '<']).next())
        .collect()
}

#[test]
fn every_test_that_the_table_names_exists() -> Result {
    let document = fs::read_to_string(workspace().join("docs/conformance.md"))?;
    let named = named(&document);
    assert!(named.len() > 50, "it has a table");
    let mut missing = Vec::new();
    for (path, test) in &named {
        let source = fs::read_to_string(workspace().join(path)).unwrap_or_default();
        if !tests(&source).contains(test) {
            missing.push(format!("{path}::{test}"));
        }
    }
    assert_eq!(missing, [""; 0]);
    Ok(())
}

#[test]
fn the_table_names_every_test_of_this_directory() -> Result {
    let document = fs::read_to_string(workspace().join("docs/conformance.md"))?;
    let named = named(&document);
    let mut missing = Vec::new();
    for entry in fs::read_dir(workspace().join("tests/tests/conformance"))? {
        let path = entry?.path();
        let source = fs::read_to_string(&path)?;
        let path = path.strip_prefix(workspace())?.display().to_string();
        for test in tests(&source)
            .into_iter()
            .filter(|name| name.starts_with("rfc"))
        {
            if !named.contains(&(path.as_str(), test)) {
                missing.push(format!("{path}::{test}"));
            }
        }
    }
    assert_eq!(missing, [""; 0]);
    Ok(())
}
