//! The server as a real client sees it: over TLS, by way of `kube`.

mod access;
mod apply;
mod custom;
mod hostile;
mod objects;
mod restart;
mod support;
mod watching;
