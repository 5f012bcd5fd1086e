//! A process that dies finds what it gave its holder, and one that ends by itself is not started again. This program is
//! holder and child at once, as the gateway is; hence it has a `main` of its own.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test"
)]

use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;

use rustix::process::{Signal, getpid, kill_process};
use strait_daemon::holder::{Holder, hold};

/// How the last of the children ends.
const LAST: i32 = 7;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // Whoever lists the tests of a workspace asks each program.
    if std::env::args().any(|argument| argument == "--list") {
        println!("what_a_dead_process_gave_its_holder_its_successor_gets: test");
        return;
    }
    let Some(holder) = Holder::of_this_process().unwrap() else {
        let ended = hold().await.unwrap();
        assert_eq!(ended.code(), Some(LAST), "{ended}");
        println!("test what_a_dead_process_gave_its_holder_its_successor_gets ... ok");
        return;
    };
    let mut held = holder.held().unwrap();
    let Some(notes) = held.remove("notes") else {
        assert!(held.is_empty());
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"begun ").unwrap();
        holder.keep("notes", file.as_fd()).unwrap();
        holder.keep("dropped", file.as_fd()).unwrap();
        holder.release("dropped").unwrap();
        // The holder reads in order: what it was told before this is answered, it knows.
        assert_eq!(holder.held().unwrap().len(), 1);
        kill_process(getpid(), Signal::KILL).unwrap();
        panic!("still alive");
    };
    assert!(held.is_empty(), "{held:?}");
    let mut file = std::fs::File::from(notes);
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    if text == "begun " {
        file.write_all(b"once more ").unwrap();
        kill_process(getpid(), Signal::KILL).unwrap();
    }
    assert_eq!(text, "begun once more ");
    holder.when_gone(|| std::process::exit(1)).unwrap();
    std::process::exit(LAST);
}
