use std::ffi::OsStr;
use std::future::Future;
use std::path::Path;
use std::process::Command;
use std::thread::JoinHandle;

use crate::Error;
use crate::command::Inside;
use crate::handle::{Handle, Kind, on_a_thread};
use crate::loopback;

/// A network namespace, kept alive by a descriptor. Clones stand for the same namespace.
///
/// An anonymous one vanishes, with all its devices, once the last clone is dropped and the last process, thread, socket
/// and name in it is gone.
#[derive(Debug, Clone)]
pub struct Namespace {
    handle: Handle,
}

impl Namespace {
    /// Makes an empty namespace with its loopback interface up. The calling thread stays where it is.
    ///
    /// # Errors
    /// [`Error::Make`] without CAP_SYS_ADMIN.
    pub fn new() -> Result<Self, Error> {
        Ok(Self {
            handle: Handle::new(Kind::Net, "loopback interface", loopback::up)?,
        })
    }

    /// The calling thread's own.
    ///
    /// # Errors
    /// [`Error::Open`] without `/proc`.
    pub fn current() -> Result<Self, Error> {
        Ok(Self {
            handle: Handle::current(Kind::Net)?,
        })
    }

    /// That of a process, by its number in the pid namespace that `/proc` shows.
    ///
    /// # Errors
    /// [`Error::Open`] when there is no such process, or it is somebody else's.
    pub fn from_pid(pid: u32) -> Result<Self, Error> {
        Ok(Self {
            handle: Handle::of_process(Kind::Net, pid)?,
        })
    }

    /// One that has a name, such as `/run/netns/east-1`.
    ///
    /// # Errors
    /// [`Error::Open`] when there is no such file; that it is no namespace shows when it is entered.
    pub fn from_path(path: impl AsRef<Path>) -> Result<Self, Error> {
        Ok(Self {
            handle: Handle::open(Kind::Net, path.as_ref().to_owned())?,
        })
    }

    /// Moves the calling thread into it, for good: use it only on a thread that ends with its work.
    ///
    /// # Errors
    /// [`Error::Enter`] without CAP_SYS_ADMIN.
    pub fn enter(&self) -> Result<(), Error> {
        self.handle.enter()
    }

    /// Runs `work` inside, on a thread of its own, and waits for its result. A panic in it goes on in the caller.
    ///
    /// # Errors
    /// [`Error::Enter`], [`Error::Thread`]; never because of what `work` returned.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        on_a_thread(|| {
            self.enter()?;
            Ok(work())
        })?
    }

    /// Runs the future that `work` makes inside, on a current-thread tokio runtime on a thread of its own, and waits for
    /// its result. The future need not be `Send`; tasks that it leaves behind end with it.
    ///
    /// It blocks the calling thread: from async code use [`Namespace::spawn_async`].
    ///
    /// # Errors
    /// [`Error::Enter`], [`Error::Thread`]; never because of what the future returned.
    pub fn run_async<T, F>(&self, work: impl FnOnce() -> F + Send) -> Result<T, Error>
    where
        T: Send,
        F: Future<Output = T>,
    {
        self.run(|| block_on(work))?
    }

    /// Starts `work` inside, on a thread of its own, and does not wait for it.
    ///
    /// # Errors
    /// [`Error::Thread`]. That the namespace could not be entered is what the thread returns.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<Result<T, Error>>, Error> {
        let namespace = self.clone();
        std::thread::Builder::new()
            .name("netns".to_owned())
            .spawn(move || {
                namespace.enter()?;
                Ok(work())
            })
            .map_err(Error::Thread)
    }

    /// Runs the future that `work` makes inside, as [`Namespace::run_async`] does, and gives the result back to async
    /// code without blocking it.
    ///
    /// Dropping the returned future does not end the work.
    ///
    /// # Errors
    /// [`Error::Enter`], [`Error::Thread`] (also when the work panicked).
    pub async fn spawn_async<T, F>(
        &self,
        work: impl FnOnce() -> F + Send + 'static,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Future<Output = T>,
    {
        let (send, receive) = tokio::sync::oneshot::channel();
        let namespace = self.clone();
        let start = move || {
            let result = namespace.enter().and_then(|()| block_on(work));
            // Nobody waits any more: the result is of no use.
            let _ = send.send(result);
        };
        std::thread::Builder::new()
            .name("netns".to_owned())
            .spawn(start)
            .map_err(Error::Thread)?;
        match receive.await {
            Ok(result) => result,
            Err(_) => Err(Error::Thread(std::io::Error::other(
                "the work in the namespace panicked",
            ))),
        }
    }

    /// A command that will run inside.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.inside(self);
        command
    }

    /// Gives it a name in the file system, as `ip netns` does under `/run/netns`; missing directories are made.
    ///
    /// # Errors
    /// [`Error::Name`] when the file exists, or mounting is not allowed.
    pub fn name(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        self.handle.name(path.as_ref())
    }

    /// Takes a name away. The namespace lives on while anybody uses it.
    ///
    /// # Errors
    /// [`Error::Name`] when there is no such name.
    pub fn unname(path: impl AsRef<Path>) -> Result<(), Error> {
        Handle::unname(Kind::Net, path.as_ref())
    }

    /// The number that tells namespaces apart, as `readlink /proc/self/ns/net` shows it.
    #[must_use]
    pub fn inode(&self) -> Option<u64> {
        self.handle.inode()
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}

fn block_on<T, F: Future<Output = T>>(work: impl FnOnce() -> F) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Thread)?;
    Ok(runtime.block_on(async { work().await }))
}
