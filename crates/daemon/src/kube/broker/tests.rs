use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertifiedKey, generate_simple_self_signed};

use super::{BROKER, BrokerSettings, broker_client};
use crate::kube::cluster_client;
use crate::settings::{Settings, SettingsError, command};

fn read(environment: &[(&str, &str)]) -> Result<BrokerSettings, SettingsError> {
    let matches = command("agent", "An agent", &BROKER)
        .try_get_matches_from(["agent"])
        .unwrap();
    let environment = environment
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).into()));
    let mut settings = Settings::read_from(&matches, &BROKER, environment);
    let broker = BrokerSettings::read(&mut settings);
    settings.finish(|| broker)
}

fn ca() -> String {
    let CertifiedKey { cert, .. } = generate_simple_self_signed(vec!["broker".to_owned()]).unwrap();
    STANDARD.encode(cert.pem())
}

#[tokio::test]
async fn a_broker_client_is_made_from_the_operators_variables_without_the_network() {
    let ca = ca();
    let broker = read(&[
        ("BROKER_K8S_APISERVER", "192.0.2.1:6443"),
        ("BROKER_K8S_APISERVERTOKEN", "hunter2\n"),
        ("BROKER_K8S_REMOTENAMESPACE", "submariner-k8s-broker"),
        ("BROKER_K8S_CA", &ca),
    ])
    .unwrap();
    assert_eq!(broker.server, "https://192.0.2.1:6443/");
    let token = broker.token.as_ref().map(crate::Secret::expose);
    assert_eq!((token, broker.insecure), (Some("hunter2"), false));
    assert!(!format!("{broker:?}").contains("hunter2"));
    assert_eq!(
        broker_client(&broker).unwrap().default_namespace(),
        "submariner-k8s-broker"
    );
}

#[test]
fn what_cannot_reach_a_broker_is_refused_with_the_reason() {
    let no_certificate = STANDARD.encode("not PEM");
    let error = read(&[
        ("BROKER_K8S_APISERVER", "http://broker:80"),
        ("BROKER_K8S_APISERVERTOKEN", "a\nb"),
        ("BROKER_K8S_CA", &no_certificate),
        ("BROKER_K8S_INSECURE", "maybe"),
    ])
    .unwrap_err();
    let found: Vec<(&str, &str)> = error
        .problems()
        .iter()
        .map(|problem| (problem.name.as_str(), problem.problem.as_str()))
        .collect();
    let expected = [
        ("BROKER_K8S_APISERVER", "only https can reach a broker"),
        ("BROKER_K8S_APISERVERTOKEN", "is not valid"),
        (
            "BROKER_K8S_REMOTENAMESPACE",
            "is not set (nor is --broker-k8s-remotenamespace)",
        ),
        ("BROKER_K8S_CA", "holds no certificate"),
        ("BROKER_K8S_INSECURE", "is neither true nor false"),
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_host_alone_and_an_ipv6_address_are_servers_too() {
    for (value, uri) in [
        ("broker", "https://broker/"),
        ("[2001:db8::1]:6443", "https://[2001:db8::1]:6443/"),
    ] {
        assert_eq!(super::server(value).unwrap(), uri);
    }
    for value in ["", "ftp://x", "a b", ":6443", "https://"] {
        assert!(super::server(value).is_err(), "{value:?}");
    }
}

#[tokio::test]
async fn a_kubeconfig_that_is_not_there_is_named() {
    let error = cluster_client(&PathBuf::from("/no/such/kubeconfig").into())
        .await
        .err()
        .unwrap();
    assert!(error.to_string().contains("/no/such/kubeconfig"), "{error}");
}

#[test]
fn a_mounted_secret_does_for_the_token_and_nothing_else_is_one() {
    let with = |secret: &str| {
        read(&[
            ("BROKER_K8S_APISERVER", "192.0.2.1:6443"),
            ("BROKER_K8S_REMOTENAMESPACE", "submariner-k8s-broker"),
            ("BROKER_K8S_SECRET", secret),
        ])
    };
    for (secret, files) in [
        (
            "submariner-broker-secret",
            "/run/secrets/submariner.io/submariner-broker-secret",
        ),
        ("/etc/strait/broker", "/etc/strait/broker"),
    ] {
        assert_eq!(with(secret).unwrap().files.unwrap(), PathBuf::from(files));
    }
    for bad in ["../x", "a/b", ".."] {
        assert!(with(bad).is_err(), "{bad}");
    }
    let without = with("").unwrap_err();
    assert_eq!(without.problems()[0].name, "BROKER_K8S_APISERVERTOKEN");
}
