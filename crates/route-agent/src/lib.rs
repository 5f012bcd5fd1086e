//! The route agent: the way from a node to remote clusters. Wiring only: [`inputs`] → `strait_core` → kernel and API.

mod adopt;
mod firewall;
mod flows;
mod follow;
pub mod inputs;
mod pools;
mod reap;
mod run;
pub mod settings;
mod show;
mod status;
mod uninstall;
mod wait;

pub use run::run;
pub use settings::command;
pub use show::{diff, diff_command, plan, plan_command};
