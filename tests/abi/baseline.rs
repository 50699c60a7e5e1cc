//! The libabigail baseline: every exported function with the types of its arguments, as C sees them.
//!
//! The baseline is made from the header, not from the shared library: the library's own debug information describes the
//! types of Rust, which no caller sees (its `tgpt_packet` is `Packet`, its handles are zero-sized), takes minutes to
//! build, and changes with the compiler. What the header says is what the library does: it is generated from the same
//! sources (tests/header.rs), and the names here must be those that the library exports. So a stub is compiled that
//! defines each function of the header to do nothing, and its description is small and is the same on other machines.

use crate::harness::{installed, output_of, root, skip, text};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const BASELINE: &str = "tests/abi/libtrafficgpt.abi.xml";

/// What abidiff's exit status says: bits of an error in its use, and of a change.
const UNUSABLE: i32 = 3;
const CHANGED: i32 = 4 | 8;

/// The header with every declaration of a function made its definition.
fn definitions(header: &str) -> String {
    let mut out = String::new();
    let mut rest = header;
    while let Some(at) = rest.find(");\n") {
        let (declaration, after) = rest.split_at(at + 1);
        out += declaration;
        // At the begin of a line, so no member of a struct and no word of a comment.
        let line = declaration.lines().rev().find(|line| !line.starts_with(' ')).unwrap_or_default();
        let is_function = line.contains('(');
        out += match (is_function, line.starts_with("void ")) {
            (true, true) => " {}\n",
            (true, false) => " { return 0; }\n",
            (false, _) => ";\n",
        };
        rest = &after[2..];
    }
    out + rest
}

/// A shared library with the functions and types of `header`, and their description in `directory`.
fn describe(header: &str, directory: &Path) -> PathBuf {
    let [source, library, described] = ["stub.c", "stub.so", "stub.abi.xml"].map(|name| directory.join(name));
    std::fs::write(&source, definitions(header)).unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-std=c99", "-g", "-gdwarf-4", "-O0", "-shared", "-fPIC", "-Wl,-soname,libtrafficgpt.so.1", "-o"]);
    let output = compiler.arg(&library).arg("stub.c").current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut abidw = Command::new("abidw");
    abidw.args(["--no-corpus-path", "--no-show-locs", "--no-comp-dir-path", "--out-file"]).arg(&described);
    let output = abidw.arg(&library).output().unwrap();
    assert!(output.status.success(), "abidw: {}", String::from_utf8_lossy(&output.stderr));
    described
}

/// What abidiff finds between two descriptions; `added` counts new functions too.
fn changes(old: &Path, new: &Path, added: bool) -> Option<String> {
    let mut abidiff = Command::new("abidiff");
    if !added {
        abidiff.arg("--no-added-syms");
    }
    let output = abidiff.args([old, new]).output().unwrap();
    let (code, said) = (output.status.code().unwrap(), String::from_utf8_lossy(&output.stdout).into_owned());
    assert_eq!(code & UNUSABLE, 0, "abidiff: {said}{}", String::from_utf8_lossy(&output.stderr));
    (code & CHANGED != 0).then_some(said)
}

/// Whether the check can be made here; says why not.
fn can_describe() -> bool {
    if !(installed("abidw", "--version") && installed("abidiff", "--version")) {
        skip("abidw and abidiff are not installed (Debian: abigail-tools): the types of the ABI");
        return false;
    }
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        skip("the ABI's baseline is of Linux on x86-64: the types of the ABI");
        return false;
    }
    true
}

fn header() -> String {
    std::fs::read_to_string(root().join("include/trafficgpt.h")).unwrap()
}

#[test]
fn functions_and_types_are_those_of_the_baseline() {
    if !can_describe() {
        return;
    }
    let directory = TempDir::new().unwrap();
    let (now, baseline) = (describe(&header(), directory.path()), root().join(BASELINE));
    let exported = |library: &Path| {
        let library = text(library);
        let symbols = output_of("nm", &["--dynamic", "--defined-only", "--format=just-symbols", &library]);
        let mut names: Vec<String> = symbols.lines().map(str::to_owned).collect();
        names.sort_unstable();
        names
    };
    assert_eq!(exported(&directory.path().join("stub.so")), exported(&crate::harness::library()));

    if baseline.exists()
        && let Some(said) = changes(&baseline, &now, false)
    {
        panic!(
            "programs that are compiled already may break:\n{said}\nEither undo it; or, where the policy in \
             CONTRIBUTING.md allows it, or TGPT_ABI was raised, remove {BASELINE} and run `make header`"
        );
    }
    if std::env::var_os("TRAFFICGPT_UPDATE").is_some() {
        std::fs::copy(&now, &baseline).unwrap();
    }
    assert!(baseline.exists(), "{BASELINE} is not there; `make header` writes it");
    if let Some(said) = changes(&baseline, &now, true) {
        panic!("the baseline does not know what was added; run `make header` and commit it:\n{said}");
    }
}

/// The check above finds what it is there for.
#[test]
fn changes_that_break_programs_are_found() {
    if !can_describe() {
        return;
    }
    let (old, new) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let header = header();
    let before = describe(&header, old.path());
    let after = |from: &str, to: &str| {
        assert!(header.contains(from), "the header has no {from:?}");
        describe(&header.replacen(from, to, 1), new.path())
    };
    for (what, from, to) in [
        ("an argument's width", "const uint32_t *tokens,\n", "const uint64_t *tokens,\n"),
        ("an argument's sign", "uint64_t now_ns,", "int64_t now_ns,"),
        (
            "an argument more",
            "tgpt_flows_flush(struct tgpt_flows *flows, ",
            "tgpt_flows_flush(struct tgpt_flows *flows, int all, ",
        ),
        (
            "arguments in another order",
            "uint64_t seed,\n                                          uint64_t stream,\n                                          struct tgpt_packet *packets,",
            "struct tgpt_packet *packets,\n uint64_t seed,\n uint64_t stream,\n",
        ),
        ("another handle", "tgpt_worker_new(const struct tgpt_context *", "tgpt_worker_new(const struct tgpt_config *"),
        ("a result", "uint32_t tgpt_abi(void)", "uint64_t tgpt_abi(void)"),
        ("a function gone", "const char *tgpt_version(void);", ""),
        ("a field's type", "  float ipt_us;", "  int32_t ipt_us;"),
        ("a field gone", "  uint32_t captured;\n", ""),
        ("a field more", "  uint32_t captured;\n", "  uint32_t captured;\n  uint32_t more;\n"),
        ("a status' width", "typedef int32_t tgpt_status;", "typedef int64_t tgpt_status;"),
        ("a hook's argument", "int32_t level, const char *msg", "int64_t level, const char *msg"),
    ] {
        let said = changes(&before, &after(from, to), false);
        assert!(said.is_some(), "{what} is not found");
    }
    let added = after("uint32_t tgpt_abi(void);", "uint32_t tgpt_abi(void);\nuint32_t tgpt_more(void);");
    assert_eq!(changes(&before, &added, false), None, "an addition breaks no program");
    assert!(changes(&before, &added, true).is_some_and(|said| said.contains("tgpt_more")));
    // Words change nothing.
    let words = after("/**\n * Done.\n", "/**\n * All is well.\n");
    assert_eq!(changes(&before, &words, true), None);
}
