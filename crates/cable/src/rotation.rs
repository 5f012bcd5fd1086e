//! A change of the private key, as files beside it: what they are says how far it has come.
//!
//! `wireguard.key.next` is the key that is to be next, and the wish for it; `wireguard.key.former` has the public key of the one before,
//! of which the private one is gone by then.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use strait_host::Key;

use crate::file;
use crate::keys::{FILE, KeyError, PrivateKey};

pub(crate) const NEXT: &str = "wireguard.key.next";
pub(crate) const FORMER: &str = "wireguard.key.former";
/// Octets of a file with a public key: base64 and a line's end.
const LONGEST: u64 = 45;

/// How far a change of the key has come.
#[derive(Debug, Clone)]
pub struct Rotation {
    /// The key that is to be next.
    pub next: Option<PrivateKey>,
    /// The public key of the one before.
    pub former: Option<Key>,
}

/// Why a key can't be changed.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// A file could not be used, or there are no random octets.
    #[error("{0}")]
    Key(#[from] KeyError),
    /// There is no key.
    #[error("{}: there is no private key: no gateway with a WireGuard cable has run here", .0.display())]
    NoKey(PathBuf),
    /// One change at a time.
    #[error("{}: the key is being changed; that ends within four minutes once the gateway runs and reaches the broker", .0.display())]
    UnderWay(PathBuf),
}

impl Rotation {
    /// Reads it from the directory of a private key.
    ///
    /// # Errors
    /// A file that can't be read, that others may read, or that holds something else.
    pub fn read(directory: &Path) -> Result<Self, KeyError> {
        let current = PrivateKey::find(directory.join(FILE))?;
        let current = current.map(|key| key.public());
        let next = PrivateKey::find(directory.join(NEXT))?;
        Ok(Self {
            // Whoever died between the two parts of a switch has written the former one already.
            former: former(directory)?.filter(|key| Some(*key) != current),
            next: next.filter(|next| Some(next.public()) != current),
        })
    }

    /// Asks for another key: it is made, and kept beside the one that counts. Returns its public key.
    ///
    /// # Errors
    /// If there is no key that could be changed, or that is under way already.
    pub fn ask(directory: &Path) -> Result<Key, RotationError> {
        if PrivateKey::find(directory.join(FILE))?.is_none() {
            return Err(RotationError::NoKey(directory.join(FILE)));
        }
        let there = Self::read(directory)?;
        if there.next.is_some() || there.former.is_some() {
            return Err(RotationError::UnderWay(directory.to_owned()));
        }
        let next = PrivateKey::random()?;
        next.write(directory, NEXT)?;
        Ok(next.public())
    }

    /// Makes the next key the one that counts, by one renaming: a crash leaves either. The one before is gone then.
    ///
    /// # Errors
    /// A file that can't be written.
    pub fn switch(directory: &Path, from: Key) -> Result<(), KeyError> {
        let at = |name: &str| {
            let path = directory.join(name);
            move |error| KeyError::File { path, error }
        };
        file::replace(directory, FORMER, format!("{from}\n").as_bytes()).map_err(at(FORMER))?;
        fs::rename(directory.join(NEXT), directory.join(FILE)).map_err(at(NEXT))?;
        // It is done: after a power cut the old key may be the one that counts again, and is changed anew.
        if let Err(error) = File::open(directory).and_then(|directory| directory.sync_all()) {
            tracing::warn!(%error, "that the key is another may be lost with the power");
        }
        Ok(())
    }

    /// Forgets which key there was before.
    ///
    /// # Errors
    /// A file that can't be removed.
    pub fn forget(directory: &Path) -> Result<(), KeyError> {
        let path = directory.join(FORMER);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(KeyError::File { path, error })
            }
            _ => Ok(()),
        }
    }
}

fn former(directory: &Path) -> Result<Option<Key>, KeyError> {
    let path = directory.join(FORMER);
    let mut text = String::new();
    let read = File::open(&path).and_then(|file| file.take(LONGEST).read_to_string(&mut text));
    match read {
        // What is no key is of no use to anybody; the next change writes another.
        Ok(_) => Ok(text.trim_end().parse().ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(KeyError::File { path, error }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_change_goes_from_file_to_file_and_a_restart_finds_it_at_each() {
        let base = tempfile::tempdir().unwrap();
        let directory = base.path();
        let refused = Rotation::ask(directory).unwrap_err();
        assert!(matches!(refused, RotationError::NoKey(_)), "{refused}");
        let first = PrivateKey::kept(directory).unwrap().public();
        let next = Rotation::ask(directory).unwrap();
        let mode = fs::metadata(directory.join(NEXT)).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
        let refused = Rotation::ask(directory).unwrap_err();
        assert!(matches!(refused, RotationError::UnderWay(_)), "{refused}");
        let read = || Rotation::read(directory).unwrap();
        assert_eq!(read().next.map(|key| key.public()), Some(next));
        assert_eq!(PrivateKey::kept(directory).unwrap().public(), first);

        // A crash between its two parts.
        fs::write(directory.join(FORMER), format!("{first}\n")).unwrap();
        assert_eq!(read().former, None);
        assert_eq!(read().next.map(|key| key.public()), Some(next));

        Rotation::switch(directory, first).unwrap();
        assert_eq!(PrivateKey::kept(directory).unwrap().public(), next);
        assert!(read().next.is_none());
        assert_eq!(read().former, Some(first));
        let refused = Rotation::ask(directory).unwrap_err();
        assert!(matches!(refused, RotationError::UnderWay(_)), "{refused}");
        Rotation::forget(directory).unwrap();
        assert_eq!(read().former, None);
        Rotation::forget(directory).unwrap();
        Rotation::ask(directory).unwrap();
    }

    #[test]
    fn a_next_key_that_others_may_read_is_not_taken() {
        let base = tempfile::tempdir().unwrap();
        PrivateKey::kept(base.path()).unwrap();
        Rotation::ask(base.path()).unwrap();
        let path = base.path().join(NEXT);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = Rotation::read(base.path()).unwrap_err().to_string();
        assert!(error.contains("644") && error.contains(NEXT), "{error}");
    }
}
