//! Keys: the private one, which outlives the process, and the one that the clusterset shares.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use strait_host::Key;
use x25519_dalek::{PublicKey, StaticSecret};

use crate::file;

/// The file with the private key, 32 octets, below the directory for state.
pub(crate) const FILE: &str = "wireguard.key";

/// The secrets of a device. They show nowhere.
#[derive(Debug, Clone)]
pub struct Keys {
    /// Its private key.
    pub private: PrivateKey,
    /// The key that it shares with all peers.
    pub preshared: Preshared,
}

/// A private key.
#[derive(Clone)]
pub struct PrivateKey(StaticSecret);

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "private key of {}", self.public())
    }
}

/// Why there is no private key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file or directory could not be used.
    #[error("{}: {error}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The file holds something else.
    #[error(
        "{}: {found} octets, expected the 32 of a private key; remove the file for a new one, of which peers learn",
        path.display()
    )]
    NoKey {
        /// Which file.
        path: PathBuf,
        /// How long it is, in octets.
        found: u64,
    },
    /// Others may read it.
    #[error("{}: others than its owner may read it (mode {mode:03o}), expected 600", path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The system gave no random octets.
    #[error("the system gives no random octets")]
    Random,
}

impl PrivateKey {
    /// The key that is kept in a directory; a new one where there is none, so that the next process has it too. The directory is
    /// made where it is missing, the file belongs to its owner only.
    ///
    /// # Errors
    /// A file that can't be read or written, that others may read, or that holds something else.
    pub fn kept(directory: &Path) -> Result<Self, KeyError> {
        if let Some(key) = Self::find(directory.join(FILE))? {
            return Ok(key);
        }
        let key = Self::random()?;
        key.keep(directory)?;
        Ok(key)
    }

    /// The key in a file, if there is one.
    pub(crate) fn find(path: PathBuf) -> Result<Option<Self>, KeyError> {
        match File::open(&path) {
            Ok(file) => Self::read(file, path).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(KeyError::File { path, error }),
        }
    }

    /// A new key.
    ///
    /// # Errors
    /// If the system gives no random octets.
    pub fn random() -> Result<Self, KeyError> {
        let mut octets = [0; 32];
        let filled = SystemRandom::new().fill(&mut octets);
        filled.map_err(|_| KeyError::Random)?;
        Ok(Self(StaticSecret::from(octets)))
    }

    fn read(file: File, path: PathBuf) -> Result<Self, KeyError> {
        let failed = |error| KeyError::File {
            path: path.clone(),
            error,
        };
        let about = file.metadata().map_err(failed)?;
        let mode = about.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Open { path, mode });
        }
        let mut octets = Vec::new();
        file.take(33).read_to_end(&mut octets).map_err(failed)?;
        let key = <[u8; 32]>::try_from(octets).map_err(|_| KeyError::NoKey {
            path,
            found: about.len(),
        })?;
        Ok(Self(StaticSecret::from(key)))
    }

    /// Keeps it in a directory, in place of the one that is there: whole or not at all.
    ///
    /// # Errors
    /// A file or directory that can't be made or written.
    pub fn keep(&self, directory: &Path) -> Result<(), KeyError> {
        self.write(directory, FILE)
    }

    pub(crate) fn write(&self, directory: &Path, name: &str) -> Result<(), KeyError> {
        file::replace(directory, name, self.0.as_bytes()).map_err(|error| KeyError::File {
            path: directory.join(name),
            error,
        })
    }

    /// Its public key.
    #[must_use]
    pub fn public(&self) -> Key {
        Key(PublicKey::from(&self.0).to_bytes())
    }

    /// The key itself, for the one place that hands it to a device.
    #[must_use]
    pub fn expose(&self) -> [u8; 32] {
        self.0.to_bytes()
    }
}

/// The key that all gateways of a clusterset share.
#[derive(Clone, PartialEq, Eq)]
pub struct Preshared([u8; 32]);

impl fmt::Debug for Preshared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Preshared {
    /// The key that follows from the clusterset's passphrase: its SHA-256 (upstream `cable/wireguard/driver.go`).
    #[must_use]
    pub fn of(passphrase: &str) -> Self {
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, passphrase.as_bytes()).as_ref());
        Self(key)
    }

    /// The key itself, for the one place that hands it to a device.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_next_process_has_the_same_key_and_nobody_else_reads_it() {
        let base = tempfile::tempdir().unwrap();
        let directory = base.path().join("state");
        let first = PrivateKey::kept(&directory).unwrap();
        assert_eq!(mode(&directory), 0o700);
        assert_eq!(mode(&directory.join(FILE)), 0o600);
        let second = PrivateKey::kept(&directory).unwrap();
        assert_eq!(first.public(), second.public());
        let other = PrivateKey::random().unwrap();
        other.keep(&directory).unwrap();
        let third = PrivateKey::kept(&directory).unwrap();
        assert_eq!(third.public(), other.public());
        assert_ne!(third.public(), first.public());
    }

    #[test]
    fn a_file_that_is_no_key_or_is_open_to_others_is_named() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join(FILE);
        for content in [&b""[..], &[7; 31], &[7; 33]] {
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let error = PrivateKey::kept(base.path()).unwrap_err().to_string();
            assert!(
                error.contains("wireguard.key") && error.contains("32"),
                "{error}"
            );
        }
        fs::write(&path, [7; 32]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = PrivateKey::kept(base.path()).unwrap_err().to_string();
        assert!(error.contains("640"), "{error}");
    }

    #[test]
    fn no_secret_shows() {
        let private = PrivateKey(StaticSecret::from([7; 32]));
        let shown = format!("{:?} {:?}", private, Preshared::of("a passphrase"));
        assert_eq!(shown, format!("private key of {} ***", private.public()));
    }

    #[test]
    fn the_shared_key_is_the_digest_of_the_passphrase() {
        // printf %s abc | sha256sum
        assert_eq!(Preshared::of("abc").expose()[..4], [0xba, 0x78, 0x16, 0xbf]);
    }
}
