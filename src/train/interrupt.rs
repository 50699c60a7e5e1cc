//! SIGINT and SIGTERM as a question that long work asks between steps.

use crate::error::{Error, Kind, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Exit code of a process that SIGINT ended.
const EXIT_CODE: i32 = 130;

/// Whether the user asked to stop. Clones see the same request.
#[derive(Clone, Debug, Default)]
pub struct Interrupt {
    asked: Arc<AtomicBool>,
}

impl Interrupt {
    /// Never interrupted by a signal: for library callers and tests, which may call [`Self::ask`].
    pub fn none() -> Self {
        Self::default()
    }

    /// Catches SIGINT and SIGTERM from now on: the first is answered by [`Self::asked`], the second ends the process.
    pub fn on_signals() -> Result<Self> {
        let interrupt = Self::default();
        for signal in [SIGINT, SIGTERM] {
            // In this order: the shutdown sees only what an earlier signal has set.
            flag::register_conditional_shutdown(signal, EXIT_CODE, interrupt.asked.clone())
                .and_then(|_| flag::register(signal, interrupt.asked.clone()))
                .map_err(|e| Error::new(Kind::Io, format!("cannot catch signal {signal}: {e}")))?;
        }
        Ok(interrupt)
    }

    /// The same where a launcher started the process with others: those send every signal more than once, so that only
    /// SIGKILL ends the process before it has saved.
    pub fn on_signals_of_launcher() -> Result<Self> {
        let interrupt = Self::default();
        for signal in [SIGINT, SIGTERM] {
            flag::register(signal, interrupt.asked.clone())
                .map_err(|e| Error::new(Kind::Io, format!("cannot catch signal {signal}: {e}")))?;
        }
        Ok(interrupt)
    }

    /// Asks to stop, as a signal does.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    /// Whether a stop was asked for.
    pub fn asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// [`Kind::Interrupted`] if a stop was asked for: `interrupt.check()?` between two steps of long work.
    pub fn check(&self) -> Result<()> {
        if self.asked() {
            return Err(Error::new(Kind::Interrupted, "interrupted"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_see_the_request() {
        let interrupt = Interrupt::none();
        let clone = interrupt.clone();
        interrupt.check().unwrap();
        clone.ask();
        assert_eq!(interrupt.check().unwrap_err().kind(), Kind::Interrupted);
    }
}
