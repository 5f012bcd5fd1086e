//! Random faults, one or two at a time, for hours: after each is mended, everybody reaches everybody again, nothing is complained of, and what
//! the processes take of their nodes does not grow.
//!
//! The sequence follows from its seed. When things happen within it does not: machines are not that much alike.

mod harm;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use strait_fuzz::Dice;
use strait_lab::matrix::{Origin, Way, render, ways};
use strait_lab::{Cable, Cni, Families, Growth, Lab, Options, Role, Topology, Usage};

use crate::common::{binary, name};
use crate::matrix::bad;
use harm::Harm;

/// Minutes, for both cables together.
const MINUTES: u64 = 120;
/// After the last fault of a round is mended, all is well again within this time: a WireGuard session that is found dead (15 s), an object that
/// was left alone as somebody took it away again and again (30 s), and what a busy machine needs.
const LIMIT: Duration = Duration::from_secs(60);
/// What began at the end of a round has come to rest: idle threads of blocking work end after 10 s.
const REST: Duration = Duration::from_secs(3);
/// The first part of all rounds does not count: caches and pools fill.
const WARM_PERCENT: usize = 10;
const SUBMARINER: &str = "/apis/submariner.io/v1/namespaces/submariner-operator";
const LEASE: &str =
    "/apis/coordination.k8s.io/v1/namespaces/submariner-operator/leases/submariner-gateway-lock";

/// Runs it over the cables that were asked for; what went wrong was printed.
pub(crate) fn run(asked: &[String]) -> bool {
    let settings = match Settings::read(asked) {
        Ok(settings) => settings,
        Err(error) => {
            println!("{error:#}");
            return false;
        }
    };
    println!(
        "random faults with seed {}, for {} min",
        settings.seed,
        settings.time.as_secs() / 60
    );
    let mut good = true;
    let mut dice = Dice::new(settings.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    for cable in &settings.cables {
        let share = settings.time / u32::try_from(settings.cables.len()).unwrap_or(1);
        let mut soak = Soak::default();
        if let Err(error) = soak.run(&mut dice, *cable, share, settings.logs.as_ref()) {
            good = false;
            println!(
                "FAILED: {error:#}\nwhat was done, over {cable}:\n{}",
                soak.steps
            );
            println!(
                "again: make soak ONLY=\"{}\" SOAK_SEED={} SOAK_MINUTES={}",
                settings.only,
                settings.seed,
                settings.time.as_secs() / 60
            );
            // What follows from the seed for the other cable would be something else.
            break;
        }
    }
    good
}

struct Settings {
    seed: u64,
    time: Duration,
    cables: Vec<Cable>,
    only: String,
    /// Where to put the logs of a lab in which something went wrong.
    logs: Option<PathBuf>,
}

impl Settings {
    fn read(asked: &[String]) -> Result<Self> {
        let number = |name: &str| {
            let text = std::env::var(name).ok().filter(|text| !text.is_empty());
            let number = text.map(|text| {
                let number = text.parse::<u64>().ok().filter(|number| *number > 0);
                number.with_context(|| format!("{name}={text}: expected a number above 0"))
            });
            number.transpose()
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let random = u64::from(now.unwrap_or_default().subsec_nanos()).max(1);
        let mut cables = vec![Cable::Vxlan, Cable::Wireguard];
        cables.retain(|cable| asked.contains(&cable.to_string()));
        if cables.is_empty() {
            cables = vec![Cable::Vxlan, Cable::Wireguard];
        }
        Ok(Self {
            seed: number("SOAK_SEED")?.unwrap_or(random),
            time: Duration::from_secs(60 * number("SOAK_MINUTES")?.unwrap_or(MINUTES)),
            cables,
            only: if asked.is_empty() {
                "faults".to_owned()
            } else {
                asked.join(" ")
            },
            logs: std::env::var_os("SOAK_LOGS").map(PathBuf::from),
        })
    }
}

/// A process, by what stays when it is started anew: its place, its role, and whether it is the child.
type Who = (String, Role, bool);

#[derive(Default)]
struct Soak {
    /// What was done.
    steps: String,
    /// At rest after each round.
    samples: Vec<Vec<Usage>>,
    slowest: Duration,
}

impl Soak {
    fn run(
        &mut self,
        dice: &mut Dice,
        cable: Cable,
        time: Duration,
        logs: Option<&PathBuf>,
    ) -> Result<()> {
        let begun = Instant::now();
        let options = Options {
            name: name("soak"),
            gateways: 2,
            cnis: vec![Cni::Bridge, Cni::Calico],
            families: Families::Dual,
            cable,
            clocks: true,
            ..Options::default()
        };
        let lab = Lab::up(&options, binary(), |_| ())?;
        let all = everybody(lab.topology());
        println!("{cable}: {} ways, each over TCP and UDP", all.len());
        let result = recovered(&lab, &all)
            .context("at the start")
            .and_then(|_| self.rounds(dice, &lab, cable, &all, begun + time));
        if let (Err(_), Some(to)) = (&result, logs) {
            keep(&lab, to)?;
        }
        result?;
        drop(lab);
        println!(
            "{cable}: {} rounds, all well again after {:.1} s at most",
            self.samples.len(),
            self.slowest.as_secs_f64()
        );
        self.verdict()
    }

    fn rounds(
        &mut self,
        dice: &mut Dice,
        lab: &Lab,
        cable: Cable,
        all: &[Way],
        end: Instant,
    ) -> Result<()> {
        for number in 1.. {
            if Instant::now() >= end {
                break;
            }
            let harms = draw(dice, lab.topology(), cable);
            let texts: Vec<String> = harms
                .iter()
                .map(|(harm, hold)| format!("{harm} ({} s)", hold.as_secs_f64()))
                .collect();
            let text = format!("{number}. {}", texts.join("; "));
            // Writing to a string does not fail.
            let _ = writeln!(self.steps, "{text}");
            let took = round(lab, all, &harms).with_context(|| {
                format!("round {text}: expected that all is well within {LIMIT:?}")
            })?;
            self.slowest = self.slowest.max(took);
            std::thread::sleep(REST);
            let usage = lab.usage()?;
            println!(
                "{text}: well after {:.1} s; {} processes, {} MiB, {} descriptors",
                took.as_secs_f64(),
                usage.len(),
                usage.iter().map(|it| it.anonymous_kib).sum::<u64>() / 1024,
                usage.iter().map(|it| it.descriptors).sum::<u64>()
            );
            self.samples.push(usage);
        }
        Ok(())
    }

    /// Prints what each process took at first and at last; fails if that is not flat. API servers are the lab's own, and only shown: they remember
    /// changes, up to a number that takes hours, and have the connections that others make.
    fn verdict(&self) -> Result<()> {
        let warm = self.samples.len() * WARM_PERCENT / 100;
        let mut by_who: BTreeMap<Who, Vec<Usage>> = BTreeMap::new();
        for one in self.samples.iter().skip(warm).flatten() {
            let who = (one.place.clone(), one.role, one.child);
            by_who.entry(who).or_default().push(one.clone());
        }
        let mut bad = Vec::new();
        let mut judged = 0;
        for ((place, role, child), samples) in &by_who {
            let child = if *child { ", child" } else { "" };
            let who = format!("{place} {role}{child}");
            let lives: BTreeSet<u32> = samples.iter().map(|one| one.pid).collect();
            let Some(growth) = Growth::of(samples) else {
                println!("  {who:<30} {} samples: too few to tell", samples.len());
                continue;
            };
            let word = if *role == Role::Apiserver {
                ", not judged"
            } else if growth.is_flat() {
                judged += 1;
                ""
            } else {
                bad.push(format!("{who}: {growth}"));
                ", GROWS"
            };
            println!("  {who:<30} {growth}, {} lives{word}", lives.len());
        }
        ensure!(
            bad.is_empty(),
            "what a process takes grows: expected, from the first third to the last, at most {} MiB or {} % more memory, and {} descriptors:\n  {}",
            Growth::MEMORY_KIB / 1024,
            Growth::MEMORY_PERCENT,
            Growth::DESCRIPTORS,
            bad.join("\n  ")
        );
        ensure!(
            judged > 0,
            "{} rounds are too few to tell",
            self.samples.len()
        );
        println!("  {judged} are flat");
        Ok(())
    }
}

/// One or two, at two places.
fn draw(dice: &mut Dice, topology: &Topology, cable: Cable) -> Vec<(Harm, Duration)> {
    let mut harms: Vec<(Harm, Duration)> = Vec::new();
    for _ in 0..=dice.below(2) {
        let harm = Harm::draw(dice, topology, cable);
        let hold = Harm::hold(dice);
        if harms.iter().all(|(other, _)| other.place != harm.place) {
            harms.push((harm, hold));
        }
    }
    harms
}

/// Each lasts its time beside those before it; then all are mended, the last one first. Gives how long it took until all was well.
fn round(lab: &Lab, all: &[Way], harms: &[(Harm, Duration)]) -> Result<Duration> {
    for (harm, hold) in harms {
        harm.begin(lab)
            .with_context(|| format!("it can't be done: {harm}"))?;
        std::thread::sleep(*hold);
    }
    for (harm, _) in harms.iter().rev() {
        harm.end(lab)
            .with_context(|| format!("it can't be undone: {harm}"))?;
    }
    let impaired = lab.heal_all()?;
    ensure!(impaired.is_empty(), "it stays impaired: {impaired:?}");
    recovered(lab, all)
}

/// Waits until all is well; how long that took.
fn recovered(lab: &Lab, all: &[Way]) -> Result<Duration> {
    let begun = Instant::now();
    let left = || LIMIT.saturating_sub(begun.elapsed());
    lab.wait_until_ready(left(), true)?;
    let mut open = all.to_vec();
    loop {
        let failed = bad(lab, &open);
        if failed.is_empty() && open.len() == all.len() {
            break;
        }
        ensure!(
            failed.is_empty() || !left().is_zero(),
            "not everybody reaches everybody:\n{}",
            render(&failed)
        );
        open = if failed.is_empty() {
            all.to_vec()
        } else {
            failed.into_iter().map(|one| one.way).collect()
        };
    }
    while let Err(error) = agreed(lab) {
        ensure!(!left().is_zero(), "{error:#}");
        std::thread::sleep(Duration::from_millis(50));
    }
    // What came while it was tried counts, too.
    lab.wait_until_ready(left(), true)?;
    Ok(begun.elapsed())
}

/// One gateway of each cluster is the active one, by all that tells of it.
fn agreed(lab: &Lab) -> Result<()> {
    let clusters = &lab.topology().clusters;
    for cluster in clusters {
        let list = |at: &str, path: &str| {
            let list = lab.api(at, "GET", path, &Value::Null)?;
            Ok::<_, anyhow::Error>(list["items"].as_array().cloned().unwrap_or_default())
        };
        let lease = lab.api(&cluster.name, "GET", LEASE, &Value::Null)?;
        let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
        let holder = holder.replace("-submariner-gateway", "");
        let gateways = list(&cluster.name, &format!("{SUBMARINER}/gateways"))?;
        let names = |status: &str| -> Vec<String> {
            let all = gateways
                .iter()
                .filter(|one| one["status"]["haStatus"] == status);
            let names = all.filter_map(|one| one["metadata"]["name"].as_str());
            names.map(str::to_owned).collect()
        };
        let (active, passive) = (names("active"), names("passive"));
        if active != [holder.clone()] || passive.len() + 1 != cluster.gateways().count() {
            bail!(
                "{}: the Lease is held by {holder}, active is {active:?}, passive {passive:?}",
                cluster.name
            );
        }
        for place in clusters {
            let endpoints = list(&place.name, &format!("{SUBMARINER}/endpoints"))?;
            let of = endpoints
                .iter()
                .filter(|one| one["spec"]["cluster_id"] == cluster.name.as_str());
            let hosts: Vec<&str> = of
                .filter_map(|one| one["spec"]["hostname"].as_str())
                .collect();
            if hosts != [holder.as_str()] {
                bail!(
                    "{}: the Endpoints of {} are of {hosts:?}, the Lease is held by {holder}",
                    place.name,
                    cluster.name
                );
            }
        }
    }
    Ok(())
}

/// Every pod to every pod of another cluster, and all that a lab's ways are.
fn everybody(topology: &Topology) -> Vec<Way> {
    let mut all = ways(topology);
    for family in topology.families.all() {
        for node in topology.nodes() {
            let others = topology.pods().filter(|pod| {
                let of = topology.nodes().find(|other| other.name == pod.node);
                of.is_some_and(|of| of.cluster != node.cluster)
            });
            for pod in others {
                let way = Way::new(*family, Origin::Pod, node, &pod.name);
                all.extend(way.filter(|way| !all.contains(way)));
            }
        }
    }
    all
}

fn keep(lab: &Lab, to: &PathBuf) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for file in std::fs::read_dir(lab.logs())? {
        let file = file?;
        std::fs::copy(file.path(), to.join(file.file_name()))?;
    }
    Ok(())
}
