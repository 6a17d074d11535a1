//! The headers, the manual page and the Rust code say the same.
//!
//! `make header` rewrites `include/unimem.h`, `man/unimem.3` and `man/unimem.1`.
mod manual;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The exported names with the header that declares each, from `unimem.map`.
fn exported() -> Vec<(String, String)> {
    let map = fs::read_to_string(root().join("unimem.map")).unwrap();
    let mut header = String::new();
    let mut names = Vec::new();
    for line in map.lines().map(str::trim) {
        if let Some(comment) = line.strip_prefix("/* unimem").and_then(|rest| rest.strip_suffix(" */")) {
            header = format!("unimem{comment}");
        } else if !header.is_empty() && line.ends_with(';') && !line.starts_with("local") && line != "};" {
            names.extend(line.split_terminator(';').map(|name| (name.trim().to_owned(), header.clone())));
        }
    }
    names
}

/// What a header begins with, as its reader needs it first.
const FIRST: [&str; 2] = ["interface.rs", "chunks.rs"];
/// The files with functions for C, and the types of their arguments. The seam's declare what is defined elsewhere.
fn boundary() -> Vec<PathBuf> {
    let files = fs::read_dir(root().join("src/c_api")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|ending| ending == "rs")).collect();
    files.retain(|path| !path.ends_with("mod.rs") && !path.ends_with("seam.rs"));
    let place = |file: &PathBuf| FIRST.iter().position(|name| file.ends_with(name)).unwrap_or(FIRST.len());
    files.sort_by_cached_key(|file| (place(file), file.clone()));
    files
}

/// What cbindgen makes of the functions that belong to `headers`.
fn bindings(headers: &[&str], adjust: impl Fn(&mut cbindgen::Config)) -> String {
    let mut config = cbindgen::Config::from_file(root().join("cbindgen.toml")).unwrap();
    let others = exported().into_iter().filter(|(_, header)| !headers.contains(&header.as_str()));
    config.export.exclude.extend(others.map(|(name, _)| name));
    adjust(&mut config);
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in boundary() {
        builder = builder.with_src(source);
    }
    let bindings = builder.generate().unwrap();
    let mut text = Vec::new();
    bindings.write(&mut text);
    // What Rust calls safety is a precondition to C.
    String::from_utf8(text).unwrap().replace(" * # Safety\n * ", " * @pre ")
}

/// Functions that a header declares: names followed by a parenthesis at the beginning of a line or after a `*` or space.
fn declared(header: &str) -> BTreeSet<String> {
    let code = header.lines().filter(|line| !line.trim_start().starts_with(['*', '/']));
    let names = code.filter_map(|line| {
        let before = line.split_once('(')?.0;
        Some(before.rsplit([' ', '*']).next()?.to_owned())
    });
    names.filter(|name| name.starts_with("unimem_")).collect()
}

/// A generated file is what would be made now, or is made so where that is asked for.
fn assert_current(file: &str, made: &str) {
    let path = root().join(file);
    if env::var_os("UNIMEM_BLESS").is_some() {
        fs::write(&path, made).unwrap();
    }
    assert!(fs::read_to_string(&path).unwrap_or_default() == made, "{file} is stale: run `make header`");
}
/// The functions of `unimem.h` that unimem.map lists.
fn listed() -> BTreeSet<String> {
    exported().into_iter().filter(|(_, header)| header == "unimem.h").map(|(name, _)| name).collect()
}

#[test]
fn unimem_h_is_current() {
    let made = bindings(&["unimem.h"], |_| ());
    assert_current("include/unimem.h", &made);
    assert_eq!(declared(&made), listed(), "left: include/unimem.h, right: unimem.map");
}

#[test]
fn manual_page_is_current() {
    let header = bindings(&["unimem.h"], |_| ());
    let template = fs::read_to_string(root().join("man/unimem.3.in")).unwrap();
    let made = manual::page(&template, &header, env!("CARGO_PKG_VERSION"));
    assert_current("man/unimem.3", &made);
    let described = listed();
    let missing: Vec<_> = described.iter().filter(|name| made.matches(name.as_str()).count() < 2).collect();
    assert!(missing.is_empty(), "not on the page: {missing:?}");
}

fn command_says(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_unimem")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn manual_page_of_the_command_is_current() {
    let help = command_says(&["help"]);
    let names = help.lines().filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next());
    let names = names.filter(|name| !name.starts_with('-') && *name != "help");
    let commands: Vec<_> = names.map(|name| (name.to_owned(), command_says(&["help", name]))).collect();
    assert!(!commands.is_empty());
    let made = manual::command_page(&help, &commands, env!("CARGO_PKG_VERSION"));
    assert_current("man/unimem.1", &made);
}

/// Compiles C that includes `header` and then declares the same functions as the Rust code has them.
fn agrees_with(header: &str, functions: &[&str]) {
    let prototypes = bindings(functions, |config| {
        config.export.item_types = vec![cbindgen::ItemType::Functions];
        config.include_guard = None;
        config.header = None;
        config.after_includes = None;
        // As the drop-in headers have it.
        config.export.rename.remove("MemoryPool");
    });
    let count = exported().iter().filter(|(_, header)| functions.contains(&header.as_str())).count();
    assert_eq!(prototypes.matches(");").count(), count, "not one prototype a name:\n{prototypes}");
    let name = header.replace('/', "_");
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("agrees_with_{name}.c"));
    fs::write(&file, format!("#include \"{header}\"\n{prototypes}")).unwrap();
    let compiler = env::var("CC").unwrap_or("cc".into());
    let output = Command::new(compiler)
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I", "include"])
        .arg(&file)
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn memory_pool_h_agrees() {
    agrees_with("unimem/memory_pool.h", &["unimem/memory_pool.h"]);
}

#[test]
fn advanced_memory_system_h_agrees() {
    agrees_with("unimem/advanced_memory_system.h", &["unimem/advanced_memory_system.h"]);
}

#[test]
fn memory_singleton_h_agrees() {
    agrees_with("unimem/memory_singleton.h", &["unimem/memory_singleton.h"]);
}

#[test]
fn tree_tensor_network_h_agrees() {
    agrees_with("unimem/tree_tensor_network.h", &["unimem/tree_tensor_network.h"]);
}
