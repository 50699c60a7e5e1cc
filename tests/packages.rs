//! What `make install` and `make deb` make of this build: programs of every kind are built from the installed tree alone
//! and run on the shipped model; what was installed can be removed again.
#![cfg(all(feature = "train", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs, dead_code)]

mod common;
#[path = "c/harness.rs"]
mod harness;

use harness::{root, root_file, text, texts};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use tempfile::TempDir;
use trafficgpt::classifier::Classifier;
use trafficgpt::config::Settings;
use trafficgpt::context::Context;
use trafficgpt::meter::{self, meter_file};
use trafficgpt::packet::Rows;
use trafficgpt::worker::Worker;

/// Runs a command, which must succeed; gives what it printed.
fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let (stdout, stderr) = texts(&output);
    assert!(output.status.success(), "{command:?}: {}\n{stdout}{stderr}", output.status);
    stdout
}

/// Whether all of these can be started, or a line that says what cannot.
fn all_installed(programs: &[(&str, &str)], what: &str) -> bool {
    let missing = programs.iter().find(|(program, version)| !harness::installed(program, version));
    if let Some((program, _)) = missing {
        harness::skip(&format!("{program} is not installed: {what}"));
    }
    missing.is_none()
}

/// A directory that keeps its name from run to run, so that Go keeps what it compiled, and is empty.
fn fresh(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).unwrap();
    directory
}

/// The library and the command of this build in one directory, for the Makefile's BUILT.
fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let directory = fresh("built");
        let library = harness::library();
        symlink(env!("CARGO_BIN_EXE_trafficgpt"), directory.join("trafficgpt")).unwrap();
        symlink(&library, directory.join("libtrafficgpt.so")).unwrap();
        symlink(library.with_extension("a"), directory.join("libtrafficgpt.a")).unwrap();
        directory
    })
}

/// Runs make with these arguments on this build; no variable of a make that runs the tests gets there.
fn make(arguments: &[&str]) -> String {
    let mut command = Command::new("make");
    for variable in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "DESTDIR", "LIBDIR", "WITH_ONNX"] {
        command.env_remove(variable);
    }
    command.current_dir(root()).arg("--silent").arg(format!("BUILT={}", text(built())));
    succeed(command.args(arguments))
}

/// The installed tree, away from where it was installed to: it must hold no path of its first place.
fn tree() -> &'static Path {
    static TREE: OnceLock<PathBuf> = OnceLock::new();
    TREE.get_or_init(|| {
        let place = fresh("packages");
        let (first, moved) = (place.join("first"), place.join("moved"));
        make(&["install", &format!("PREFIX={}", text(&first))]);
        fs::rename(&first, &moved).unwrap();
        moved
    })
}

/// A program that is to find the installed tree, and nothing else of this build.
fn with_tree(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env("PKG_CONFIG_PATH", tree().join("lib/pkgconfig")).env("LD_LIBRARY_PATH", tree().join("lib"));
    command
}

/// What pkg-config says to the flags given.
fn pkg_config(flags: &[&str]) -> Vec<String> {
    let said = succeed(with_tree("pkg-config").args(flags).arg("trafficgpt"));
    said.split_whitespace().map(str::to_owned).collect()
}

fn bundle() -> String {
    root_file("examples/models/protocols.tgpt")
}

fn capture() -> String {
    root_file("examples/captures/mixed.pcap.gz")
}

/// The label of every flow of the capture, by the Rust API.
fn expected() -> &'static [String] {
    static LABELS: OnceLock<Vec<String>> = OnceLock::new();
    LABELS.get_or_init(|| {
        let mut flows = Rows::new();
        let mut keep = |flow: meter::Flow| {
            flows.push(flow.packets);
            Ok(())
        };
        meter_file(Path::new(&capture()), &meter::Options::default(), &mut keep).unwrap();
        let mut settings = Settings::default();
        settings.set("engine", "native").unwrap();
        let classifier = Classifier::open(&Context::new(settings), Path::new(&bundle())).unwrap();
        let mut labels = vec![0; flows.len()];
        classifier.classify(&mut Worker::new(), flows.as_ragged(), &mut labels, None).unwrap();
        let name = |&label: &u32| classifier.labels().get(label as usize).map_or("unknown", String::as_str).to_owned();
        let names: Vec<String> = labels.iter().map(name).collect();
        assert!(names.iter().collect::<BTreeSet<_>>().len() > 10, "{names:?}");
        names
    })
}

/// Runs a consumer on the shipped model; `label` finds the label in a line, none where the line is no flow's.
fn check(program: &Path, label: fn(&str) -> Option<&str>) {
    let said = succeed(with_tree(program).args([bundle(), capture()]));
    let labels: Vec<&str> = said.lines().filter_map(label).collect();
    assert!(labels == expected(), "{}:\n{said}", program.display());
}

/// Of a line that examples/c/classify.c prints.
fn fourth_if_arrow(line: &str) -> Option<&str> {
    line.contains("/").then(|| line.split_whitespace().nth(3))?
}

/// The libraries that a program looks for when it starts.
fn needed(program: &Path) -> String {
    let dynamic = succeed(Command::new("readelf").args(["--dynamic", "--wide"]).arg(program));
    dynamic.lines().filter(|line| line.contains("(NEEDED)")).collect()
}

#[test]
fn a_c_program_finds_it_by_pkg_config() {
    if !all_installed(&[("pkg-config", "--version")], "a C program from the installed tree") {
        return;
    }
    let place = TempDir::new().unwrap();
    let program = place.path().join("classify");
    let source = root_file("examples/c/classify.c");
    succeed(Command::new("cc").arg(&source).args(pkg_config(&["--cflags", "--libs"])).arg("-o").arg(&program));
    assert!(needed(&program).contains("[libtrafficgpt.so.1]"), "{}", needed(&program));
    check(&program, fourth_if_arrow);
    assert_eq!(pkg_config(&["--modversion"]), [env!("CARGO_PKG_VERSION")]);
}

#[test]
fn a_static_c_program_finds_it_by_pkg_config() {
    if !all_installed(&[("pkg-config", "--version")], "a static C program from the installed tree") {
        return;
    }
    let place = TempDir::new().unwrap();
    let program = place.path().join("classify");
    let source = root_file("examples/c/classify.c");
    let trivial = place.path().join("trivial.c");
    fs::write(&trivial, "int main(void) { return 0; }\n").unwrap();
    if !Command::new("cc").arg("-static").arg(&trivial).arg("-o").arg(&program).output().unwrap().status.success() {
        return harness::skip("the C library is not there as an archive: a static C program from the installed tree");
    }
    let flags = pkg_config(&["--static", "--cflags", "--libs"]);
    succeed(Command::new("cc").arg("-static").arg(&source).args(flags).arg("-o").arg(&program));
    assert_eq!(needed(&program), "");
    check(&program, fourth_if_arrow);

    // It cannot load ONNX Runtime: it says so, or goes without, but does not crash.
    let runtime = root().join(".runtime/libonnxruntime.so.1");
    if !runtime.exists() {
        return harness::skip("ONNX Runtime was not fetched (make runtime): a static program with it");
    }
    let output = |engine: &str| {
        let mut command = Command::new(&program);
        command.env("ORT_DYLIB_PATH", &runtime).args(["--engine", engine, &bundle(), &capture()]);
        let output = command.output().unwrap();
        (output.status.code(), texts(&output))
    };
    let (code, (said, _)) = output("auto");
    assert!(code == Some(0) && said.ends_with("engine native\n"), "{code:?} {said}");
    let (code, (said, why)) = output("onnx");
    assert!(code == Some(2) && said.is_empty() && why.contains("-static"), "{code:?} {said}{why}");
}

#[test]
fn a_cmake_project_finds_both_libraries() {
    if !all_installed(&[("cmake", "--version")], "a CMake project with the installed tree") {
        return;
    }
    let place = TempDir::new().unwrap();
    let mut configure = with_tree("cmake");
    configure.arg("-S").arg(root().join("tests/packages")).arg("-B").arg(place.path());
    configure.arg(format!("-DCMAKE_PREFIX_PATH={}", text(tree())));
    configure.arg(format!("-DWANTED={}", env!("CARGO_PKG_VERSION")));
    succeed(configure.env_remove("MAKEFLAGS").env_remove("MFLAGS"));
    succeed(Command::new("cmake").arg("--build").arg(place.path()).env_remove("MAKEFLAGS").env_remove("MFLAGS"));
    for (kind, shared) in [("trafficgpt", true), ("static", false)] {
        let program = place.path().join(format!("consumer-{kind}"));
        assert_eq!(needed(&program).contains("libtrafficgpt"), shared, "{}", needed(&program));
        check(&program, |line| Some(line));
    }
}

#[test]
fn a_go_program_finds_it_by_pkg_config() {
    let tools = [("go", "version"), ("pkg-config", "--version")];
    if !all_installed(&tools, "a Go program with the installed tree") {
        return;
    }
    let place = TempDir::new().unwrap();
    let program = place.path().join("classify");
    let go = |arguments: &[&str]| {
        let mut go = with_tree("go");
        go.current_dir(root().join("examples/go")).args(arguments);
        // As in tests/c/go.rs: no other Go is fetched, and a library that moved is found.
        go.envs([("GOFLAGS", "-mod=readonly"), ("GOTOOLCHAIN", "local"), ("CGO_ENABLED", "1")]);
        go.env("GOCACHE", root().join("target/go")).env("CGO_LDFLAGS", format!("-L{}", text(&tree().join("lib"))));
        let output = go.output().unwrap();
        (output.status.success(), texts(&output).1)
    };
    // What the other examples are built with.
    let (fetched, said) = go(&["mod", "download"]);
    if !fetched {
        let old = ["requires go >= 1.", "unknown directive", "invalid go version"].iter().any(|old| said.contains(old));
        let why = if old { "the go that is installed is too old" } else { "Go modules could not be fetched" };
        return harness::skip(&format!("{why}: a Go program with the installed tree"));
    }
    let (built, said) = go(&["build", "-o", &text(&program), "./classify"]);
    assert!(built, "{said}");
    check(&program, |line| line.split_whitespace().nth(3));
}

/// The files and links below `directory`, relative to it.
fn files(directory: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut next = vec![directory.to_owned()];
    while let Some(current) = next.pop() {
        for entry in fs::read_dir(current).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                next.push(entry.path());
            } else {
                found.insert(text(entry.path().strip_prefix(directory).unwrap()));
            }
        }
    }
    found
}

#[test]
fn everything_goes_to_its_place_and_away_again() {
    let place = TempDir::new().unwrap();
    let destination = format!("DESTDIR={}", text(place.path()));
    let arguments = [&destination, "PREFIX=/opt/traffic", "LIBDIR=/opt/traffic/lib/here"];
    let run = |target: &str| make(&[&[target], &arguments[..]].concat());
    let other = place.path().join("opt/traffic/lib/here/cmake/trafficgpt/of-somebody-else");
    fs::create_dir_all(other.parent().unwrap()).unwrap();
    fs::write(&other, "").unwrap();

    run("install");
    let version = env!("CARGO_PKG_VERSION");
    let installed = files(&place.path().join("opt/traffic"));
    let so = format!("lib/here/libtrafficgpt.so.{version}");
    for file in [
        "bin/trafficgpt",
        "include/trafficgpt.h",
        "lib/here/libtrafficgpt.a",
        "lib/here/libtrafficgpt.so",
        "lib/here/libtrafficgpt.so.1",
        &so,
        "lib/here/pkgconfig/trafficgpt.pc",
        "lib/here/cmake/trafficgpt/trafficgpt-config.cmake",
        "lib/here/cmake/trafficgpt/trafficgpt-config-version.cmake",
        "share/bash-completion/completions/trafficgpt",
        "share/zsh/site-functions/_trafficgpt",
        "share/fish/vendor_completions.d/trafficgpt.fish",
        "share/man/man1/trafficgpt.1",
        "share/man/man1/trafficgpt-classify.1",
        "share/man/man1/trafficgpt-quantizer-choose-k.1",
    ] {
        assert!(installed.contains(file), "{file} is missing: {installed:#?}");
    }
    for name in ["libtrafficgpt.so", "libtrafficgpt.so.1"] {
        let link = place.path().join("opt/traffic/lib/here").join(name);
        assert_eq!(link.canonicalize().unwrap(), place.path().join("opt/traffic").join(&so).canonicalize().unwrap());
        assert!(fs::read_link(link).unwrap().is_relative());
    }
    // Paths of the place where it was staged would be wrong at its own.
    for file in installed.iter().filter(|f| f.ends_with(".pc") || f.ends_with(".cmake")) {
        let content = fs::read_to_string(place.path().join("opt/traffic").join(file)).unwrap();
        assert!(!content.contains('@') && !content.contains(&text(place.path())), "{file}:\n{content}");
    }
    run("uninstall");
    assert_eq!(files(place.path()), BTreeSet::from([text(other.strip_prefix(place.path()).unwrap())]));
}

#[test]
fn every_command_has_its_page_and_its_completions() {
    let help = succeed(Command::new(tree().join("bin/trafficgpt")).arg("help"));
    let commands: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next().filter(|_| !line.starts_with("   ")))
        .filter(|command| *command != "help")
        .collect();
    assert!(commands.len() >= 10, "{help}");
    let completions = [
        "share/bash-completion/completions/trafficgpt",
        "share/zsh/site-functions/_trafficgpt",
        "share/fish/vendor_completions.d/trafficgpt.fish",
    ];
    let completions = completions.map(|file| (file, fs::read_to_string(tree().join(file)).unwrap()));
    for command in commands {
        let page = tree().join(format!("share/man/man1/trafficgpt-{command}.1"));
        let page = fs::read_to_string(&page).unwrap_or_else(|e| panic!("{}: {e}", page.display()));
        assert!(page.contains(&format!(".TH trafficgpt-{command} 1")), "{page}");
        for (file, content) in &completions {
            assert!(content.contains(command), "{file} has no {command}");
        }
    }
    for (file, content) in &completions {
        assert!(!content.contains("write-pages"), "{file} offers what no user needs");
    }
    assert!(!help.contains("write-pages"), "{help}");
    // What bash would offer after `trafficgpt cl`.
    let script = format!(
        "source '{}' && COMP_WORDS=(trafficgpt cl) COMP_CWORD=1 && _trafficgpt trafficgpt cl trafficgpt && \
         echo \"${{COMPREPLY[@]}}\"",
        text(&tree().join(completions[0].0))
    );
    if all_installed(&[("bash", "--version")], "the completions for bash") {
        assert_eq!(succeed(Command::new("bash").args(["--norc", "-c", &script])), "classify\n");
    }
}

/// Installed beside the library, ONNX Runtime is found without being named, by the library and by the command.
#[test]
fn onnx_runtime_is_found_where_it_is_installed() {
    if !root().join(".runtime/libonnxruntime.so.1").exists() {
        return harness::skip("ONNX Runtime was not fetched (make runtime): installing it");
    }
    let place = TempDir::new().unwrap();
    // As Debian has it: the library one directory further down than the runtime.
    let (prefix, libraries) = (place.path().join("usr"), place.path().join("usr/lib/x86_64-linux-gnu"));
    let arguments = [format!("PREFIX={}", text(&prefix)), format!("LIBDIR={}", text(&libraries))];
    make(&["install", "WITH_ONNX=1", &arguments[0], &arguments[1]]);
    let program = place.path().join("classify");
    let mut compiler = Command::new("cc");
    compiler.arg(root_file("examples/c/classify.c")).arg("-I").arg(prefix.join("include")).arg("-L").arg(&libraries);
    succeed(compiler.arg("-ltrafficgpt").arg("-o").arg(&program));
    let onnx = |program: &Path, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.env_remove("ORT_DYLIB_PATH").env("LD_LIBRARY_PATH", &libraries);
        succeed(command.args(arguments).args(["--engine", "onnx", &bundle(), &capture()]))
    };
    let said = onnx(&program, &[]);
    assert!(said.ends_with("engine onnx\n"), "{said}");
    onnx(&prefix.join("bin/trafficgpt"), &["classify"]);
    make(&["uninstall", &arguments[0], &arguments[1]]);
    assert_eq!(files(&prefix), BTreeSet::new());
}

/// Unpacked into an empty root by dpkg, which would refuse two packages with one file; and purged.
#[test]
fn debian_packages_come_and_go() {
    let what = "the Debian packages";
    if !all_installed(&[("dpkg", "--version"), ("dpkg-shlibdeps", "--version")], what) {
        return;
    }
    if succeed(Command::new("id").arg("-u")).trim() != "0" {
        return harness::skip(&format!("not root: {what}"));
    }
    let place = TempDir::new().unwrap();
    let (packages, target) = (place.path().join("deb"), place.path().join("root"));
    let mut command = Command::new(root().join("packaging/deb.sh"));
    command.arg(&packages).env("BUILT", built()).env("DPKG_DEB_COMPRESSOR_TYPE", "none");
    for variable in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "WITH_ONNX"] {
        command.env_remove(variable);
    }
    let said = succeed(&mut command);
    let names: Vec<&str> = said.lines().map(|line| line.split('_').next().unwrap()).collect();
    assert_eq!(names, ["libtrafficgpt-dev", "libtrafficgpt1", "trafficgpt"]);

    for directory in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers"] {
        fs::create_dir_all(target.join(directory)).unwrap();
    }
    fs::write(target.join("var/lib/dpkg/status"), "").unwrap();
    // The C library, on which they depend, is not there; all else must be in order.
    let dpkg = |arguments: &[&str]| {
        let mut command = Command::new("dpkg");
        command.arg(format!("--root={}", text(&target))).args([
            "--force-depends",
            "--force-unsafe-io",
            "--log=/dev/null",
        ]);
        succeed(command.args(arguments).current_dir(&packages))
    };
    dpkg(&[&["--install"], &said.lines().collect::<Vec<_>>()[..]].concat());
    let status = dpkg(&["--status", "libtrafficgpt1"]);
    assert!(status.contains("Status: install ok installed") && status.contains("libc6 (>="), "{status}");
    let owner = dpkg(&["--search", "*/libtrafficgpt.so.1"]);
    assert!(owner.starts_with("libtrafficgpt1:"), "{owner}");
    let shlibs = fs::read_to_string(place.path().join("root/var/lib/dpkg/info/libtrafficgpt1:amd64.shlibs"));
    if let Ok(shlibs) = shlibs {
        assert!(shlibs.starts_with("libtrafficgpt 1 libtrafficgpt1 "), "{shlibs}");
    }
    succeed(Command::new(target.join("usr/bin/trafficgpt")).arg("--version"));
    dpkg(&[&["--purge"], &names[..]].concat());
    let left: Vec<String> = files(&target).into_iter().filter(|file| !file.starts_with("var/lib/dpkg/")).collect();
    assert!(left.is_empty() && !target.join("usr").exists(), "{left:?}");
}
