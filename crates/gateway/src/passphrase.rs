//! The passphrase that the clusterset shares. Where it is in a mounted Secret, another one counts without a restart.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use strait_cable::Preshared;
use strait_daemon::kube::mounted;

/// Where the operator mounts Secrets (upstream `pkg/psk`).
const SECRETS: &str = "/var/run/secrets/submariner.io";
/// The key of a Secret that is a passphrase.
const FILE: &str = "psk";
/// Octets that it has at most: as much as a Secret may hold.
const LONGEST: u64 = 1 << 20;

/// The passphrase as WireGuard has it, and the file that it is in, if it is in one.
#[derive(Debug, Clone)]
pub struct Passphrase {
    file: Option<PathBuf>,
    used: Preshared,
    told: Option<String>,
}

impl Passphrase {
    /// One that stays for as long as the process runs.
    #[must_use]
    pub fn of(text: &str) -> Self {
        Self {
            file: None,
            used: Preshared::of(text),
            told: None,
        }
    }

    /// The one in a directory, in which another one may appear.
    ///
    /// # Errors
    /// Why there is none, with the file's name.
    pub fn within(directory: &Path) -> Result<Self, String> {
        let file = directory.join(FILE);
        Ok(Self {
            used: read(&file)?,
            file: Some(file),
            told: None,
        })
    }

    /// The key that follows from it.
    #[must_use]
    pub fn preshared(&self) -> &Preshared {
        &self.used
    }

    /// Looks for another one: its key, if there is one. A file that is missing or empty leaves what was read before.
    pub(crate) fn look(&mut self) -> Option<Preshared> {
        let (found, why) = match read(self.file.as_deref()?) {
            Ok(found) => (Some(found), None),
            Err(why) => (None, Some(why)),
        };
        if let Some(why) = why.as_ref().filter(|_| self.told != why) {
            tracing::warn!(%why, "the clusterset's passphrase can't be used; what was read before is");
        }
        self.told = why;
        let found = found.filter(|found| *found != self.used)?;
        tracing::info!("the clusterset's passphrase is another; it counts from the next handshake");
        self.used = found.clone();
        Some(found)
    }
}

/// The directory of a mounted Secret: by its name, or by its path.
///
/// # Errors
/// If it is neither.
pub(crate) fn directory(value: &str) -> Result<PathBuf, String> {
    mounted(Path::new(SECRETS), value)
}

/// Upstream takes the octets of a Secret as base64 text, which is what a variable holds.
fn read(path: &Path) -> Result<Preshared, String> {
    let wrong = |why: String| format!("{} {why}", path.display());
    let read = || {
        let mut octets = Vec::new();
        File::open(path)?
            .take(LONGEST + 1)
            .read_to_end(&mut octets)?;
        Ok(octets)
    };
    let octets: io::Result<Vec<u8>> = read();
    let octets = octets.map_err(|error| wrong(format!("can't be read: {error}")))?;
    match octets.len() as u64 {
        0 => Err(wrong("is empty".to_owned())),
        length if length > LONGEST => Err(wrong("is longer than a Secret may be".to_owned())),
        _ => Ok(Preshared::of(&STANDARD.encode(octets))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn another_passphrase_is_found_as_kubelet_changes_it_and_nothing_that_is_none() {
        let base = tempfile::tempdir().unwrap();
        let mount = base.path();
        // kubelet exchanges a symbolic link to a directory.
        let write = |version: &str, content: &[u8]| {
            let data = mount.join(version);
            fs::create_dir(&data).unwrap();
            fs::write(data.join(FILE), content).unwrap();
            symlink(&data, mount.join("..new")).unwrap();
            fs::rename(mount.join("..new"), mount.join("..data")).unwrap();
        };
        let why = Passphrase::within(mount).unwrap_err();
        assert!(why.contains("/psk can't be read"), "{why}");
        write("1", b"one");
        symlink("..data/psk", mount.join(FILE)).unwrap();
        let mut passphrase = Passphrase::within(mount).unwrap();
        // printf %s one | base64
        assert_eq!(*passphrase.preshared(), Preshared::of("b25l"));
        assert_eq!(passphrase.look(), None);
        write("2", b"two");
        assert_eq!(passphrase.look(), Some(Preshared::of("dHdv")));
        assert_eq!(passphrase.look(), None);
        let two = passphrase.preshared().clone();
        write("3", b"");
        assert_eq!(passphrase.look(), None);
        assert!(Passphrase::within(mount).unwrap_err().ends_with("is empty"));
        fs::remove_file(mount.join("..data")).unwrap();
        assert_eq!(passphrase.look(), None);
        assert_eq!(*passphrase.preshared(), two);
        write("4", &vec![7; 2 << 20]);
        assert_eq!(passphrase.look(), None);
        write("5", b"two");
        assert_eq!(passphrase.look(), None, "it is the one that is used");
        write("6", b"three");
        assert!(passphrase.look().is_some());
    }

    #[test]
    fn one_of_a_variable_stays() {
        let mut passphrase = Passphrase::of("b25l");
        assert_eq!(passphrase.look(), None);
        assert_eq!(*passphrase.preshared(), Preshared::of("b25l"));
    }

    #[test]
    fn a_secret_is_known_by_its_name_or_its_path() {
        let named = directory("submariner-ipsec-psk").unwrap();
        assert_eq!(named, Path::new(SECRETS).join("submariner-ipsec-psk"));
        assert_eq!(directory("/a/b").unwrap(), Path::new("/a/b"));
        for bad in ["a/b", "../b", ".b"] {
            assert!(directory(bad).is_err(), "{bad}");
        }
    }
}
