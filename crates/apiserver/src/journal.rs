//! The file that lets objects survive a restart: one line of JSON per change, appended before the client is told.
//!
//! At start the file is read, and rewritten as a snapshot. A last line that a crash cut short is dropped: its client
//! was never told that the change was made. Lines survive the end of the process at once, and the loss of
//! power after the next [`Journal::sync`].

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use crate::Error;
use crate::store::{Change, Object, ObjectKey, ResourceId, Store};

/// Rewritten once this many bytes were appended and the snapshot is at most a quarter of them.
const COMPACT_AT: u64 = 16 << 20;

#[derive(Deserialize)]
struct Line {
    revision: u64,
    #[serde(default)]
    resource: Option<String>,
    #[serde(default)]
    delete: bool,
    #[serde(default)]
    object: Value,
}

/// The open journal.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    length: u64,
    snapshot: u64,
}

impl Journal {
    /// Reads the journal `path` into a store that remembers `history` changes a collection, and opens it for appending.
    ///
    /// # Errors
    /// When the file cannot be read or written, or is damaged elsewhere than in its last line.
    pub fn open(path: &Path, history: usize) -> Result<(Self, Store), Error> {
        let store = read(path, history)?;
        let (file, length) = write_snapshot(path, &store)?;
        Ok((
            Self {
                path: path.to_owned(),
                file,
                length,
                snapshot: length,
            },
            store,
        ))
    }

    /// Appends changes; after an error none of them is in the file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn append(&mut self, changes: &[Change]) -> std::io::Result<()> {
        let mut lines = Vec::new();
        for change in changes {
            write_line(
                &mut lines,
                change.revision,
                &change.resource,
                change.delete,
                &change.object,
            )?;
        }
        if let Err(error) = self.file.write_all(&lines) {
            self.file.set_len(self.length)?;
            self.file.seek(SeekFrom::Start(self.length))?;
            return Err(error);
        }
        self.length += lines.len() as u64;
        Ok(())
    }

    /// Rewrites the file as a snapshot when most of it is history.
    ///
    /// # Errors
    /// When the new file cannot be written; the old one stays in use.
    pub fn compact(&mut self, store: &Store) -> Result<(), Error> {
        let appended = self.length.saturating_sub(self.snapshot);
        if appended < COMPACT_AT || appended / 4 < self.snapshot {
            return Ok(());
        }
        let (file, length) = write_snapshot(&self.path, store)?;
        (self.file, self.length, self.snapshot) = (file, length, length);
        Ok(())
    }

    /// A handle to bring the file to the disk with, without blocking the journal.
    ///
    /// # Errors
    /// When the handle cannot be duplicated.
    pub fn sync(&self) -> std::io::Result<File> {
        self.file.try_clone()
    }
}

fn read(path: &Path, history: usize) -> Result<Store, Error> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Store::new(0, history));
        }
        Err(error) => return Err(Error::file(path, error)),
    };
    let mut reader = BufReader::new(file);
    let mut store: Option<Store> = None;
    let mut line = Vec::new();
    let mut number = 0_u64;
    loop {
        line.clear();
        number += 1;
        let length = reader
            .read_until(b'\n', &mut line)
            .map_err(|error| Error::file(path, error))?;
        if length == 0 {
            break;
        }
        if line.last() != Some(&b'\n') {
            tracing::warn!(path = %path.display(), line = number, "the last change in the journal is incomplete: dropped");
            break;
        }
        let damaged = |why: String| Error::Journal {
            path: path.to_owned(),
            line: number,
            why,
        };
        let parsed: Line =
            serde_json::from_slice(&line).map_err(|error| damaged(error.to_string()))?;
        let Some(store) = store.as_mut() else {
            store = Some(Store::new(parsed.revision, history));
            continue;
        };
        let Some(resource) = parsed.resource.map(ResourceId::from) else {
            continue;
        };
        let key =
            key_of(&parsed.object).ok_or_else(|| damaged("an object without a name".to_owned()))?;
        let object = Object::new(parsed.object);
        // A snapshot's lines carry the revision of the snapshot itself; what came later has higher ones.
        if parsed.revision <= store.revision() {
            store.load(resource, key, object);
        } else {
            store.commit(Change {
                resource,
                key,
                object,
                delete: parsed.delete,
                revision: parsed.revision,
            });
        }
    }
    Ok(store.unwrap_or_else(|| Store::new(0, history)))
}

fn key_of(object: &Value) -> Option<ObjectKey> {
    let metadata = object.get("metadata")?;
    let namespace = metadata
        .get("namespace")
        .and_then(Value::as_str)
        .unwrap_or_default();
    Some((
        namespace.to_owned(),
        metadata.get("name")?.as_str()?.to_owned(),
    ))
}

fn write_snapshot(path: &Path, store: &Store) -> Result<(File, u64), Error> {
    let new = path.with_extension("new");
    let inner = || -> std::io::Result<(File, u64)> {
        let file = private()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&new)?;
        let mut out = BufWriter::new(file);
        writeln!(out, "{{\"revision\":{}}}", store.revision())?;
        for (resource, _, object) in store.all() {
            write_line(&mut out, store.revision(), resource, false, object)?;
        }
        let mut file = out
            .into_inner()
            .map_err(std::io::IntoInnerError::into_error)?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        if let Some(parent) = path.parent() {
            File::open(parent)?.sync_all()?;
        }
        let length = file.stream_position()?;
        Ok((file, length))
    };
    inner().map_err(|error| Error::file(path, error))
}

fn private() -> OpenOptions {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

fn write_line(
    out: &mut impl Write,
    revision: u64,
    resource: &ResourceId,
    delete: bool,
    object: &Arc<Object>,
) -> std::io::Result<()> {
    let resource = Value::from(&**resource);
    write!(
        out,
        "{{\"revision\":{revision},\"resource\":{resource},\"delete\":{delete},\"object\":"
    )?;
    out.write_all(&object.json)?;
    out.write_all(b"}\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn change(store: &Store, name: &str, delete: bool) -> Change {
        let revision = store.revision() + 1;
        let object = Object::new(
            json!({"metadata": {"name": name, "resourceVersion": revision.to_string()}}),
        );
        Change {
            resource: "things".into(),
            key: (String::new(), name.into()),
            object,
            delete,
            revision,
        }
    }

    fn write(path: &Path, changes: &[(&str, bool)]) {
        let (mut journal, mut store) = Journal::open(path, 10).unwrap();
        for (name, delete) in changes {
            let change = change(&store, name, *delete);
            journal.append(std::slice::from_ref(&change)).unwrap();
            store.commit(change);
        }
    }

    fn names(path: &Path) -> (Vec<String>, u64) {
        let (_, store) = Journal::open(path, 10).unwrap();
        (
            store.all().map(|(_, key, _)| key.1.clone()).collect(),
            store.revision(),
        )
    }

    #[test]
    fn objects_and_the_revision_survive() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        write(&path, &[("a", false), ("b", false), ("a", true)]);
        assert_eq!(names(&path), (vec!["b".into()], 3));
        assert_eq!(names(&path), (vec!["b".into()], 3));
        write(&path, &[("b", true)]);
        assert_eq!(names(&path), (vec![], 4));
    }

    #[test]
    fn a_torn_last_line_is_dropped_and_the_rest_lives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        write(&path, &[("a", false), ("b", false)]);
        let text = std::fs::read(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 7]).unwrap();
        assert_eq!(names(&path), (vec!["a".into()], 1));
    }

    #[test]
    fn damage_elsewhere_is_an_error_that_names_the_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        write(&path, &[("a", false), ("b", false)]);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replacen("\"resource\"", "\"resou", 1)).unwrap();
        assert!(
            Journal::open(&path, 10)
                .unwrap_err()
                .to_string()
                .contains("line 2")
        );
    }

    #[test]
    fn a_restarted_store_still_answers_for_changes_since_its_last_snapshot() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        write(&path, &[("a", false), ("b", false)]);
        let (_, store) = Journal::open(&path, 10).unwrap();
        assert_eq!(store.since("things", 1).unwrap().len(), 1);
    }

    #[test]
    fn a_journal_that_is_mostly_history_is_rewritten_while_it_is_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (mut journal, mut store) = Journal::open(&path, 2).unwrap();
        for _ in 0..20 {
            let mut change = change(&store, "big", false);
            let mut value = change.object.value.clone();
            value["data"] = json!("x".repeat(1 << 20));
            change.object = Object::new(value);
            journal.append(std::slice::from_ref(&change)).unwrap();
            store.commit(change);
            journal.compact(&store).unwrap();
        }
        assert!(std::fs::metadata(&path).unwrap().len() < 8 << 20);
        assert_eq!(names(&path), (vec!["big".into()], 20));
    }
}
