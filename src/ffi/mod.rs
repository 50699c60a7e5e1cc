//! The C ABI: converts, guards, delegates. The header `include/trafficgpt.h` is generated from this module, so the
//! documentation of the functions is written for readers of C.
//!
//! Every function runs inside [`boundary::guard`] or one of its kin, so that no panic leaves the library. The safety
//! contract is the one C has: a pointer is NULL or points to what its type says, for as long as the header says. What
//! can be checked (NULL, alignment, lengths that overflow, handles of the wrong kind) is checked.
#![allow(unsafe_code, non_camel_case_types)]

mod args;
mod boundary;
mod capture;
mod classifier;
mod config;
mod context;
mod error;
mod flows;
mod generator;
mod handle;
mod library;
mod log;
mod names;
mod quantizer;
mod worker;
