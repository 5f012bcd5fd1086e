//! The command line of `strait lab`.

mod faults;
mod up;

use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use strait_host::Family;

use crate::client::{Lab, down};
use crate::control::CniChange;
use crate::flow::{self, Flow};
use crate::probe::{self, Probe, Transport};
use crate::process::Role;
use crate::sandbox::{self, SELF};
use crate::state::StateDir;
use crate::{bench, demo, exec, pod, status, supervisor, watch};

const EXAMPLES: &str = "\
Examples:
  strait lab demo                                  everything at once
  strait lab up                                    two clusters, east (bridge) and west (calico), of three nodes
  strait lab up --clusters 3 --nodes 2 --cni calico --name three
  strait lab up --family dual --cni routed,bridge --name both
  strait lab up --clusters 3 --gateways 2 --cable wireguard --nat symmetric
  strait lab up --cni cni-bridge-masq,cni-ptp --name real
  strait lab status
  strait lab watch                                 tunnels, round trips, loss and conditions, live
  strait lab exec east-2 -- ip route               on a node; with the node's host name and /proc/sys/net
  strait lab exec west-1-a -- curl web.example     in a pod
  strait lab exec internet -- tcpdump -ni wan      between the clusters
  strait lab probe east-2-a web.west               from a pod to the other cluster's service
  strait lab flow east-2-a west-2-a --tcp 4        a datagram each millisecond: what was lost, and the longest gap
  strait lab reboot west-2 --cni-after 60          a boot whose CNI comes up late
  strait lab cni east-3 address 10.101.3.7/24      the CNI's address changes
  strait lab restart east-1 route-agent
  strait lab kill east-1                           the power of a node goes
  strait lab slow east --delay 40 --jitter 10      the WAN of a cluster gets late; cut, lose and stop are its siblings
  strait lab clock east-1 +1h                      the wall clock of a node is stepped (strait lab up --clocks)
  strait lab heal                                  all is well again
  strait lab api broker GET /apis/submariner.io/v1/endpoints
  strait lab down --all";

#[derive(Debug, Parser)]
#[command(
    name = "lab",
    about = "Clusters on this machine, as network namespaces, with the real processes in them",
    after_help = EXAMPLES
)]
struct Cli {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Start a lab in the background
    Up(up::Up),
    /// Show clusters, nodes and processes
    Status {
        #[command(flatten)]
        lab: Which,
        /// How to print it
        #[arg(long, short, default_value = "table")]
        output: Format,
    },
    /// Show gateways, tunnels, round trips, loss and conditions, until Ctrl-C; once, where standard output is no terminal
    Watch {
        #[command(flatten)]
        lab: Which,
        /// Seconds between two looks
        #[arg(long, default_value_t = 1.0)]
        interval: f64,
        /// Look once, and print JSON
        #[arg(long)]
        json: bool,
    },
    /// Run a command on a node, in a pod, or on another machine of the lab
    Exec {
        #[command(flatten)]
        lab: Which,
        /// Such as east-1, east-1-a (a pod), control-east, router-east, broker, internet
        place: String,
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// Try to reach a listener, and print which source address it saw
    Probe {
        #[command(flatten)]
        lab: Which,
        /// Where from, such as east-1 or east-1-a
        from: String,
        /// Where to: a pod, a cluster's service such as web.west, or ADDRESS:PORT
        to: String,
        /// tcp or udp
        #[arg(long, default_value = "tcp")]
        transport: Transport,
        /// The own address to bind to
        #[arg(long)]
        bind: Option<IpAddr>,
        /// v4 or v6, where the target is a name; else the lab's first family
        #[arg(long, value_parser = family)]
        family: Option<Family>,
        /// Bytes to send and get back
        #[arg(long, default_value_t = 3072)]
        bytes: usize,
        /// When to give up, in seconds
        #[arg(long, default_value_t = 3.0)]
        timeout: f64,
    },
    /// Let traffic flow, and tell what of it was lost and for how long
    #[command(after_help = "\
Examples:
  strait lab flow east-2-a west-2-a                     a datagram each millisecond, for 10 s
  strait lab flow east-2 web.west --tcp 20 --rate 0     20 connections from a node to the other cluster's service
  strait lab flow east-2-a west-2-a --seconds 60 --json & strait lab kill west-1")]
    Flow {
        #[command(flatten)]
        lab: Which,
        /// Where from, such as east-1 or east-1-a
        from: String,
        /// Where to: a pod, a cluster's service such as web.west, or ADDRESS:PORT
        to: String,
        /// Datagrams a second, each to be answered; 0 for none
        #[arg(long, default_value_t = 1000)]
        rate: u32,
        /// TCP connections that go on all the time
        #[arg(long, default_value_t = 0)]
        tcp: u32,
        /// For how long
        #[arg(long, default_value_t = 10.0)]
        seconds: f64,
        /// v4 or v6, where the target is a name; else the lab's first family
        #[arg(long, value_parser = family)]
        family: Option<Family>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Boot a node anew: its processes end, its network is thrown away, its agents start at once
    Reboot {
        #[command(flatten)]
        lab: Which,
        /// The node
        node: String,
        /// How many seconds later the CNI and the pods come up
        #[arg(long, default_value_t = 0.0)]
        cni_after: f64,
    },
    /// Change the CNI of a node
    Cni {
        #[command(flatten)]
        lab: Which,
        /// The node
        node: String,
        #[command(subcommand)]
        change: Change,
    },
    /// End a process with SIGTERM, if it runs, and start it again
    Restart {
        #[command(flatten)]
        lab: Which,
        /// The node, pod or machine
        place: String,
        /// route-agent, gateway, apiserver or pod
        process: Role,
    },
    #[command(flatten)]
    Fault(faults::Fault),
    /// Send a request to an API server of the lab as its administrator, and print the answer
    Api {
        #[command(flatten)]
        lab: Which,
        /// A cluster, such as east, or broker
        server: String,
        /// GET, POST, PUT, PATCH (a merge patch) or DELETE
        #[arg(value_parser = ["GET", "POST", "PUT", "PATCH", "DELETE"])]
        method: String,
        /// Such as /apis/submariner.io/v1/namespaces/submariner-operator/endpoints
        path: String,
        /// The object, as JSON; - for standard input
        body: Option<String>,
    },
    /// Join two clusters, try every way between them, boot a node whose CNI comes late; success only if all is as it should be
    Demo {
        /// How many seconds after the boot the CNI comes
        #[arg(long, default_value_t = 8.0)]
        cni_after: f64,
    },
    /// Measure how fast events reach the kernel, and what the way between clusters carries
    Bench {
        /// How often each event is measured [default: 200, of faults: 5]
        #[arg(long)]
        runs: Option<u32>,
        /// How often each throughput is measured
        #[arg(long, default_value_t = 7)]
        rounds: u32,
        /// How many seconds each throughput is measured
        #[arg(long, default_value_t = 2)]
        seconds: u32,
        /// What to measure
        #[arg(
            long,
            value_delimiter = ',',
            default_value = "lab,scale,wireguard,clusters"
        )]
        parts: Vec<bench::Part>,
        /// Run route agents and gateways by this program, such as the smaller one for nodes
        #[arg(long, value_name = "PATH", value_parser = program)]
        program: Option<PathBuf>,
        /// Of the part "faults", these only
        #[arg(long, value_delimiter = ',', value_name = "FAULT")]
        only: Vec<bench::Fault>,
        /// Print JSON with all samples instead of a Markdown table
        #[arg(long)]
        json: bool,
    },
    /// End a lab, and remove everything of it
    Down {
        #[command(flatten)]
        lab: Which,
        /// All labs of this user
        #[arg(long, conflicts_with = "name")]
        all: bool,
    },
    #[command(hide = true)]
    Sandbox { order: String },
    #[command(hide = true)]
    Init { order: String },
    #[command(hide = true)]
    Supervisor { order: String },
    #[command(hide = true)]
    FlowHere {
        to: std::net::SocketAddr,
        rate: u32,
        connections: u32,
        seconds: f64,
    },
    #[command(hide = true)]
    Names {
        #[command(flatten)]
        lab: Which,
    },
    #[command(hide = true)]
    PodServer,
    #[command(hide = true)]
    Flows {
        to: std::net::SocketAddr,
        #[arg(long)]
        seconds: f64,
    },
    #[command(hide = true)]
    Wireguard {
        name: String,
        #[arg(long)]
        port: u16,
        #[arg(long, default_value_t = 1)]
        lanes: usize,
    },
    #[command(hide = true)]
    Responder { peer: String, count: u16 },
}

#[derive(Debug, Args)]
struct Which {
    /// The lab's name
    #[arg(long, env = "STRAIT_LAB", default_value = "lab")]
    name: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
enum Change {
    /// It comes
    Up,
    /// It goes, with its device, address and routes
    Down,
    /// Its device gets another address, or none
    Address {
        /// ADDRESS/LENGTH or none
        address: String,
    },
}

/// What follows the completion script of bash, lest names must be typed.
pub const BASH_NAMES: &str = include_str!("cli/names.bash");

/// The command line of `strait lab`.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs `strait lab`. The process must have one thread only.
///
/// # Errors
/// What is wrong, where, and what was expected.
pub fn main(matches: &ArgMatches) -> Result<ExitCode> {
    let binary = Path::new(SELF);
    let find = |which: &Which| Lab::find(&which.name, binary);
    match Cli::from_arg_matches(matches)?.action {
        Action::Up(arguments) => up::up(&arguments, binary)?,
        Action::Status { lab, output } => {
            let now = find(&lab)?.status()?;
            match output {
                Format::Table => print(&status::render(&now)?)?,
                Format::Json => print(&(serde_json::to_string_pretty(&now)? + "\n"))?,
            }
        }
        Action::Watch {
            lab,
            interval,
            json,
        } => watch::run(&find(&lab)?, seconds(interval)?, json)?,
        Action::Exec {
            lab,
            place,
            command,
        } => return exec::exec(&find(&lab)?, &place, &command),
        Action::Probe {
            lab,
            from,
            to,
            transport,
            bind,
            family,
            bytes,
            timeout,
        } => {
            let timeout_ms = seconds(timeout)?.as_millis().try_into()?;
            return try_probe(
                &find(&lab)?,
                &Probe {
                    from,
                    to,
                    transport,
                    bind,
                    family,
                    bytes,
                    timeout_ms,
                },
            );
        }
        Action::Reboot {
            lab,
            node,
            cni_after,
        } => find(&lab)?.reboot(&node, seconds(cni_after)?)?,
        Action::Cni { lab, node, change } => find(&lab)?.cni(&node, cni_change(&change)?)?,
        Action::Api {
            lab,
            server,
            method,
            path,
            body,
        } => {
            let text = match body.as_deref() {
                None => "null".to_owned(),
                Some("-") => std::io::read_to_string(std::io::stdin())?,
                Some(text) => text.to_owned(),
            };
            let body = serde_json::from_str(&text).context("the object is no JSON")?;
            let answer = find(&lab)?.api(&server, &method, &path, &body)?;
            print(&(serde_json::to_string_pretty(&answer)? + "\n"))?;
        }
        Action::Restart {
            lab,
            place,
            process,
        } => find(&lab)?.restart(&place, process)?,
        Action::Fault(fault) => faults::run(&fault, find)?,
        Action::Down { lab, all } => {
            let names = if all {
                StateDir::all()?.into_iter().map(|dir| dir.name).collect()
            } else {
                vec![lab.name]
            };
            for name in names {
                if !down(&name)? && !all {
                    print(&format!("no lab '{name}' was running\n"))?;
                }
            }
        }
        Action::Bench {
            runs,
            rounds,
            seconds,
            parts,
            program,
            only,
            json,
        } => {
            let effort = bench::Effort {
                runs: runs.unwrap_or(200),
                faults: runs.unwrap_or(5).max(1),
                rounds,
                seconds,
            };
            return bench::run(binary, program, &parts, effort, &only, json);
        }
        Action::Demo { cni_after } => return demo::run(binary, seconds(cni_after)?),
        Action::Sandbox { order } => return sandbox::sandbox(&order),
        Action::Init { order } => return sandbox::init(&order),
        Action::Supervisor { order } => return supervisor::run(&order),
        Action::Flow {
            lab,
            from,
            to,
            rate,
            tcp,
            seconds: time,
            family,
            json,
        } => {
            seconds(time)?;
            let flow = Flow {
                from,
                to,
                family,
                rate,
                connections: tcp,
                seconds: time,
            };
            let report = find(&lab)?.flow(&flow)?.wait()?;
            print(&if json {
                serde_json::to_string_pretty(&report)? + "\n"
            } else {
                flow::render(&report)
            })?;
        }
        Action::FlowHere {
            to,
            rate,
            connections,
            seconds: time,
        } => {
            let report = flow::here(to, rate, connections, seconds(time)?)?;
            print(&(serde_json::to_string(&report)? + "\n"))?;
        }
        Action::Names { lab } => print(&(find(&lab)?.topology().all_names().join("\n") + "\n"))?,
        Action::PodServer => return pod::serve(),
        Action::Wireguard { name, port, lanes } => bench::wireguard_device(&name, port, lanes)?,
        Action::Responder { peer, count } => bench::respond(&peer, count)?,
        Action::Flows { to, seconds: time } => {
            let flows = probe::flows(to, seconds(time)?)?;
            print(&format!("{flows:.1}\n"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn try_probe(lab: &Lab, probe: &Probe) -> Result<ExitCode> {
    match lab.probe(probe)? {
        Ok(seen) => {
            #[allow(clippy::cast_precision_loss, reason = "milliseconds for a reader")]
            let milliseconds = seen.micros as f64 / 1000.0;
            print(&format!(
                "{} was seen as {} ({} bytes each way in {milliseconds:.2} ms)\n",
                seen.local, seen.source, probe.bytes
            ))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            print(&format!("not reached: {error}\n"))?;
            Ok(ExitCode::FAILURE)
        }
    }
}

fn cni_change(change: &Change) -> Result<CniChange> {
    Ok(match change {
        Change::Up => CniChange::Up,
        Change::Down => CniChange::Down,
        Change::Address { address } if address == "none" => CniChange::NoAddress,
        Change::Address { address } => match address.parse() {
            Ok(address) => CniChange::Address(address),
            Err(_) => anyhow::bail!(
                "'{address}' is no address: expected ADDRESS/LENGTH, such as 10.101.3.7/24, or none"
            ),
        },
    })
}

fn family(text: &str) -> Result<Family, String> {
    match text {
        "v4" => Ok(Family::V4),
        "v6" => Ok(Family::V6),
        other => Err(format!("no family '{other}': expected v4 or v6")),
    }
}

/// A program that can be run, by its whole path: the lab's processes start elsewhere.
fn program(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    let path = path.canonicalize().map_err(|why| why.to_string())?;
    let mode = path.metadata().map_err(|why| why.to_string())?;
    if mode.is_file() && mode.permissions().mode() & 0o111 != 0 {
        Ok(path)
    } else {
        Err("it is no program".to_owned())
    }
}

fn seconds(number: f64) -> Result<Duration> {
    match Duration::try_from_secs_f64(number) {
        Ok(duration) => Ok(duration),
        Err(error) => anyhow::bail!("{number} seconds: {error}"),
    }
}

/// Prints to standard output. A reader that went away is no error: what is under way goes on.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut output = std::io::stdout().lock();
    match output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
    {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}
