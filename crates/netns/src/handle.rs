//! What network and host name namespaces have in common: a descriptor that keeps the namespace alive.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::fstat;

use crate::Error;

#[derive(Debug, Clone)]
pub(crate) struct Handle {
    fd: Arc<OwnedFd>,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Net,
    Uts,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Net => "network",
            Self::Uts => "host name",
        }
    }

    fn file(self) -> &'static str {
        match self {
            Self::Net => "net",
            Self::Uts => "uts",
        }
    }

    pub(crate) fn flag(self) -> CloneFlags {
        match self {
            Self::Net => CloneFlags::CLONE_NEWNET,
            Self::Uts => CloneFlags::CLONE_NEWUTS,
        }
    }
}

impl Handle {
    /// Makes a namespace on a thread of its own, and runs `set_up` in it.
    pub(crate) fn new(
        kind: Kind,
        what: &'static str,
        set_up: impl FnOnce() -> io::Result<()> + Send,
    ) -> Result<Self, Error> {
        on_a_thread(|| {
            unshare(kind.flag()).map_err(|errno| Error::Make {
                kind: kind.name(),
                source: errno.into(),
            })?;
            let made = Self::current(kind)?;
            set_up().map_err(|source| Error::SetUp { what, source })?;
            Ok(made)
        })?
    }

    pub(crate) fn current(kind: Kind) -> Result<Self, Error> {
        Self::open(kind, Path::new("/proc/thread-self/ns").join(kind.file()))
    }

    pub(crate) fn of_process(kind: Kind, pid: u32) -> Result<Self, Error> {
        Self::open(
            kind,
            PathBuf::from(format!("/proc/{pid}/ns/{}", kind.file())),
        )
    }

    pub(crate) fn open(kind: Kind, path: PathBuf) -> Result<Self, Error> {
        match File::open(&path) {
            Ok(file) => Ok(Self {
                fd: Arc::new(file.into()),
                kind,
            }),
            Err(source) => Err(Error::Open {
                kind: kind.name(),
                path,
                source,
            }),
        }
    }

    pub(crate) fn enter(&self) -> Result<(), Error> {
        setns(self.fd(), self.kind.flag()).map_err(|errno| Error::Enter {
            kind: self.kind.name(),
            source: errno.into(),
        })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn inode(&self) -> Option<u64> {
        fstat(self.fd()).ok().map(|stat| stat.st_ino)
    }

    /// Binds the namespace to a file, as `ip netns` does.
    pub(crate) fn name(&self, path: &Path) -> Result<(), Error> {
        let named = || -> io::Result<()> {
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            File::create_new(path)?;
            let fd = std::os::fd::AsRawFd::as_raw_fd(self.fd.as_ref());
            let source = PathBuf::from(format!("/proc/thread-self/fd/{fd}"));
            mount(
                Some(&source),
                path,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .map_err(|errno| {
                // Without its mount the file is no namespace, and would stand in the way of the next attempt.
                let _ = std::fs::remove_file(path);
                io::Error::from(errno)
            })
        };
        named().map_err(|source| Error::Name {
            kind: self.kind.name(),
            path: path.to_owned(),
            source,
        })
    }

    pub(crate) fn unname(kind: Kind, path: &Path) -> Result<(), Error> {
        umount2(path, MntFlags::MNT_DETACH)
            .map_err(io::Error::from)
            .and_then(|()| std::fs::remove_file(path))
            .map_err(|source| Error::Name {
                kind: kind.name(),
                path: path.to_owned(),
                source,
            })
    }
}

/// Runs `work` on a thread that ends with it. A panic in it goes on in the caller.
pub(crate) fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, Error> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, work)
            .map_err(Error::Thread)?;
        match thread.join() {
            Ok(value) => Ok(value),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
