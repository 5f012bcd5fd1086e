//! A thread for what must not hold the main loop up.

use std::future::pending;
use std::io;

use tokio::runtime::{Builder, Handle};

/// Starts a thread of this thread's network namespace, and a runtime on it that lives as long as the process. What is
/// spawned there takes turns with the rest of what is, and not with the caller: writing large objects, reading large tables
/// of the kernel.
///
/// # Errors
/// If there can be no further thread, or no descriptors are left.
pub fn aside() -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new()
        .name("aside".to_owned())
        .spawn(move || runtime.block_on(pending::<()>()))?;
    Ok(handle)
}
