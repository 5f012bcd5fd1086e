//! Commands of iproute2 and nftables, run in the lab's namespaces.

use std::ffi::OsStr;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;
use strait_host::Family;
use strait_netns::{HostName, Inside, Namespace};

/// Where `ip netns` keeps names; private to the lab.
const NAMES: &str = "/run/netns";
/// Where the host names' namespaces have their names.
const HOST_NAMES: &str = "/run/utsns";

pub(crate) fn path(name: &str) -> PathBuf {
    PathBuf::from(NAMES).join(name)
}

fn host_path(name: &str) -> PathBuf {
    PathBuf::from(HOST_NAMES).join(name)
}

/// Makes a namespace, with a host name of its own, under `name`.
pub(crate) fn make(name: &str) -> Result<Namespace> {
    let namespace = Namespace::new()?;
    namespace.name(path(name))?;
    HostName::new(name)?.name(host_path(name))?;
    no_detection(name)?;
    Ok(namespace)
}

/// IPv6 addresses that the kernel makes itself work at once, without a second of duplicate address detection.
pub(crate) fn no_detection(name: &str) -> Result<()> {
    sysctl(
        name,
        &[
            ("ipv6/conf/all/accept_dad", "0"),
            ("ipv6/conf/default/accept_dad", "0"),
        ],
    )
}

/// Takes the names away; the namespaces end with the last process in them.
pub(crate) fn unname(name: &str) -> Result<()> {
    Namespace::unname(path(name))?;
    HostName::unname(host_path(name))?;
    Ok(())
}

/// The namespace `name`.
pub(crate) fn find(name: &str) -> Result<Namespace> {
    Ok(Namespace::from_path(path(name))?)
}

/// The host name of `name`.
pub(crate) fn host_name(name: &str) -> Result<HostName> {
    Ok(HostName::from_path(host_path(name))?)
}

/// A command that will run in `name`.
pub(crate) fn command(name: &str, program: impl AsRef<OsStr>) -> Result<Command> {
    let mut command = find(name)?.command(program);
    command.with_host_name(&host_name(name)?);
    Ok(command)
}

/// Runs lines of `ip` in `name`, all in one process.
pub(crate) fn ip(name: &str, lines: &[String]) -> Result<()> {
    feed(name, "ip", &["-batch", "-"], &lines.join("\n"))
}

/// Takes all addresses of a family from a link, but those that the kernel made itself.
pub(crate) fn flush(name: &str, family: Family, device: &str) -> Result<()> {
    let arguments = [
        flag(family),
        "addr",
        "flush",
        "dev",
        device,
        "scope",
        "global",
    ];
    feed(name, "ip", &arguments, "")
}

/// Gives a link one address instead of those of its family, the old ones first, as Calico and flannel do; nothing else is done meanwhile.
pub(crate) fn readdress(name: &str, family: Family, device: &str, address: IpNet) -> Result<()> {
    let nodad = crate::cni::nodad(family);
    let lines =
        format!("addr flush dev {device} scope global\naddr add {address} dev {device}{nodad}\n");
    feed(name, "ip", &[flag(family), "-batch", "-"], &lines)
}

fn flag(family: Family) -> &'static str {
    match family {
        Family::V4 => "-4",
        Family::V6 => "-6",
    }
}

/// Runs lines of `bridge` in `name`, all in one process.
pub(crate) fn bridge(name: &str, lines: &[String]) -> Result<()> {
    feed(name, "bridge", &["-batch", "-"], &lines.join("\n"))
}

/// Loads an nftables script in `name`, as one transaction.
pub(crate) fn nft(name: &str, script: &str) -> Result<()> {
    feed(name, "nft", &["-f", "-"], script)
}

/// Sets sysctls in `name`, given as paths below `net`, such as `ipv4/ip_forward`.
pub(crate) fn sysctl(name: &str, settings: &[(&str, &str)]) -> Result<()> {
    find(name)?.run(|| {
        settings.iter().try_for_each(|(key, value)| {
            std::fs::write(format!("/proc/sys/net/{key}"), value)
                .with_context(|| format!("{name}: cannot set net/{key} to {value}"))
        })
    })?
}

fn feed(name: &str, program: &str, arguments: &[&str], input: &str) -> Result<()> {
    let mut command = find(name)?.command(program);
    command.args(arguments);
    let output = converse(command, input)
        .with_context(|| format!("cannot run '{program}' in {name} (expected the packages iproute2 and nftables to be installed)"))?;
    if !output.status.success() {
        bail!(
            "'{program}' in {name}: {}\nits input was:\n{input}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    ensure!(
        output.stderr.is_empty(),
        "'{program}' in {name}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// Runs a command to its end, with `input` as its standard input; one that succeeds must have read it.
pub(crate) fn converse(mut command: Command, input: &str) -> Result<Output> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("it does not start")?;
    let written = child
        .stdin
        .take()
        .context("no pipe")?
        .write_all(input.as_bytes());
    let output = child.wait_with_output()?;
    if output.status.success() {
        written.context("it did not read its input")?;
    }
    Ok(output)
}
