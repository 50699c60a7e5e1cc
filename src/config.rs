//! Settings of the library, as string keys: one table serves the C setter, a TOML file and the command line.
