//! A directory to run `trafficgpt` in, for tests of the command line.
#![allow(dead_code)]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// A directory to run commands in.
pub struct Place(TempDir);

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A command line whose words hold no spaces.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trafficgpt"));
        command.current_dir(self.0.path()).args(line.split_whitespace()).stdin(Stdio::null());
        command
    }

    /// Runs it.
    pub fn run(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    /// Runs it and expects success; gives standard output.
    pub fn succeed(&self, line: &str) -> String {
        let output = self.run(line);
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs it and expects the exit code of bad input, and an error as the last line of standard error; gives that line.
    pub fn refused(&self, line: &str) -> String {
        let said = self.misused(line);
        assert!(said.starts_with("error: "), "{line}: {said}");
        said
    }

    /// Runs it and expects the exit code of bad input and an error that holds `words`; nothing may be left at `absent`.
    pub fn refuses(&self, line: &str, words: &str, absent: &str) {
        let output = self.run(line);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{line}: {said}");
        assert!(said.contains(words), "{line}: \"{words}\" is not in: {said}");
        assert!(absent.is_empty() || !self.path(absent).exists(), "{line}: left {absent} behind");
    }

    /// Runs it and expects the exit code of bad input; gives the last line of standard error.
    pub fn misused(&self, line: &str) -> String {
        let output = self.run(line);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{line}: {said}");
        said.lines().last().unwrap_or_default().to_string()
    }

    /// What lies in it, in order of name.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}
