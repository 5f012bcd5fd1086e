//! Logs: to standard error, as text on a terminal and as JSON in a cluster.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::fmt;

use crate::Settings;

/// The Kubernetes client logs each failed request as an error of its own; our watches and callers tell of them once.
const QUIET: &str = "kube_client=off";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Auto,
    Text,
    Json,
}

/// Starts the logs as `STRAIT_LOG` and `STRAIT_LOG_FORMAT` say. A wrong one is noted in `settings`, and its default
/// taken, so that the other problems can be told.
///
/// Logs that another call started before stay as they are.
pub fn init(settings: &mut Settings) {
    let filter = settings.parse("STRAIT_LOG", |value| {
        EnvFilter::try_new(format!("{QUIET},{value}"))
    });
    let format = settings.parse("STRAIT_LOG_FORMAT", |value| match value {
        "auto" => Ok(Format::Auto),
        "text" => Ok(Format::Text),
        "json" => Ok(Format::Json),
        _ => Err("is not a format"),
    });
    let filter = filter.unwrap_or_else(|_| EnvFilter::new(format!("{QUIET},info")));
    let json = match format.unwrap_or(Format::Auto) {
        Format::Auto => !stderr().is_terminal(),
        Format::Text => false,
        Format::Json => true,
    };
    let builder = fmt().with_env_filter(filter).with_writer(stderr);
    // Fails only if logs were started before.
    let _ = if json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.with_ansi(stderr().is_terminal()).try_init()
    };
}
