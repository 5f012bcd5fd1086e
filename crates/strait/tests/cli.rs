//! What a user of the command line gets: errors that name the variable, what it holds and what was expected.

#![allow(clippy::expect_used, reason = "helpers of tests fail the test")]

use std::process::{Command, Output};

fn strait(args: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_strait"))
        .args(args)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .expect("the binary starts")
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn every_bad_setting_is_refused_at_once_with_its_name_and_what_was_expected() {
    let environment = [
        ("NODE_NAME", "worker-1"),
        ("SUBMARINER_CLUSTERID", "East!"),
        ("SUBMARINER_CLUSTERCIDR", "10.1.0.0/33"),
        ("SUBMARINER_METRICSPORT", "99999"),
        ("STRAIT_VERIFY_INTERVAL", "0"),
    ];
    let output = strait(&["route-agent"], &environment);
    let text = errors(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    for part in [
        "SUBMARINER_CLUSTERID",
        "East!",
        "lower-case letters",
        "SUBMARINER_CLUSTERCIDR",
        "10.1.0.0/33",
        "such as 10.42.0.0/16",
        "SUBMARINER_METRICSPORT",
        "1 to 65535",
        "STRAIT_VERIFY_INTERVAL",
    ] {
        assert!(text.contains(part), "no '{part}' in: {text}");
    }
}

#[test]
fn a_missing_setting_is_named() {
    let output = strait(&["gateway"], &[("SUBMARINER_CLUSTERID", "east")]);
    let text = errors(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    for part in [
        "NODE_NAME",
        "SUBMARINER_CLUSTERCIDR",
        "BROKER_K8S_APISERVER",
        "BROKER_K8S_APISERVERTOKEN",
    ] {
        assert!(text.contains(part), "no '{part}' in: {text}");
    }
}

#[test]
fn a_secret_is_never_printed_and_never_taken_from_the_command_line() {
    let environment = [
        ("NODE_NAME", "gw"),
        ("SUBMARINER_CLUSTERID", "bad id"),
        ("BROKER_K8S_APISERVER", "broker:6443"),
        ("BROKER_K8S_APISERVERTOKEN", "hunter2"),
    ];
    let output = strait(&["gateway"], &environment);
    assert_eq!(output.status.code(), Some(2));
    assert!(!errors(&output).contains("hunter2"), "{}", errors(&output));
    let flag = strait(&["gateway", "--broker-k8s-apiservertoken", "hunter2"], &[]);
    assert_eq!(flag.status.code(), Some(2), "there is no such flag");
}

#[test]
fn a_flag_goes_before_the_environment() {
    let environment = [
        ("NODE_NAME", "worker-1"),
        ("SUBMARINER_CLUSTERID", "from-environment"),
    ];
    let output = strait(
        &["route-agent", "--submariner-clusterid", "From Flag"],
        &environment,
    );
    let text = errors(&output);
    assert!(
        text.contains("From Flag") && text.contains("--submariner-clusterid"),
        "{text}"
    );
}

#[test]
fn upstreams_names_work_and_tell_the_version() {
    let dir = tempfile::tempdir().expect("a directory");
    for name in ["submariner-route-agent", "submariner-gateway"] {
        let link = dir.path().join(name);
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_strait"), &link).expect("a link");
        let output = Command::new(&link)
            .arg("--version")
            .output()
            .expect("it starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success() && text.contains(env!("CARGO_PKG_VERSION")),
            "{text}"
        );
    }
}

#[test]
fn every_command_has_help_with_an_example_and_shells_get_completion() {
    for command in ["route-agent", "gateway", "plan", "diff", "apiserver", "lab"] {
        let output = strait(&[command, "--help"], &[]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success() && text.contains("Example"),
            "{command}: {text}"
        );
    }
    for shell in ["bash", "zsh", "fish"] {
        let output = strait(&["completion", shell], &[]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success() && text.contains("route-agent"),
            "{shell}"
        );
    }
}
