//! A process that dies finds what it gave its holder, one that hangs is killed and started again, and one that ends by itself is not. This
//! program is holder and child at once, as the gateway is; hence it has a `main` of its own.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test"
)]

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Signal, getpid, getppid, kill_process};
use strait_daemon::Heartbeat;
use strait_daemon::holder::{Holder, hold};

/// How the last of the children ends.
const LAST: i32 = 7;
const NAMES: [&str; 3] = [
    "what_a_dead_process_gave_its_holder_its_successor_gets",
    "one_of_whose_loops_one_never_begins_is_replaced",
    "one_that_hangs_is_replaced_and_time_in_which_its_holder_stood_still_does_not_count",
];

/// Seconds that all processes of a host count alike.
fn seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/uptime").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // Whoever lists the tests of a workspace asks each program.
    if std::env::args().any(|argument| argument == "--list") {
        NAMES.iter().for_each(|name| println!("{name}: test"));
        return;
    }
    let Some(holder) = Holder::of_this_process().unwrap() else {
        let ended = hold().await.unwrap();
        assert_eq!(ended.code(), Some(LAST), "{ended}");
        NAMES.iter().for_each(|name| println!("test {name} ... ok"));
        return;
    };
    let mut held = holder.held().unwrap();
    let Some(notes) = held.remove("notes") else {
        assert!(held.is_empty());
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"begun").unwrap();
        holder.keep("notes", file.as_fd()).unwrap();
        holder.keep("dropped", file.as_fd()).unwrap();
        holder.release("dropped").unwrap();
        // The holder reads in order: what it was told before this is answered, it knows.
        assert_eq!(holder.held().unwrap().len(), 1);
        kill_process(getpid(), Signal::KILL).unwrap();
        panic!("still alive");
    };
    assert!(held.is_empty(), "{held:?}");
    let mut file = File::from(notes);
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    let so_far: Vec<&str> = text.split(' ').collect();
    match so_far[..] {
        ["begun"] => {
            file.write_all(b" once-more").unwrap();
            kill_process(getpid(), Signal::KILL).unwrap();
        }
        ["begun", "once-more"] => hang(&holder, file),
        ["begun", "once-more", since] => {
            let took = seconds() - since.parse::<f64>().unwrap();
            assert!((8.5..15.0).contains(&took), "{took} s");
            begin_never(&holder, file);
        }
        ["begun", "once-more", _, since] => {
            let took = seconds() - since.parse::<f64>().unwrap();
            assert!((28.5..40.0).contains(&took), "{took} s");
            be_patient(&holder);
            holder.when_gone(|| std::process::exit(1)).unwrap();
            std::process::exit(LAST);
        }
        _ => panic!("{text}"),
    }
}

fn heart(holder: &Holder, part: &'static str) -> Heartbeat {
    Heartbeat::default().felt(Some(holder.pulse(part).unwrap()))
}

/// Beats for so long.
fn beat(heart: &Heartbeat, time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        heart.beat();
        thread::sleep(Duration::from_millis(200));
    }
}

/// One of its loops stands still while another one turns.
fn hang(holder: &Holder, mut notes: File) {
    let (main, cable) = (heart(holder, "main loop"), heart(holder, "cable"));
    thread::spawn(move || beat(&main, Duration::from_secs(60)));
    // While all turn, nothing happens to it.
    beat(&cable, Duration::from_secs(12));
    write!(notes, " {}", seconds()).unwrap();
    thread::sleep(Duration::from_secs(30));
    panic!("still alive");
}

/// One of its loops never begins, while another one turns.
fn begin_never(holder: &Holder, mut notes: File) {
    let (main, _cable) = (heart(holder, "main loop"), heart(holder, "cable"));
    write!(notes, " {}", seconds()).unwrap();
    beat(&main, Duration::from_secs(60));
    panic!("still alive");
}

/// Its holder stands still for longer than it would wait, together with it: the two go on.
fn be_patient(holder: &Holder) {
    let main = heart(holder, "main loop");
    main.beat();
    let parent = getppid().unwrap();
    thread::sleep(Duration::from_millis(100));
    kill_process(parent, Signal::STOP).unwrap();
    thread::sleep(Duration::from_secs(13));
    kill_process(parent, Signal::CONT).unwrap();
    // As slow as may be.
    thread::sleep(Duration::from_secs(2));
    beat(&main, Duration::from_secs(2));
}
