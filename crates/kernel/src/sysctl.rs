//! Sysctls, through `/proc/sys`.
//!
//! Which network namespace's `/proc/sys/net` is seen depends on the calling thread: nothing here moves to another.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::PathBuf;

use crate::error::{Error, errno_of};

const ROOT: &str = "/proc/sys";
const PER_LINK_V4: [&str; 3] = ["rp_filter", "forwarding", "send_redirects"];
const PER_LINK_V6: [&str; 2] = ["forwarding", "disable_ipv6"];

/// The sysctls that decide about forwarding, of the host and of each link; absent ones are left out.
pub(crate) fn list<'a>(
    links: impl Iterator<Item = &'a String> + Clone,
) -> BTreeMap<String, String> {
    let mut paths = vec!["net/ipv4/ip_forward".to_owned()];
    let general = ["all", "default"];
    for name in general.into_iter().chain(links.map(String::as_str)) {
        let v4 = PER_LINK_V4.map(|key| format!("net/ipv4/conf/{name}/{key}"));
        let v6 = PER_LINK_V6.map(|key| format!("net/ipv6/conf/{name}/{key}"));
        paths.extend(v4.into_iter().chain(v6));
    }
    let value = |path: String| {
        let value = read(&path).ok()?;
        Some((path, value))
    };
    paths.into_iter().filter_map(value).collect()
}

fn read(path: &str) -> Result<String, Error> {
    let file = checked(path)?;
    let text = std::fs::read_to_string(file).map_err(|e| failed(path, &e))?;
    Ok(text.trim().to_owned())
}

/// Writes a value, unless it is there already: some sysctls act on every write.
pub(crate) fn set(path: &str, value: &str) -> Result<(), Error> {
    if read(path)? == value {
        return Ok(());
    }
    std::fs::write(checked(path)?, value).map_err(|e| failed(path, &e))
}

fn checked(path: &str) -> Result<PathBuf, Error> {
    let mut file = PathBuf::from(ROOT);
    for name in path.split('/') {
        if matches!(name, "" | "." | "..") || name.contains('\0') {
            return Err(Error::BadSysctl(path.to_owned()));
        }
        file.push(name);
    }
    Ok(file)
}

fn failed(path: &str, error: &std::io::Error) -> Error {
    if error.kind() == ErrorKind::NotFound {
        return Error::NoSysctl(path.to_owned());
    }
    Error::Sysctl {
        path: path.to_owned(),
        errno: errno_of(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_never_leaves_proc_sys() {
        for bad in [
            "",
            "/etc/passwd",
            "net/../../etc",
            "net//ipv4",
            "net/./ipv4",
            "..",
            "net/",
            "a\0b",
        ] {
            let refused = matches!(set(bad, "1"), Err(Error::BadSysctl(_)));
            assert!(refused, "{bad}");
        }
        assert_eq!(
            checked("net/ipv4/conf/eth0.100/rp_filter").unwrap(),
            PathBuf::from("/proc/sys/net/ipv4/conf/eth0.100/rp_filter")
        );
    }

    #[test]
    fn one_that_does_not_exist_is_an_error_of_its_own() {
        let error = set("net/ipv4/conf/no-such-link/rp_filter", "2").unwrap_err();
        assert_eq!(error.kind(), "no_sysctl");
    }
}
