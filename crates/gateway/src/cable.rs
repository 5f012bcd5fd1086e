//! The WireGuard cable's device: opened, kept as it is wanted, and asked what became of its tunnels.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, SystemTime};

use strait_api::names::CABLE_WIREGUARD;
use strait_cable::{Choice, Device, Keys, Kind, PrivateKey, Rotation, RotationError};
use strait_core::gateway::{self, Input, KeyStep, Tunnel, Tunnels};
use strait_daemon::engine::Inputs;
use strait_daemon::{Heartbeat, Metrics};
use strait_host::{Key, WireGuard};
use tokio::runtime;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::gauges::Gauges;
use crate::held::Held;
use crate::passphrase::Passphrase;

/// How often the device is looked at when nothing is to be changed.
const LOOK: Duration = Duration::from_secs(1);
/// A change that failed is tried again after this.
const RETRY: Duration = Duration::from_millis(100);
/// How often while other gateways change their keys: what they send by the next one is lost until a kernel's device lets them.
const QUICK: Duration = Duration::from_millis(20);
/// For so long after a next key was told of. It counts 10 s later, unless that gateway is cut off.
const QUICK_LASTS: Duration = Duration::from_secs(60);
/// The longest pause between two tries to open the device.
const LONGEST: Duration = Duration::from_secs(30);

/// Where the device's keys come from.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory in which the private key is kept.
    pub state: PathBuf,
    /// What the clusterset shares.
    pub passphrase: Passphrase,
    /// Whose device is asked for.
    pub choice: Choice,
}

/// What the device is to have; the order to look at once, too.
pub struct Cable {
    wanted: watch::Sender<Orders>,
}

/// What is wanted of the device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Orders {
    tunnels: Option<WireGuard>,
    key: Option<KeyStep>,
}

impl Cable {
    /// Keeps a device as it is wanted, for as long as this lives. It is served by this process if that is held.
    ///
    /// # Errors
    /// If there can be no thread for it.
    pub(crate) fn start(
        settings: Settings,
        held: Option<Held>,
        heart: Heartbeat,
        metrics: Metrics,
        gauges: Gauges,
        inputs: Inputs<Input>,
    ) -> std::io::Result<Self> {
        let (wanted, orders) = watch::channel(Orders::default());
        // A thread of its own: tunnels don't wait for the main loop, nor that for files and devices.
        let runtime = runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        let keep = async move {
            let (device, opened) = open(&settings, held, &heart, &inputs).await;
            let keeper = Keeper {
                device,
                opened,
                state: settings.state,
                passphrase: settings.passphrase,
                problem: None,
                heart,
                metrics,
                gauges,
                inputs,
                told: None,
                successors: Successors::default(),
            };
            keeper.run(orders).await;
        };
        let thread = thread::Builder::new().name("cable".to_owned());
        thread.spawn(move || runtime.block_on(keep))?;
        Ok(Self { wanted })
    }

    /// What it is to have from now on, and what is to become of its keys; `anew` if the device itself was made anew.
    pub fn want(&self, tunnels: Option<WireGuard>, key: Option<KeyStep>, anew: bool) {
        let wanted = Orders { tunnels, key };
        self.wanted.send_if_modified(|old| {
            let changed = anew || *old != wanted;
            *old = wanted;
            changed
        });
    }
}

/// Whose device it is to be, as a line in the log says. A process that is held serves it itself, whatever has changed since.
pub(crate) fn kind(settings: &Settings, is_held: bool) -> Kind {
    let (kind, why) = if is_held {
        (Kind::Process, "this process is held for it".to_owned())
    } else {
        settings.choice.settle()
    };
    match kind {
        Kind::Kernel => tracing::info!(why, "WireGuard of the kernel"),
        Kind::Process => tracing::info!(why, "WireGuard in this process"),
    }
    kind
}

/// Tries until it is there.
async fn open(
    settings: &Settings,
    mut held: Option<Held>,
    heart: &Heartbeat,
    inputs: &Inputs<Input>,
) -> (Box<dyn Device>, gateway::Device) {
    let mut pause = RETRY;
    loop {
        let why = match try_open(settings, &mut held) {
            Ok((device, opened)) => {
                tracing::info!(public_key = %opened.public_key, kernel = opened.kernel, "the WireGuard device is there");
                let _ = inputs.send(Input::Device(Ok(opened))).await;
                return (device, opened);
            }
            Err(error) => format!("{error:#}"),
        };
        tracing::warn!(error = %why, "no WireGuard device; it is tried again");
        let _ = inputs.send(Input::Device(Err(why))).await;
        let again = Instant::now() + pause;
        while Instant::now() < again {
            heart.beat();
            sleep_until(again.min(Instant::now() + LOOK)).await;
        }
        pause = (pause * 2).min(LONGEST);
    }
}

fn try_open(
    settings: &Settings,
    held: &mut Option<Held>,
) -> anyhow::Result<(Box<dyn Device>, gateway::Device)> {
    let private = PrivateKey::kept(&settings.state)?;
    let public_key = private.public();
    // What is wrong with it is told later; what there is must not be missing in what is published first.
    let rotation = Rotation::read(&settings.state).ok();
    let keys = Keys {
        private,
        preshared: settings.passphrase.preshared().clone(),
    };
    let device = match held.take() {
        None => strait_cable::open_kernel(CABLE_WIREGUARD, keys, &settings.state)?,
        Some(Held {
            holder,
            descriptors,
            ..
        }) => strait_cable::open_process(
            CABLE_WIREGUARD,
            keys,
            &settings.state,
            Some(Box::new(holder)),
            descriptors,
        ),
    };
    let kernel = device.is_kernel();
    let opened = gateway::Device {
        public_key,
        next: rotation
            .as_ref()
            .and_then(|rotation| Some(rotation.next.as_ref()?.public())),
        former: rotation.and_then(|rotation| rotation.former),
        kernel,
    };
    Ok((device, opened))
}

/// Keys that other gateways are going to have, and since when nothing changed of them.
#[derive(Default)]
struct Successors {
    keys: BTreeSet<Key>,
    since: Option<Instant>,
}

impl Successors {
    /// Whether one of them may count any moment.
    fn are_near(&mut self, wanted: &WireGuard, now: Instant) -> bool {
        let peers = wanted.peers.iter();
        let keys = peers.filter(|(_, peer)| !peer.succeeds.is_empty());
        let keys: BTreeSet<Key> = keys.map(|(key, _)| *key).collect();
        if keys != self.keys {
            self.keys = keys;
            self.since = Some(now);
        }
        let is_new = |since| now.duration_since(since) < QUICK_LASTS;
        !self.keys.is_empty() && self.since.is_some_and(is_new)
    }
}

struct Keeper {
    device: Box<dyn Device>,
    /// What was told of it.
    opened: gateway::Device,
    state: PathBuf,
    passphrase: Passphrase,
    /// Why the key can't be changed.
    problem: Option<String>,
    heart: Heartbeat,
    metrics: Metrics,
    gauges: Gauges,
    inputs: Inputs<Input>,
    told: Option<Tunnels>,
    successors: Successors,
}

impl Keeper {
    async fn run(mut self, mut orders: watch::Receiver<Orders>) {
        let mut look = Instant::now();
        loop {
            self.heart.beat();
            tokio::select! {
                changed = orders.changed() => if changed.is_err() {
                    return;
                },
                () = sleep_until(look) => {}
            }
            let Orders { tunnels, key } = orders.borrow_and_update().clone();
            let before = self.opened;
            self.follow_keys(key);
            if let Some(preshared) = self.passphrase.look() {
                self.device.share(preshared);
            }
            let known = self.opened == before;
            if !known
                && self
                    .inputs
                    .send(Input::Device(Ok(self.opened)))
                    .await
                    .is_err()
            {
                return;
            }
            let Some(wanted) = tunnels else {
                look = Instant::now() + LOOK;
                continue;
            };
            let tunnels = self.keep(&wanted);
            let now = Instant::now();
            let pause = if tunnels.failure.is_some() {
                RETRY
            } else if self.successors.are_near(&wanted, now) {
                QUICK
            } else {
                LOOK
            };
            look = now + pause;
            if self.told.as_ref() != Some(&tunnels) {
                self.told = Some(tunnels.clone());
                if self.inputs.send(Input::Tunnels(tunnels)).await.is_err() {
                    return;
                }
            }
        }
    }

    /// Takes the step that is due, and sees how far a change of the key has come.
    fn follow_keys(&mut self, step: Option<KeyStep>) {
        let followed = self.try_follow_keys(step);
        let problem = followed.err().map(|error| error.to_string());
        if let Some(error) = problem.as_ref().filter(|_| self.problem != problem) {
            tracing::warn!(%error, "the WireGuard key can't be changed; it is tried again");
            self.metrics.error("cable");
        }
        self.problem = problem;
    }

    fn try_follow_keys(&mut self, step: Option<KeyStep>) -> Result<(), RotationError> {
        let mut there = Rotation::read(&self.state)?;
        let next = there.next.as_ref().map(PrivateKey::public);
        // Orders are of a moment ago.
        match step {
            Some(KeyStep::Switch(to)) if next == Some(to) => {
                let from = self.opened.public_key;
                Rotation::switch(&self.state, from)?;
                tracing::info!(%from, %to, "the WireGuard key is another");
                self.opened.public_key = to;
                if let Some(private) = there.next.take() {
                    self.device.rekey(private);
                }
                there.former = Some(from);
            }
            Some(KeyStep::Forget(key)) if there.former == Some(key) => {
                Rotation::forget(&self.state)?;
                there.former = None;
                tracing::info!(%key, "the former WireGuard key is forgotten");
            }
            Some(KeyStep::Ask) if there.next.is_none() && there.former.is_none() => {
                Rotation::ask(&self.state)?;
                there = Rotation::read(&self.state)?;
            }
            Some(KeyStep::Ask | KeyStep::Switch(_) | KeyStep::Forget(_)) | None => {}
        }
        let next = there.next.map(|next| next.public());
        if let Some(to) = next.filter(|_| next != self.opened.next) {
            tracing::info!(%to, "another WireGuard key is asked for; peers are told first");
        }
        self.opened.next = next;
        self.opened.former = there.former;
        Ok(())
    }

    fn keep(&mut self, wanted: &WireGuard) -> Tunnels {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_secs());
        let before = self.told.clone().unwrap_or_default();
        match self.device.keep(wanted, now) {
            Ok(status) => {
                self.gauges.peers(&status);
                let of = |(key, status)| (key, Tunnel::of(&status, now));
                Tunnels {
                    peers: status.into_iter().map(of).collect(),
                    held: self.device.has_link(),
                    behind: self.device.behind().div_ceil(60),
                    failure: None,
                }
            }
            Err(error) => {
                let failure = Some(error.to_string());
                if before.failure != failure {
                    tracing::warn!(%error, "the WireGuard device can't be made as it is wanted; it is tried again");
                }
                self.metrics.error("cable");
                Tunnels {
                    held: self.device.has_link(),
                    failure,
                    ..before
                }
            }
        }
    }
}
