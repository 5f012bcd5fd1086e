#![allow(
    unsafe_code,
    reason = "a child can enter a namespace before it executes only by a pre_exec hook"
)]

use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sched::setns;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};

use crate::handle::Handle;
use crate::{HostName, Namespace};

/// Lets a command start inside namespaces.
pub trait Inside {
    /// In this network namespace.
    fn inside(&mut self, namespace: &Namespace) -> &mut Self;
    /// With this host name.
    fn with_host_name(&mut self, host_name: &HostName) -> &mut Self;
    /// With no signal blocked, and ended by SIGKILL when the thread that starts it ends: for a command that stands in for its
    /// parent. (A child inherits the mask of blocked signals.)
    fn bound_to_parent(&mut self) -> &mut Self;
}

impl Inside for Command {
    fn inside(&mut self, namespace: &Namespace) -> &mut Self {
        enter_before_exec(self, namespace.handle().clone())
    }

    fn with_host_name(&mut self, host_name: &HostName) -> &mut Self {
        enter_before_exec(self, host_name.handle().clone())
    }

    fn bound_to_parent(&mut self) -> &mut Self {
        let hook = || {
            SigSet::empty().thread_set_mask()?;
            Ok(set_pdeathsig(Signal::SIGKILL)?)
        };
        // SAFETY: between fork and exec the hook makes two system calls, and allocates nothing.
        unsafe { self.pre_exec(hook) }
    }
}

fn enter_before_exec(command: &mut Command, handle: Handle) -> &mut Command {
    let hook = move || setns(handle.fd(), handle.kind().flag()).map_err(Into::into);
    // SAFETY: between fork and exec the hook makes one system call on a descriptor that it owns, and allocates nothing.
    unsafe { command.pre_exec(hook) }
}
