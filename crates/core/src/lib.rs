//! Every decision: state in, plans out.
//!
//! One module per process ([`route_agent`], [`gateway`]) with `State`, `Input` and `Plan`, which are a [`Machine`]. Nothing here does I/O, reads a clock or rolls dice: the time is an argument, and the same
//! state gives the same plan.

pub mod condition;
pub mod discovery;
pub mod driver;
pub mod gateway;
pub mod health;
pub mod hello;
pub mod local;
pub mod machine;
pub mod net;
pub mod notes;
pub mod object;
pub mod path;
pub mod remote;
pub mod route_agent;
pub mod silence;
pub mod source;
pub mod time;

pub use condition::{Condition, Holding, Severity};
pub use driver::Driver;
pub use machine::{Machine, Planned};
pub use object::{Entry, ObjectChange};
pub use source::{Event, Source};
pub use time::Time;
