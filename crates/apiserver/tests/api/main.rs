//! The server as a real client sees it: over TLS, by way of `kube`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr
)] // tests fail by panicking

mod access;
mod apply;
mod custom;
mod hostile;
mod objects;
mod restart;
mod support;
mod watching;
