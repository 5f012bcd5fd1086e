//! The subcommand `apiserver`.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use tokio::signal::unix::{SignalKind, signal};

use crate::Config;

/// The subcommand, for the binary's command line.
#[must_use]
pub fn command() -> Command {
    Command::new("apiserver")
        .about("Serve the Kubernetes API: a broker without Kubernetes, or a cluster of the lab")
        .long_about(
            "Serves the part of the Kubernetes API that Strait and Submariner use: custom resource definitions and \
             what they define, and a few built-in kinds. Objects, certificates and tokens are kept in the state \
             directory. Runs until SIGTERM or SIGINT.",
        )
        .arg(
            Arg::new("listen")
                .long("listen")
                .value_name("ADDR:PORT")
                .value_parser(value_parser!(SocketAddr))
                .default_value("127.0.0.1:6443")
                .help("Address to listen on; port 0 takes a free one"),
        )
        .arg(
            Arg::new("dir")
                .long("dir")
                .value_name("DIR")
                .value_parser(value_parser!(PathBuf))
                .required(true)
                .help("State directory; holds the administrator's kubeconfig too"),
        )
        .arg(
            Arg::new("san")
                .long("san")
                .value_name("NAME")
                .action(ArgAction::Append)
                .help("Further DNS name or address of the server, for its certificate; may be repeated"),
        )
        .after_help(
            "Example:\n  strait apiserver --listen 0.0.0.0:6443 --dir /var/lib/strait/broker --san broker.example.com\n  \
             kubectl --kubeconfig /var/lib/strait/broker/admin.kubeconfig get namespaces",
        )
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// When the server cannot start.
pub async fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    let config = Config {
        listen: *matches.get_one("listen").context("--listen is missing")?,
        dir: matches
            .get_one::<PathBuf>("dir")
            .context("--dir is missing")?
            .clone(),
        sans: matches
            .get_many::<String>("san")
            .into_iter()
            .flatten()
            .cloned()
            .collect(),
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let running = crate::start(config).await?;
    tracing::info!(url = running.url, kubeconfig = %running.admin_kubeconfig.display(), "serving");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    running.shutdown().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
        let matches = command()
            .try_get_matches_from(["apiserver", "--dir", "/x", "--san", "a", "--san", "b"])
            .unwrap();
        assert_eq!(
            matches
                .get_many::<String>("san")
                .unwrap()
                .collect::<Vec<_>>(),
            ["a", "b"]
        );
        assert!(command().try_get_matches_from(["apiserver"]).is_err());
    }
}
