//! What users get when a node's CNI address changes under connections that run: a new one at once, never silence.

#![cfg(feature = "lab")]
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail the test"
)]

mod common;

use std::io::{BufRead, BufReader, Lines, Write};
use std::net::Ipv4Addr;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use common::{agent, joined};
use strait_lab::{CniChange, Lab, Options, Probe};

/// From the change of an address until connections of the old one have ended.
const AT_ONCE: Duration = Duration::from_secs(2);

/// Connects to a pod and waits for bytes that never come; says what the pod saw, and how the wait ended.
const WAIT: &str = r#"
use IO::Socket::INET; $| = 1;
my $s = IO::Socket::INET->new(PeerAddr => $ARGV[0], PeerPort => 8080, LocalAddr => $ARGV[1] // "0.0.0.0", Timeout => 3);
die "cannot connect: $@" unless $s;
sysread($s, my $greeting, 100); print $greeting;
$SIG{ALRM} = sub { print "nothing for 10 s\n"; exit 1 }; alarm 10;
my $n = sysread($s, my $byte, 1);
print defined $n ? "closed\n" : $!{ECONNABORTED} ? "aborted\n" : $!{ECONNRESET} ? "reset\n" : "$!\n";
"#;

/// Echoes each line that it gets by way of a connection, or of a datagram socket, to a pod.
const ECHO: &str = r#"
use IO::Socket::INET; $| = 1;
my $s = IO::Socket::INET->new(PeerAddr => $ARGV[0], PeerPort => 8080, Proto => $ARGV[1], Timeout => 3);
die "cannot connect: $@" unless $s;
if ($ARGV[1] eq "tcp") { sysread($s, my $greeting, 100); }
while (my $line = <STDIN>) {
  $s->send($line); my $answer = "";
  local $SIG{ALRM} = sub { print "silence\n"; exit 1 }; alarm 3;
  $s->recv($answer, 1000); alarm 0;
  $answer =~ s/\n(?=.)/ /g; print $answer;
}
"#;

struct Running {
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(lab: &Lab, place: &str, script: &str, arguments: &[&str]) -> Self {
        let command = ["perl", "-MErrno", "-e", script];
        let mut child = lab
            .command(place, command.into_iter().chain(arguments.iter().copied()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("its output")).lines();
        Self {
            child,
            input,
            output,
        }
    }

    fn line(&mut self) -> String {
        self.output.next().expect("a line").expect("text")
    }

    fn echo(&mut self, text: &str) -> String {
        let input = self.input.as_mut().expect("its input");
        writeln!(input, "{text}").expect("it reads");
        self.line()
    }

    /// The source that a pod saw of a connection that waits.
    fn source(&mut self) -> Ipv4Addr {
        source(&self.line())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `you are ADDRESS:PORT …`
fn source(greeting: &str) -> Ipv4Addr {
    let seen = greeting.split_whitespace().nth(2).unwrap_or_default();
    let ip = seen.split(':').next().unwrap_or_default();
    ip.parse().unwrap_or_else(|_| panic!("'{greeting}'"))
}

#[test]
fn connections_of_an_old_cni_address_end_at_once_and_what_is_new_has_the_new_one() {
    let lab = joined("addresses", Options::default());
    for (node, to, other) in [
        ("east-2", "west-3", "10.101.2.7/24"),
        ("west-2", "east-3", "10.102.2.7/32"),
        ("east-1", "west-3", "10.101.1.7/24"),
        ("west-1", "east-3", "10.102.1.7/32"),
    ] {
        let new: Ipv4Addr = other.split('/').next().unwrap().parse().unwrap();
        let here = lab.topology().node(node).unwrap().1.clone();
        let there = &lab.topology().node(to).unwrap().1.pods[0];
        let pod = there.address.to_string();
        let before = agent(&lab, node);
        let mut waiting = [
            Running::start(&lab, node, WAIT, &[&pod]),
            Running::start(&lab, node, WAIT, &[&pod, &here.address.to_string()]),
            Running::start(&lab, node, WAIT, &[&pod, &here.cni_address.to_string()]),
        ];
        for one in &mut waiting {
            assert_eq!(one.source(), here.cni_address, "{node}");
        }
        let mut datagrams = Running::start(&lab, node, ECHO, &[&pod, "udp"]);
        assert_eq!(source(&datagrams.echo("before")), here.cni_address);

        let change = Instant::now();
        lab.cni(node, CniChange::Address(other.parse().unwrap()))
            .unwrap();
        for (number, one) in waiting.iter_mut().enumerate() {
            let end = one.line();
            let after = change.elapsed();
            assert_eq!(end, "aborted", "{node}, connection {number}");
            assert!(
                after < AT_ONCE,
                "{node}: connection {number} hung {after:?}"
            );
        }
        let seen = lab.probe(&Probe::tcp(node, &there.name)).unwrap().unwrap();
        assert_eq!(seen.source.ip(), new, "{node}");
        // On a gateway the kernel gave the socket the old address as its own: it has to be made anew.
        if !here.gateway {
            assert_eq!(source(&datagrams.echo("after")), new, "{node}");
        }
        assert_eq!(agent(&lab, node), before, "the agent was restarted");
    }
}

#[test]
fn pods_never_notice_that_the_cni_address_of_their_node_changes() {
    let lab = joined("pods-stay", Options::default());
    // A pod of the other CNI has the address that goes as its router.
    for (node, from, to) in [
        ("west-2", "west-2", "east-2"),
        ("west-1", "west-1", "east-2"),
    ] {
        let pod = |node: &str| lab.topology().node(node).unwrap().1.pods[0].clone();
        let (from, to) = (pod(from), pod(to));
        let address = to.address.to_string();
        let mut out = Running::start(&lab, &from.name, ECHO, &[&address, "tcp"]);
        let mut datagrams = Running::start(&lab, &from.name, ECHO, &[&address, "udp"]);
        let mut back = Running::start(&lab, &to.name, ECHO, &[&from.address.to_string(), "tcp"]);
        let number = lab.topology().node(node).unwrap().1.number;
        for step in [
            CniChange::Address(format!("10.102.{number}.7/32").parse().unwrap()),
            CniChange::Address(format!("10.102.{number}.8/32").parse().unwrap()),
        ] {
            let what = format!("{node}: {step:?}");
            lab.cni(node, step).unwrap();
            for moment in 0..5 {
                assert_eq!(out.echo("out"), "out", "{what}");
                assert_eq!(back.echo("back"), "back", "{what}");
                let seen = datagrams.echo("datagram");
                assert_eq!(source(&seen), from.address, "{what}, {moment}");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}
