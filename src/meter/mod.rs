//! Captures → flows.
