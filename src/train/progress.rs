//! Progress of long work: a bar on a terminal, a plain line now and then elsewhere, nothing where none was asked for.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Time between two plain lines of one stage.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Tells the user how far the work is. Work has stages, one after another: [`Self::begin`], [`Self::advance`] …,
/// [`Self::end`].
#[derive(Debug)]
pub struct Progress {
    output: Output,
    stage: Option<Stage>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Output {
    Hidden,
    Terminal,
    Lines,
}

#[derive(Debug)]
struct Stage {
    name: String,
    total: Option<u64>,
    done: u64,
    note: String,
    began: Instant,
    last_line: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// On standard error: a bar if that is a terminal, else plain lines.
    pub fn stderr() -> Self {
        let output = if std::io::stderr().is_terminal() { Output::Terminal } else { Output::Lines };
        Self { output, stage: None }
    }

    /// Says nothing.
    pub fn hidden() -> Self {
        Self { output: Output::Hidden, stage: None }
    }

    /// Begins a stage of `total` units, if that is known; ends the one before.
    pub fn begin(&mut self, name: &str, total: Option<u64>) {
        self.end();
        if self.output == Output::Hidden {
            return;
        }
        let bar = (self.output == Output::Terminal).then(|| bar(name, total));
        let now = Instant::now();
        let (name, note) = (name.to_string(), String::new());
        self.stage = Some(Stage { name, total, done: 0, note, began: now, last_line: now, bar });
    }

    /// `n` more units of the stage are done.
    pub fn advance(&mut self, n: u64) {
        let Some(stage) = &mut self.stage else { return };
        stage.done += n;
        match &stage.bar {
            Some(bar) => bar.inc(n),
            None if stage.last_line.elapsed() >= LINE_EVERY => {
                stage.last_line = Instant::now();
                write_line(&stage.line());
            }
            None => {}
        }
    }

    /// What to show beside the stage from now on, such as a loss.
    pub fn note(&mut self, note: impl Into<String>) {
        let Some(stage) = &mut self.stage else { return };
        stage.note = note.into();
        if let Some(bar) = &stage.bar {
            bar.set_message(stage.note.clone());
        }
    }

    /// A line that stays, such as the result of an evaluation.
    pub fn line(&self, text: &str) {
        match (&self.output, self.stage.as_ref().and_then(|s| s.bar.as_ref())) {
            (Output::Hidden, _) => {}
            (_, Some(bar)) => bar.suspend(|| write_line(text)),
            _ => write_line(text),
        }
    }

    /// Ends the stage: the bar goes; plain output gets one last line if it has had one before.
    pub fn end(&mut self) {
        let Some(stage) = self.stage.take() else { return };
        match &stage.bar {
            Some(bar) => bar.finish_and_clear(),
            None if stage.last_line > stage.began => write_line(&stage.line()),
            None => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = self.stage.as_ref().and_then(|s| s.bar.as_ref()) {
            bar.finish_and_clear();
        }
    }
}

impl Stage {
    fn line(&self) -> String {
        let rate = self.done as f64 / self.began.elapsed().as_secs_f64().max(1e-9);
        let of = match self.total {
            Some(total) if total > 0 => format!("/{total} ({:.0}%)", 100.0 * self.done as f64 / total as f64),
            _ => String::new(),
        };
        let note = if self.note.is_empty() { String::new() } else { format!(", {}", self.note) };
        format!("{}: {}{of}, {rate:.1}/s{note}", self.name, self.done)
    }
}

fn bar(name: &str, total: Option<u64>) -> ProgressBar {
    let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    let template = match total {
        Some(_) => "{prefix} {wide_bar} {human_pos}/{human_len} {per_sec} eta {eta} {msg}",
        None => "{prefix} {spinner} {human_pos} {per_sec} {elapsed} {msg}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_prefix(name.to_string());
    bar
}

/// A line on standard error; nothing can be done if that is closed.
fn write_line(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_line_says_how_far_and_how_fast() {
        let began = Instant::now() - Duration::from_secs(10);
        let (name, note) = ("pretrain".to_string(), "loss 3.2".to_string());
        let stage = Stage { name, total: Some(400), done: 100, note, began, last_line: began, bar: None };
        let line = stage.line();
        assert!(line.starts_with("pretrain: 100/400 (25%), ") && line.ends_with("/s, loss 3.2"), "{line}");
        let stage = Stage { total: None, note: String::new(), ..stage };
        assert!(stage.line().starts_with("pretrain: 100, "), "{}", stage.line());
    }

    #[test]
    fn hidden_progress_keeps_no_stage() {
        let mut progress = Progress::hidden();
        progress.begin("work", Some(3));
        progress.advance(1);
        assert!(progress.stage.is_none());
    }
}
