//! `strait lab kill`, `crash`, `stop`, `cut`, `slow`, `lose`, `clock` and `heal`.

use anyhow::Result;
use clap::{Args, Subcommand};

use super::{Which, print};
use crate::client::Lab;
use crate::clock;
use crate::faults::{Impaired, Sides, Trouble};
use crate::process::Role;
use crate::status;

const LINKS: &str = "\
WHAT is a cluster for its link to the WAN (east), a node for its cable (east-2), or the machine of an API server
(control-east, broker). Both ways of a link, and all that is done to it, are independent of each other.";

#[derive(Debug, Subcommand)]
pub(super) enum Fault {
    /// End a process with SIGKILL, or take a node's power away, and leave it so
    #[command(after_help = "\
Examples:
  strait lab kill east-1 gateway     this process
  strait lab kill east-1             the node: all its processes end, its links are gone
  strait lab kill broker             its API server; control-east is that of cluster east")]
    Kill(Victim),
    /// End the process that does an agent's work with SIGKILL, and see it come back
    #[command(after_help = "\
A gateway that serves WireGuard itself has a parent that starts it again; others the lab starts again, as a kubelet would.

Examples:
  strait lab crash east-1 gateway
  strait lab crash east-2 route-agent")]
    Crash {
        #[command(flatten)]
        lab: Which,
        /// A node
        place: String,
        /// One process of it: route-agent or gateway
        process: Role,
        /// Print what is impaired afterwards as JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a process, or all of a machine, stand still (SIGSTOP)
    #[command(after_help = "\
Examples:
  strait lab stop east-1 gateway
  strait lab stop east-1             all processes of the node and its pods; its kernel goes on
  strait lab stop control-east       an API server that takes connections and says nothing")]
    Stop(Victim),
    /// Let nothing pass a link any more; its cable stays where it is
    #[command(after_help = format!("{LINKS}\n
Examples:
  strait lab cut east                the cluster from the others, the broker and the Internet
  strait lab cut east --way in       what comes to it; what it sends arrives
  strait lab cut east-2              a node from everybody
  strait lab cut control-east        the API server from its nodes"))]
    Cut {
        #[command(flatten)]
        link: Link,
    },
    /// Make a link late, uneven or narrow
    #[command(after_help = format!("{LINKS}\n
Examples:
  strait lab slow east --delay 40               40 ms each way: 80 more for a round trip
  strait lab slow east --delay 40 --jitter 10   30 to 50 ms; packets keep their order
  strait lab slow east --rate 10 --way out      an uplink of 10 Mbit/s"))]
    Slow {
        #[command(flatten)]
        link: Link,
        /// How much later each packet arrives, in ms
        #[arg(long, default_value_t = 0.0, value_name = "MS")]
        delay: f64,
        /// By how much more or less at most, in ms
        #[arg(long, default_value_t = 0.0, value_name = "MS")]
        jitter: f64,
        /// Mbit/s at most
        #[arg(long, value_name = "MBIT")]
        rate: Option<f64>,
    },
    /// Lose some of what passes a link
    #[command(after_help = format!("{LINKS}\n
Examples:
  strait lab lose east --percent 20
  strait lab lose broker --percent 5 --way out"))]
    Lose {
        #[command(flatten)]
        link: Link,
        /// How many packets of a hundred
        #[arg(long)]
        percent: f64,
    },
    /// Step a node's wall clock
    #[command(after_help = "\
The lab must have been started with --clocks. All processes of the node, those of 'strait lab exec' too, see it when this returns.
Clocks that only go on, by which programs wait, are not touched.

Examples:
  strait lab clock east-1 +1h        an hour before the machine's
  strait lab clock east-1 -1h        an hour behind it
  strait lab clock east-1 0          right again, as 'strait lab heal east-1' does it")]
    Clock {
        #[command(flatten)]
        lab: Which,
        /// A node
        node: String,
        /// By how much it goes before (+) or behind (-) the machine's
        #[arg(allow_hyphen_values = true)]
        off: String,
        /// Print what is impaired afterwards as JSON
        #[arg(long)]
        json: bool,
    },
    /// Undo what was killed, stopped, cut, slowed, lost and stepped
    #[command(after_help = "\
Examples:
  strait lab heal                    everything
  strait lab heal east               the cluster's link to the WAN
  strait lab heal east-1             the node: it boots if it is off, its link is good, its processes run
  strait lab heal east-1 gateway     this process")]
    Heal {
        #[command(flatten)]
        lab: Which,
        /// A cluster, a node, a pod, or the machine of an API server; else everything
        what: Option<String>,
        /// One process of it: route-agent, gateway, apiserver or pod
        process: Option<Role>,
        /// Print what is impaired afterwards as JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct Victim {
    #[command(flatten)]
    lab: Which,
    /// A node, a pod, or the machine of an API server
    what: String,
    /// One process of it: route-agent, gateway, apiserver or pod
    process: Option<Role>,
    /// Print what is impaired afterwards as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Link {
    #[command(flatten)]
    lab: Which,
    /// A cluster, a node, or the machine of an API server
    what: String,
    /// What comes to it, what comes from it, or both
    #[arg(long, value_enum, default_value = "both")]
    way: Sides,
    /// Print what is impaired afterwards as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(fault: &Fault, find: impl Fn(&Which) -> Result<Lab>) -> Result<()> {
    let on_link = |link: &Link, trouble: Trouble| {
        // What makes no sense is told before a lab is looked for.
        trouble.check()?;
        Ok::<_, anyhow::Error>((find(&link.lab)?.trouble(&link.what, trouble)?, link.json))
    };
    let (impaired, json) = match fault {
        Fault::Kill(victim) => (
            find(&victim.lab)?.kill_what(&victim.what, victim.process)?,
            victim.json,
        ),
        Fault::Crash {
            lab,
            place,
            process,
            json,
        } => (find(lab)?.crash(place, *process)?, *json),
        Fault::Stop(victim) => (
            find(&victim.lab)?.stop(&victim.what, victim.process)?,
            victim.json,
        ),
        Fault::Cut { link } => on_link(link, Trouble::Cut(link.way))?,
        Fault::Slow {
            link,
            delay,
            jitter,
            rate,
        } => on_link(
            link,
            Trouble::Slow {
                sides: link.way,
                delay_ms: *delay,
                jitter_ms: *jitter,
                rate_mbit: *rate,
            },
        )?,
        Fault::Lose { link, percent } => on_link(
            link,
            Trouble::Lose {
                sides: link.way,
                percent: *percent,
            },
        )?,
        Fault::Clock {
            lab,
            node,
            off,
            json,
        } => {
            let ahead = clock::parse(off)?;
            (find(lab)?.clock(node, ahead)?, *json)
        }
        Fault::Heal {
            lab,
            what,
            process,
            json,
        } => {
            let lab = find(lab)?;
            let impaired = match what {
                Some(what) => lab.heal(what, *process)?,
                None => lab.heal_all()?,
            };
            (impaired, *json)
        }
    };
    print(&text(&impaired, json)?)
}

fn text(impaired: &[Impaired], json: bool) -> Result<String> {
    Ok(if json {
        serde_json::to_string_pretty(impaired)? + "\n"
    } else if impaired.is_empty() {
        "nothing is impaired\n".to_owned()
    } else {
        status::impaired(impaired)
    })
}
