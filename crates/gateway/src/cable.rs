//! The WireGuard cable's device: opened, kept as it is wanted, and asked what became of its tunnels.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, SystemTime};

use strait_api::names::CABLE_WIREGUARD;
use strait_cable::{Choice, Device, Keys, Kind, Preshared, PrivateKey};
use strait_core::gateway::{self, Input, Tunnel, Tunnels};
use strait_daemon::Metrics;
use strait_host::WireGuard;
use tokio::runtime;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use crate::gauges::Gauges;
use crate::held::Held;

/// How often the device is looked at when nothing is to be changed.
const LOOK: Duration = Duration::from_secs(1);
/// A change that failed is tried again after this.
const RETRY: Duration = Duration::from_millis(100);
/// The longest pause between two tries to open the device.
const LONGEST: Duration = Duration::from_secs(30);

/// Where the device's keys come from.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory in which the private key is kept.
    pub state: PathBuf,
    /// The key that the clusterset shares.
    pub preshared: Preshared,
    /// Whose device is asked for.
    pub choice: Choice,
}

/// What the device is to have; the order to look at once, too.
pub struct Cable {
    wanted: watch::Sender<Option<WireGuard>>,
}

impl Cable {
    /// Keeps a device as it is wanted, for as long as this lives. It is served by this process if that is held.
    ///
    /// # Errors
    /// If there can be no thread for it.
    pub(crate) fn start(
        settings: Settings,
        held: Option<Held>,
        metrics: Metrics,
        gauges: Gauges,
        inputs: mpsc::Sender<Input>,
    ) -> std::io::Result<Self> {
        let (wanted, orders) = watch::channel(None);
        // A thread of its own: tunnels don't wait for the main loop, nor that for files and devices.
        let runtime = runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        let keep = async move {
            let device = open(&settings, held, &inputs).await;
            let keeper = Keeper {
                device,
                metrics,
                gauges,
                inputs,
                told: None,
            };
            keeper.run(orders).await;
        };
        let thread = thread::Builder::new().name("cable".to_owned());
        thread.spawn(move || runtime.block_on(keep))?;
        Ok(Self { wanted })
    }

    /// What it is to have from now on; `anew` if the device itself was made anew.
    pub fn want(&self, wanted: Option<WireGuard>, anew: bool) {
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
    inputs: &mpsc::Sender<Input>,
) -> Box<dyn Device> {
    let mut pause = RETRY;
    loop {
        let why = match try_open(settings, &mut held) {
            Ok((device, opened)) => {
                tracing::info!(public_key = %opened.public_key, kernel = opened.kernel, "the WireGuard device is there");
                let _ = inputs.send(Input::Device(Ok(opened))).await;
                return device;
            }
            Err(error) => format!("{error:#}"),
        };
        tracing::warn!(error = %why, "no WireGuard device; it is tried again");
        let _ = inputs.send(Input::Device(Err(why))).await;
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST);
    }
}

fn try_open(
    settings: &Settings,
    held: &mut Option<Held>,
) -> anyhow::Result<(Box<dyn Device>, gateway::Device)> {
    let private = PrivateKey::kept(&settings.state)?;
    let public_key = private.public();
    let keys = Keys {
        private,
        preshared: settings.preshared.clone(),
    };
    let device = match held.take() {
        None => strait_cable::open_kernel(CABLE_WIREGUARD, keys)?,
        Some(Held {
            holder,
            descriptors,
        }) => strait_cable::open_process(
            CABLE_WIREGUARD,
            keys,
            &settings.state,
            Some(Box::new(holder)),
            descriptors,
        ),
    };
    let kernel = device.is_kernel();
    Ok((device, gateway::Device { public_key, kernel }))
}

struct Keeper {
    device: Box<dyn Device>,
    metrics: Metrics,
    gauges: Gauges,
    inputs: mpsc::Sender<Input>,
    told: Option<Tunnels>,
}

impl Keeper {
    async fn run(mut self, mut orders: watch::Receiver<Option<WireGuard>>) {
        let mut look = Instant::now();
        loop {
            tokio::select! {
                changed = orders.changed() => if changed.is_err() {
                    return;
                },
                () = sleep_until(look) => {}
            }
            let wanted = orders.borrow_and_update().clone();
            let Some(wanted) = wanted else {
                look = Instant::now() + LOOK;
                continue;
            };
            let tunnels = self.keep(&wanted);
            let pause = if tunnels.failure.is_some() {
                RETRY
            } else {
                LOOK
            };
            look = Instant::now() + pause;
            if self.told.as_ref() != Some(&tunnels) {
                self.told = Some(tunnels.clone());
                if self.inputs.send(Input::Tunnels(tunnels)).await.is_err() {
                    return;
                }
            }
        }
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
