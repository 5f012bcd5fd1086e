//! The socket at which `wg` knocks.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::Error;
use crate::device;
use crate::shared::{Event, Shared};
use crate::uapi::{Invalid, Request, show};

/// Where `wg` looks.
const DIRECTORY: &str = "/var/run/wireguard";
/// The longest request: a thousand peers with some prefixes each.
const LONGEST: u64 = 1 << 20;
/// How long one that knocks may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(2);

/// The open door. Dropping it closes it, once the device is stopping.
pub(crate) struct Door {
    path: PathBuf,
    thread: Option<JoinHandle<()>>,
}

impl Door {
    pub(crate) fn open(name: &str, shared: &Arc<Shared>) -> Result<Self, Error> {
        let path = Path::new(DIRECTORY).join(format!("{name}.sock"));
        let failed = |source: io::Error| Error::Control {
            path: path.display().to_string(),
            source,
        };
        if name.is_empty() || name.contains(['/', '\0']) {
            return Err(failed(io::ErrorKind::InvalidInput.into()));
        }
        fs::create_dir_all(DIRECTORY).map_err(failed)?;
        // One that nobody answers at is left from a process that was killed.
        if UnixStream::connect(&path).is_err() && path.exists() {
            fs::remove_file(&path).map_err(failed)?;
        }
        let listener = UnixListener::bind(&path).map_err(failed)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let own = shared.clone();
        let thread = thread::Builder::new().name("wg-door".to_owned());
        let thread = thread
            .spawn(move || listen(&listener, &own))
            .map_err(Error::Thread)?;
        Ok(Self {
            path,
            thread: Some(thread),
        })
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn listen(listener: &UnixListener, shared: &Arc<Shared>) {
    use std::os::fd::AsFd as _;
    while shared.wait(std::iter::once(listener.as_fd())) {
        let Ok((stream, _)) = listener.accept() else {
            continue;
        };
        if let Err(error) = answer(stream, shared) {
            tracing::debug!(%error, "control socket");
        }
    }
}

fn answer(stream: UnixStream, shared: &Shared) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    let mut reader = BufReader::new((&stream).take(LONGEST));
    while reader.read_line(&mut text)? > 1 {}
    let (shown, code) = match carry_out(&text, shared) {
        Ok(shown) => (shown, 0),
        Err(Invalid) => (String::new(), libc::EINVAL),
    };
    // wg wants it negative, as the kernel's are.
    (&stream).write_all(format!("{shown}errno={}\n\n", -code).as_bytes())
}

fn carry_out(text: &str, shared: &Shared) -> Result<String, Invalid> {
    let port = shared.sockets.port();
    let config = shared
        .config
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    match Request::parse(text)? {
        Request::Get => Ok(show(config.as_ref(), port, &device::status(shared))),
        Request::Set(change) => {
            // The sockets are somebody else's.
            let same = change.listen_port.is_none_or(|wanted| Some(wanted) == port);
            if !same || change.mark.is_some_and(|mark| mark != 0) {
                return Err(Invalid);
            }
            let (done, told) = mpsc::channel();
            let wanted = change.apply(config)?;
            shared.tell(Event::Configure(Box::new(wanted), done));
            told.recv()
                .ok()
                .and_then(Result::ok)
                .map_or(Err(Invalid), |()| Ok(String::new()))
        }
    }
}
