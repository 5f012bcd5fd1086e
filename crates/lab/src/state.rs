//! A lab's directory: its lock, control socket, logs and kubeconfigs.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::geteuid;

use crate::options::check_name;

/// Where the lab's directory is seen from inside its sandbox.
pub(crate) const INSIDE: &str = "/run/strait-lab";

/// Where the directory of all of the user's labs is seen from inside the sandbox.
pub(crate) const ALL_INSIDE: &str = "/run/strait-labs";

/// A lab's directory, as seen from outside its sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StateDir {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

impl StateDir {
    /// That of the user's lab `name`, which need not exist.
    pub(crate) fn new(name: &str) -> Result<Self> {
        check_name(name)?;
        Ok(Self {
            name: name.to_owned(),
            path: root().join(name),
        })
    }

    /// Those of all labs of the user, the remains of crashed ones included.
    pub(crate) fn all() -> Result<Vec<Self>> {
        let root = root();
        let entries = match fs::read_dir(&root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", root.display()));
            }
        };
        let mut all = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            if let Some(name) = name.to_str().filter(|name| check_name(name).is_ok()) {
                all.push(Self::new(name)?);
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// Takes the directory for a new lab: makes it, or clears the remains of a crashed one. The lab runs as long as somebody
    /// holds the returned file open.
    pub(crate) fn take(&self) -> Result<File> {
        make_root()?;
        loop {
            match DirBuilder::new().mode(0o700).create(&self.path) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(error)
                        .with_context(|| format!("cannot make {}", self.path.display()));
                }
                Ok(()) | Err(_) => (),
            }
            let Some(lock) = self.lock()? else { continue };
            match lock.try_lock() {
                Ok(()) => (),
                Err(TryLockError::WouldBlock) => {
                    bail!(
                        "lab '{0}' is already running: end it with 'strait lab down --name {0}', or choose another --name",
                        self.name
                    )
                }
                Err(TryLockError::Error(error)) => {
                    return Err(error).context("cannot lock the lab's directory");
                }
            }
            // `down` may have removed the directory between the two steps.
            if self.is_current(&lock) {
                self.clear()?;
                return Ok(lock);
            }
        }
    }

    /// Whether a lab runs in the directory. The remains of a crashed one are removed.
    pub(crate) fn is_running(&self) -> Result<bool> {
        if !self.path.exists() {
            return Ok(false);
        }
        let Some(lock) = self.lock()? else {
            return Ok(false);
        };
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => {
                Err(error).context("cannot lock the lab's directory")
            }
            Ok(()) => {
                if self.is_current(&lock) {
                    self.remove()?;
                }
                Ok(false)
            }
        }
    }

    /// Removes the directory with all that is in it.
    pub(crate) fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.path.display()))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// The process number, outside the sandbox, of the sandbox's first process.
    pub(crate) fn pid(&self) -> Result<u32> {
        let path = self.path.join("pid");
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        text.trim()
            .parse()
            .with_context(|| format!("{} holds no process number", path.display()))
    }

    fn lock(&self) -> Result<Option<File>> {
        let path = self.path.join("lock");
        match File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
        {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot open {}", path.display())),
        }
    }

    fn is_current(&self, lock: &File) -> bool {
        match (lock.metadata(), fs::metadata(self.path.join("lock"))) {
            (Ok(ours), Ok(there)) => ours.ino() == there.ino() && ours.dev() == there.dev(),
            (Ok(_) | Err(_), Ok(_) | Err(_)) => false,
        }
    }

    fn clear(&self) -> Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_name() == "lock" {
                continue;
            }
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// `$XDG_RUNTIME_DIR/strait-lab`, or `/tmp/strait-lab-UID`.
fn root() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) {
        Some(dir) if dir.is_absolute() && owned(&dir) => dir.join("strait-lab"),
        Some(_) | None => PathBuf::from(format!("/tmp/strait-lab-{}", geteuid())),
    }
}

fn owned(dir: &Path) -> bool {
    fs::symlink_metadata(dir).is_ok_and(|is| is.is_dir() && is.uid() == geteuid().as_raw())
}

/// Anybody may make a directory in `/tmp`: one that is not ours is not used.
fn make_root() -> Result<()> {
    let root = root();
    match DirBuilder::new().mode(0o700).create(&root) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("cannot make {}", root.display()));
        }
        Ok(()) | Err(_) => (),
    }
    ensure!(owned(&root), "{} belongs to somebody else", root.display());
    Ok(())
}
