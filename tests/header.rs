//! include/trafficgpt.h is what the sources say, and compiles alone as C and as C++.
//!
//! `TRAFFICGPT_UPDATE=1 cargo test --test header` writes it anew.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use trafficgpt::config::KEYS;

/// In the order of the data's way; the header follows it.
const SOURCES: [&str; 15] = [
    "ffi/library.rs",
    "ffi/error.rs",
    "ffi/config.rs",
    "ffi/log.rs",
    "ffi/context.rs",
    "ffi/worker.rs",
    "packet.rs",
    "ffi/capture.rs",
    "ffi/quantizer.rs",
    "ffi/classifier.rs",
    "ffi/generator.rs",
    "flows/observation.rs",
    "flows/frames.rs",
    "flows/verdict.rs",
    "ffi/flows.rs",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The part of the preamble that comes from the table of settings.
fn settings() -> String {
    let mut out = String::from("\n\n/* SETTINGS, for tgpt_config_set: key (default), meaning\n");
    for key in KEYS {
        let default = if key.default.is_empty() { "empty" } else { key.default };
        let mut line = format!(" *   {} ({default}):", key.name);
        for word in key.help.split_whitespace() {
            if line.len() + 1 + word.len() > 120 {
                writeln!(out, "{line}").unwrap();
                line = " *      ".into();
            }
            write!(line, " {word}").unwrap();
        }
        writeln!(out, "{line}").unwrap();
    }
    out + " */"
}

fn generated() -> String {
    let mut config = cbindgen::Config::from_file(root().join("cbindgen.toml")).unwrap();
    config.header = Some(config.header.unwrap_or_default() + &settings());
    let version = env!("CARGO_PKG_VERSION");
    config.after_includes = Some(format!(
        "\n/** The version of this header; tgpt_version() tells the loaded library's. */\n\
         #define TGPT_VERSION \"{version}\"\n\n\
         /** A tgpt_sampling with every field at its default. */\n\
         #define TGPT_SAMPLING_INIT {{sizeof(tgpt_sampling), 0, 0, TGPT_UNKNOWN, 0, 0, 1.0f, 1.0f, 0, 0, 0, NULL, {{0, 0}}}}"
    ));
    let sources = SOURCES.iter().map(|file| root().join("src").join(file)).filter(|path| path.exists());
    let builder = sources.fold(cbindgen::Builder::new().with_config(config), cbindgen::Builder::with_src);
    let mut out = Vec::new();
    builder.generate().unwrap().write(&mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn the_committed_header_is_the_generated_one() {
    let path = root().join("include/trafficgpt.h");
    let generated = generated();
    if std::env::var_os("TRAFFICGPT_UPDATE").is_some() {
        std::fs::write(&path, &generated).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == generated, "include/trafficgpt.h is out of date: run `make header` and commit what it writes");
}

/// The manual is whole: every call says since when it is there, which errors it gives, and which threads may call it.
#[test]
fn every_call_is_documented() {
    let header = generated();
    let mut calls = 0;
    for part in header.split("/**\n").skip(1) {
        let Some((comment, declaration)) = part.split_once(" */\n") else { continue };
        let declaration = declaration.split(';').next().unwrap();
        if !declaration.contains("tgpt_") || !declaration.contains('(') || declaration.contains(['{', '#']) {
            continue;
        }
        calls += 1;
        let frees = declaration.contains("_free(");
        let must =
            |what: &str| assert!(comment.contains(what), "no {what:?} in the comment of {declaration}:\n{comment}");
        must("Since: ");
        if frees {
            must("NULL is legal");
        } else {
            must("Threads: ");
        }
        if declaration.contains("tgpt_error *error") {
            must("Errors: ");
        }
        for argument in declaration.split_once('(').unwrap().1.split(',') {
            let name = argument.trim_end_matches(')').rsplit([' ', '*']).next().unwrap();
            let handle = argument.contains("struct tgpt_")
                && !argument.contains("**")
                && argument.contains(&format!("tgpt_{name} "));
            let spoken = comment.contains(&format!("`{name}`")) || comment.contains(&format!("`*{name}`"));
            assert!(handle || spoken || name == "error" || name == "void", "{name} of {declaration}:\n{comment}");
        }
    }
    let source = |file: &&str| std::fs::read_to_string(root().join("src").join(file)).unwrap();
    let exported: usize = SOURCES.iter().map(|file| source(file).matches("#[unsafe(no_mangle)]").count()).sum();
    assert_eq!(calls, exported);
}

/// A header must stand on its own, in every language that can include it.
#[test]
fn the_header_compiles_alone() {
    let directory = tempfile::tempdir().unwrap();
    for (compiler, language, standard) in
        [("cc", "c", "c99"), ("cc", "c", "c17"), ("c++", "c++", "c++11"), ("c++", "c++", "c++20")]
    {
        let source = directory.path().join(format!("alone.{}", if language == "c" { "c" } else { "cpp" }));
        let text = "#include <trafficgpt.h>\n#include <trafficgpt.h>\n\
                    tgpt_sampling sampling(void);\n\
                    tgpt_sampling sampling(void) { tgpt_sampling s = TGPT_SAMPLING_INIT; return s; }\n";
        std::fs::write(&source, text).unwrap();
        let status = Command::new(compiler)
            .args(["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror", "-c", "-x", language])
            .arg(format!("-std={standard}"))
            .arg("-I")
            .arg(root().join("include"))
            .args([source.as_os_str(), "-o".as_ref(), directory.path().join("alone.o").as_os_str()])
            .status()
            .expect("a C and a C++ compiler are needed, as cc and c++");
        assert!(status.success(), "{compiler} -std={standard}");
    }
}
