use std::path::Path;

use crate::Error;
use crate::handle::{Handle, Kind};

/// A namespace for the host name (UTS), kept alive by a descriptor: who enters it sees the name that it was made with.
#[derive(Debug, Clone)]
pub struct HostName {
    handle: Handle,
}

impl HostName {
    /// Makes one whose host name is `name` (at most 64 bytes, `__NEW_UTS_LEN` of linux/utsname.h).
    ///
    /// # Errors
    /// [`Error::Make`] without CAP_SYS_ADMIN, [`Error::SetUp`] when the name is too long.
    pub fn new(name: &str) -> Result<Self, Error> {
        let set = || nix::unistd::sethostname(name).map_err(Into::into);
        Ok(Self {
            handle: Handle::new(Kind::Uts, "host name", set)?,
        })
    }

    /// One that has a name in the file system.
    ///
    /// # Errors
    /// [`Error::Open`].
    pub fn from_path(path: impl AsRef<Path>) -> Result<Self, Error> {
        Ok(Self {
            handle: Handle::open(Kind::Uts, path.as_ref().to_owned())?,
        })
    }

    /// Moves the calling thread into it.
    ///
    /// # Errors
    /// [`Error::Enter`] without CAP_SYS_ADMIN.
    pub fn enter(&self) -> Result<(), Error> {
        self.handle.enter()
    }

    /// Gives it a name in the file system; missing directories are made.
    ///
    /// # Errors
    /// [`Error::Name`].
    pub fn name(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        self.handle.name(path.as_ref())
    }

    /// Takes a name away.
    ///
    /// # Errors
    /// [`Error::Name`] when there is no such name.
    pub fn unname(path: impl AsRef<Path>) -> Result<(), Error> {
        Handle::unname(Kind::Uts, path.as_ref())
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}
