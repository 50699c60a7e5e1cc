//! Worker: one thread's scratch, for any model.
