//! The shape that every process's decisions have.

use std::sync::Arc;

use strait_host::{Change, Host, Wanted};

use crate::condition::Condition;
use crate::path;
use crate::time::Time;

/// State in, plans out: what a main loop needs to know of a process.
pub trait Machine {
    /// An event.
    type Input;
    /// Everything that is wanted.
    type Plan: Planned;

    /// Folds an event in.
    fn apply(&mut self, input: Self::Input, now: Time);

    /// When the event that time has passed has something to do.
    fn deadline(&self) -> Option<Time>;

    /// What is wanted, given what is known: the same for the same state.
    fn plan(&self) -> Self::Plan;

    /// The event that the host was read anew.
    fn host(host: Arc<Host>) -> Self::Input;

    /// The event that time has passed.
    fn tick() -> Self::Input;
}

/// What every plan has.
pub trait Planned {
    /// Gives the part that the kernel holds away, to be kept without a copy.
    fn take_wanted(&mut self) -> Wanted;

    /// What is not as it should be.
    fn conditions(&self) -> &[Condition];

    /// Whether the node's own path needs this change: while it can't be made, the process is not ready.
    fn needs(&self, change: &Change) -> bool {
        path::needs(change)
    }
}
