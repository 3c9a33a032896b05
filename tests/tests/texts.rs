//! What a reader meets: files say what they are for, links lead somewhere, nothing was left behind.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the workspace")
}

/// Files with an extension, build outputs and caches left out.
fn files(extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.is_dir() {
                if !name.starts_with('.') && name != "target" {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty(), "no *.{extension}");
    found
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_source_file_says_what_it_is_for() {
    let silent: Vec<PathBuf> =
        files("rs").into_iter().filter(|path| !read(path).starts_with("//!")).collect();
    assert!(silent.is_empty(), "no module documentation: {silent:#?}");
}

#[test]
fn no_source_file_grows_beyond_reading() {
    let long: Vec<(PathBuf, usize)> = files("rs")
        .into_iter()
        .map(|path| (read(&path).lines().take_while(|line| *line != "#[cfg(test)]").count(), path))
        .filter(|(lines, path)| *lines >= 1000 && !path.to_string_lossy().contains("tests"))
        .map(|(lines, path)| (path, lines))
        .collect();
    assert!(long.is_empty(), "too long: {long:#?}");
}

#[test]
fn nothing_is_left_to_be_done_in_a_comment() {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:"), concat!("#[ig", "nore")];
    let left: Vec<String> = files("rs")
        .into_iter()
        .flat_map(|path| {
            let text = read(&path);
            let lines =
                text.lines().enumerate().filter(|(_, line)| marks.iter().any(|mark| line.contains(mark)));
            lines
                .map(|(number, line)| format!("{}:{}: {line}", path.display(), number + 1))
                .collect::<Vec<_>>()
        })
        .collect();
    assert!(left.is_empty(), "{}", left.join("\n"));
}

/// The targets of `[text](target)` in a document.
fn links(text: &str) -> Vec<&str> {
    text.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect()
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut broken = Vec::new();
    for document in files("md") {
        let text = read(&document);
        for link in links(&text) {
            let target = link.split('#').next().unwrap_or_default();
            let elsewhere = target.is_empty() || link.contains("://") || link.starts_with("mailto:");
            let folder = document.parent().expect("a folder");
            if !elsewhere && !folder.join(target).exists() {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
