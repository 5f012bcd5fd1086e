//! WireGuard in this process next to other programs that do without the kernel's, each in its own process, with the same devices
//! between two network namespaces, one after the other in each round.

use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use strait_netns::Namespace;

use super::figure::{Figure, Unit};
use super::{Effort, PATIENCE, echo, peers};

pub(super) const PORT: u16 = 51820;
/// Streams at the same time.
const STREAMS: [u32; 2] = [1, 4];
/// Datagrams whose way there and back is timed, two milliseconds apart, and how often in each round.
const DATAGRAMS: u32 = 100;
const TURNS: u32 = 15;

/// What makes a tunnel, or does without one.
#[derive(Debug, Clone)]
struct Way {
    name: String,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    /// No tunnel at all.
    Bare,
    /// From a TUN device to UDP and back, without cryptography.
    Relay,
    /// A program, and what stands before the device's name.
    Program(PathBuf, Vec<String>),
}

/// Throughput, round trips, and many peers.
pub(super) fn figures(binary: &Path, effort: Effort) -> Result<Vec<Figure>> {
    let sides = Sides::new()?;
    let ours = ours(binary);
    let mut ways = vec![ours.clone()];
    ways.extend(others());
    let mut figures = throughput(&sides, &ways, effort)?;
    figures.extend(round_trips(&sides, &ours, effort)?);
    if let Kind::Program(program, arguments) = &ours.kind {
        figures.extend(peers::figures(&sides.a, &sides.b, program, arguments)?);
    }
    Ok(figures)
}

/// Is one end: a device of this name, to be set by `wg`, until SIGTERM.
pub(crate) fn serve(name: &str, port: u16, lanes: usize) -> Result<()> {
    // Before there are threads: they inherit it.
    let mut end = SigSet::empty();
    end.add(Signal::SIGTERM);
    end.add(Signal::SIGINT);
    end.thread_block()?;
    let options = strait_wg::Options::default();
    let tun = strait_wg::Tun::open(name, options.mtu, lanes)?;
    let sockets = strait_wg::Sockets::bind(port, None, lanes)?;
    let mut device = strait_wg::Device::start(tun, sockets, options)?;
    device.open_door(name)?;
    end.wait()?;
    Ok(())
}

fn ours(binary: &Path) -> Way {
    let arguments = ["lab", "wireguard", "--port", &PORT.to_string()];
    Way {
        name: "in this process".to_owned(),
        kind: Kind::Program(binary.to_owned(), arguments.map(str::to_owned).to_vec()),
    }
}

/// Those that are installed, by `PATH` or `cargo install --root target/tools`.
fn others() -> Vec<Way> {
    let found = [
        ("wireguard-go", &["-f"][..]),
        ("gotatun", &["-f", "--disable-drop-privileges"][..]),
        ("boringtun-cli", &["-f", "--disable-drop-privileges"][..]),
    ]
    .into_iter()
    .filter_map(|(program, arguments)| {
        let local = Path::new("target/tools/bin").join(program);
        let path = [local, PathBuf::from(program)]
            .into_iter()
            .find_map(|path| {
                let version = Command::new(&path).arg("--version").output().ok()?;
                Some((path, String::from_utf8_lossy(&version.stdout).into_owned()))
            });
        let Some((path, said)) = path else {
            tracing::warn!(program, "not installed, and so not compared");
            return None;
        };
        let mut words = said.split_whitespace();
        let version =
            words.find(|word| word.contains('.') && word.contains(|c: char| c.is_ascii_digit()));
        Some(Way {
            name: format!("{program} {}", version.unwrap_or("of unknown version")),
            kind: Kind::Program(
                path,
                arguments.iter().map(|&text| text.to_owned()).collect(),
            ),
        })
    });
    found.collect()
}

fn throughput(sides: &Sides, tunnels: &[Way], effort: Effort) -> Result<Vec<Figure>> {
    let mut ways = tunnels.to_vec();
    ways.push(Way {
        name: "veth, no tunnel".to_owned(),
        kind: Kind::Bare,
    });
    let mut samples = vec![[Vec::new(), Vec::new()]; ways.len()];
    for round in 0..effort.rounds as usize {
        for step in 0..ways.len() {
            let number = (round + step) % ways.len();
            let Some((way, samples)) = ways.get(number).zip(samples.get_mut(number)) else {
                continue;
            };
            let tunnel = Tunnel::up(sides, way).with_context(|| way.name.clone())?;
            for (streams, samples) in STREAMS.into_iter().zip(samples) {
                samples.push(iperf(sides, tunnel.address, streams, effort.seconds)?);
            }
        }
    }
    let mut figures = Vec::new();
    for (streams, at) in STREAMS.into_iter().zip(0..) {
        let of = |number: usize| {
            samples
                .get(number)
                .and_then(|both| both.get(at))
                .cloned()
                .unwrap_or_default()
        };
        for (way, number) in ways.iter().zip(0..) {
            let name = format!("TCP, {streams} stream(s), through {}", way.name);
            figures.push(Figure::new(&name, "", Unit::GigabitsPerSecond, of(number)));
        }
        let others: Vec<_> = (1..tunnels.len()).map(of).collect();
        let ratios = of(0)
            .into_iter()
            .zip(0..)
            .filter_map(|(own, round): (f64, usize)| {
                let best = others
                    .iter()
                    .filter_map(|of| of.get(round))
                    .copied()
                    .reduce(f64::max)?;
                Some(own / best)
            });
        let name =
            format!("TCP, {streams} stream(s), in this process / the best of the other programs");
        figures.push(Figure::new(&name, ">= 2", Unit::Ratio, ratios.collect()));
    }
    Ok(figures)
}

fn round_trips(sides: &Sides, ours: &Way, effort: Effort) -> Result<Vec<Figure>> {
    let ways = [
        ours.clone(),
        Way {
            name: "a relay without cryptography".to_owned(),
            kind: Kind::Relay,
        },
        Way {
            name: "veth, no tunnel".to_owned(),
            kind: Kind::Bare,
        },
    ];
    let mut samples = [const { Vec::new() }; 3];
    let tunnels: Vec<Tunnel> = ways
        .iter()
        .map(|way| Tunnel::up(sides, way).with_context(|| way.name.clone()))
        .collect::<Result<_>>()?;
    // In turn, a few at a time, so that what else the machine does counts for each of them.
    for _ in 0..TURNS * effort.rounds {
        for (tunnel, samples) in tunnels.iter().zip(&mut samples) {
            samples.extend(echo::round_trips(
                &sides.a,
                &sides.b,
                tunnel.address,
                DATAGRAMS,
            )?);
        }
    }
    let mut figures = Vec::new();
    let [own, relay, bare] = samples;
    let added = |of: &[f64], share| at(of, share) - at(&bare, share);
    for share in [50, 99] {
        let ratio = added(&own, share) / added(&relay, share);
        let name = format!(
            "round trip added in this process / added by a relay without cryptography, p{share}"
        );
        figures.push(Figure::new(&name, "<= 1.5", Unit::Ratio, vec![ratio]));
    }
    for (way, samples) in ways.iter().zip([own, relay, bare]) {
        let name = format!("round trip at 500 datagrams/s, {}", way.name);
        figures.push(Figure::new(&name, "", Unit::Milliseconds, samples));
    }
    Ok(figures)
}

fn at(samples: &[f64], share: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    super::figure::percentile(&sorted, share)
}

/// Two namespaces, joined by a veth pair: 192.0.2.1 and .2.
struct Sides {
    a: Namespace,
    b: Namespace,
}

impl Sides {
    fn new() -> Result<Self> {
        let sides = Self {
            a: Namespace::new().context("this part of the benchmark needs root")?,
            b: Namespace::new()?,
        };
        let name = format!("/run/netns/strait-bench-{}", std::process::id());
        sides.b.name(&name)?;
        let short = name.trim_start_matches("/run/netns/");
        let made = run(
            &sides.a,
            &format!("ip link add eth0 type veth peer name eth0 netns {short}"),
        );
        Namespace::unname(&name)?;
        made?;
        for (ns, address) in [(&sides.a, "192.0.2.1/24"), (&sides.b, "192.0.2.2/24")] {
            run(ns, &format!("ip addr add {address} dev eth0"))?;
            run(ns, "ip link set eth0 up")?;
        }
        Ok(sides)
    }
}

/// What is there as long as something is measured.
struct Tunnel {
    address: Ipv4Addr,
    _ends: Vec<Ended>,
    _relays: Vec<echo::Relay>,
}

/// A child that ends with this.
pub(super) struct Ended(pub(super) Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // Asked to end, programs take their sockets away.
        let pid = i32::try_from(self.0.id()).map(Pid::from_raw);
        let _ = pid.map(|pid| kill(pid, Signal::SIGTERM));
        let deadline = Instant::now() + Duration::from_secs(1);
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < deadline {
            sleep(Duration::from_millis(10));
        }
        super::end(&mut self.0);
    }
}

impl Tunnel {
    fn up(sides: &Sides, way: &Way) -> Result<Self> {
        // A relay stands beside a tunnel.
        let (network, side) = match &way.kind {
            Kind::Bare | Kind::Program(_, _) => ("10.9.0", ["a", "b"]),
            Kind::Relay => ("10.9.1", ["ra", "rb"]),
        };
        let address = if matches!(way.kind, Kind::Bare) {
            Ipv4Addr::new(192, 0, 2, 2)
        } else {
            format!("{network}.2").parse()?
        };
        let mut tunnel = Self {
            address,
            _ends: Vec::new(),
            _relays: Vec::new(),
        };
        let [first, second] = side.map(device);
        match &way.kind {
            Kind::Bare => return Ok(tunnel),
            Kind::Relay => {
                for (ns, name, peer) in [(&sides.a, &first, 2), (&sides.b, &second, 1)] {
                    let to = (Ipv4Addr::new(192, 0, 2, peer), PORT + 1).into();
                    tunnel._relays.push(echo::Relay::start(ns, name, to)?);
                }
            }
            Kind::Program(program, arguments) => {
                let (one, two) = (key()?, key()?);
                for (ns, name) in [(&sides.a, &first), (&sides.b, &second)] {
                    tunnel._ends.push(start(ns, program, arguments, name)?);
                }
                for (ns, name, own, other, peer) in [
                    (&sides.a, &first, &one, &two, 2),
                    (&sides.b, &second, &two, &one, 1),
                ] {
                    let config = format!(
                        "[Interface]\nPrivateKey = {}\nListenPort = {PORT}\n[Peer]\nPublicKey = {}\nEndpoint = 192.0.2.{peer}:{PORT}\nAllowedIPs = {network}.{peer}/32\n",
                        own.0, other.1
                    );
                    set(ns, name, &config)?;
                }
            }
        }
        for (ns, name, number) in [(&sides.a, &first, 1), (&sides.b, &second, 2)] {
            run(ns, &format!("ip addr add {network}.{number}/24 dev {name}"))?;
            run(ns, &format!("ip link set {name} mtu 1420 up"))?;
        }
        run(&sides.a, &format!("ping -q -c 1 -w 5 {address}"))?;
        Ok(tunnel)
    }
}

/// The name of a device, which must differ between namespaces: all programs have their sockets in one directory.
pub(super) fn device(side: &str) -> String {
    format!("wg{side}{}", std::process::id())
}

/// Starts a program for one device, and waits until `wg` can speak with it.
pub(super) fn start(
    ns: &Namespace,
    program: &Path,
    arguments: &[String],
    name: &str,
) -> Result<Ended> {
    let child = ns
        .command(program)
        .args(arguments)
        .arg(name)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| program.display().to_string())?;
    let child = Ended(child);
    let start = Instant::now();
    // Not by `wg`: it removes a socket at which nobody listens yet.
    let socket = format!("/var/run/wireguard/{name}.sock");
    while UnixStream::connect(&socket).is_err() {
        ensure!(
            start.elapsed() < PATIENCE,
            "{} makes no device {name}",
            program.display()
        );
        sleep(Duration::from_millis(5));
    }
    Ok(child)
}

/// Sets a device by `wg setconf`.
pub(super) fn set(ns: &Namespace, name: &str, config: &str) -> Result<()> {
    let path = std::env::temp_dir().join(format!("{name}.conf"));
    // The keys in it are of no worth: they are made for this run.
    std::fs::write(&path, config)?;
    let set = run(ns, &format!("wg setconf {name} {}", path.display()));
    std::fs::remove_file(&path)?;
    set.map(|_| ())
}

/// A private key and its public one, as text.
pub(super) fn key() -> Result<(String, String)> {
    use base64::Engine as _;
    let key = strait_wg::PrivateKey::generate()?;
    let text = base64::engine::general_purpose::STANDARD.encode(key.as_bytes());
    Ok((text, key.public()?.to_string()))
}

fn iperf(sides: &Sides, to: Ipv4Addr, streams: u32, seconds: u32) -> Result<f64> {
    let server = sides
        .b
        .command("iperf3")
        .args(["-s", "-1"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let _server = Ended(server.context("this needs the package iperf3")?);
    let start = Instant::now();
    while !run(&sides.b, "ss -Htln sport = :5201")?.contains("5201") {
        ensure!(start.elapsed() < PATIENCE, "iperf3 does not listen");
        sleep(Duration::from_millis(10));
    }
    let said = run(
        &sides.a,
        &format!("iperf3 -J -C reno -O 1 -t {seconds} -P {streams} -c {to}"),
    )?;
    let said: Value = serde_json::from_str(&said).context("iperf3 printed no JSON")?;
    let rate = said
        .pointer("/end/sum_received/bits_per_second")
        .and_then(Value::as_f64);
    Ok(rate.context("iperf3 did not say what was received")? / 1e9)
}

/// Runs a tool in a namespace.
pub(super) fn run(ns: &Namespace, command: &str) -> Result<String> {
    let mut words = command.split_whitespace();
    let output = ns
        .command(words.next().unwrap_or_default())
        .args(words)
        .output();
    let output = output.with_context(|| command.to_owned())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command}: {errors}{text}");
    Ok(text)
}
