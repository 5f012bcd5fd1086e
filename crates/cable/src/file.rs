//! Files that outlive the process, and hold a secret or what must not be halved.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The name of what is not written to its end.
fn unfinished(name: &str) -> String {
    format!("{name}.new")
}

/// Removes files of these names, whole or not, then the directory if nothing is left in it and nobody has mounted it. What was removed, and what
/// could not be.
pub(crate) fn remove(
    directory: &Path,
    names: &[&str],
) -> (Vec<PathBuf>, Vec<(PathBuf, io::Error)>) {
    let (mut removed, mut left) = (Vec::new(), Vec::new());
    let files = names
        .iter()
        .flat_map(|name| [(*name).to_owned(), unfinished(name)]);
    for path in files.map(|name| directory.join(name)) {
        match fs::remove_file(&path) {
            Ok(()) => removed.push(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => left.push((path, error)),
        }
    }
    if !removed.is_empty() && fs::remove_dir(directory).is_ok() {
        removed.push(directory.to_owned());
    }
    (removed, left)
}

/// Writes a file of its owner only in place of the one that is there: whole or not at all, even if power fails. The directory is
/// made where it is missing.
pub(crate) fn replace(directory: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let new = directory.join(unfinished(name));
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, directory.join(name))?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_is_ours_goes_and_what_is_not_stays_with_the_directory() {
        let base = tempfile::tempdir().unwrap();
        let directory = base.path().join("state");
        let names = ["one", "two"];
        assert_eq!(remove(&directory, &names).0, Vec::<PathBuf>::new());
        replace(&directory, "one", b"1").unwrap();
        fs::write(directory.join("two.new"), b"2").unwrap();
        fs::write(directory.join("theirs"), b"3").unwrap();
        let (removed, left) = remove(&directory, &names);
        let expected = ["one", "two.new"].map(|name| directory.join(name));
        assert_eq!(removed, expected);
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(fs::read(directory.join("theirs")).unwrap(), b"3");
        fs::remove_file(directory.join("theirs")).unwrap();

        // What can't be removed is named, all else goes.
        replace(&directory, "two", b"2").unwrap();
        fs::create_dir(directory.join("one")).unwrap();
        let (removed, left) = remove(&directory, &names);
        assert_eq!(removed, [directory.join("two")]);
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].0, directory.join("one"));
        fs::remove_dir(directory.join("one")).unwrap();
        replace(&directory, "two", b"2").unwrap();
        let (removed, _) = remove(&directory, &names);
        assert_eq!(removed, [directory.join("two"), directory.clone()]);
        assert!(!directory.exists());
    }
}
