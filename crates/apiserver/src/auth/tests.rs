use serde_json::json;

use super::*;

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

fn rule(verbs: &[&str], resources: &[&str], namespaces: &[&str]) -> Rule {
    Rule {
        verbs: strings(verbs),
        groups: strings(&["submariner.io"]),
        resources: strings(resources),
        namespaces: strings(namespaces),
        own_label: None,
    }
}

fn ask<'a>(
    verb: &'a str,
    resource: &'a str,
    subresource: &'a str,
    namespace: &'a str,
) -> Attributes<'a> {
    Attributes {
        verb,
        group: "submariner.io",
        resource,
        subresource,
        namespace,
    }
}

#[test]
fn rules_grant_what_they_say_and_nothing_else() {
    let user = User {
        name: "east".into(),
        rules: vec![rule(&["get", "list"], &["endpoints"], &["broker"])],
    };
    assert_eq!(
        user.permit(&ask("get", "endpoints", "", "broker")),
        Some(Permit::All)
    );
    assert_eq!(user.permit(&ask("create", "endpoints", "", "broker")), None);
    assert_eq!(user.permit(&ask("get", "clusters", "", "broker")), None);
    assert_eq!(user.permit(&ask("get", "endpoints", "", "other")), None);
    assert_eq!(
        user.permit(&ask("list", "endpoints", "", "")),
        None,
        "all namespaces need *"
    );
    assert_eq!(
        user.permit(&ask("get", "endpoints", "status", "broker")),
        None
    );
    let other = Attributes {
        group: "",
        ..ask("get", "endpoints", "", "broker")
    };
    assert_eq!(user.permit(&other), None);
}

#[test]
fn an_own_label_must_be_there_before_and_after() {
    let label = OwnLabel {
        key: "id".into(),
        value: "east".into(),
    };
    let rule = Rule {
        own_label: Some(label),
        ..rule(&["*"], &["*"], &["*"])
    };
    let user = User {
        name: "east".into(),
        rules: vec![rule],
    };
    assert_eq!(
        user.permit(&ask("list", "endpoints", "", "x")),
        Some(Permit::All)
    );
    let permit = user.permit(&ask("update", "endpoints", "", "x")).unwrap();
    let (own, other) = (
        json!({"metadata": {"labels": {"id": "east"}}}),
        json!({"metadata": {"labels": {"id": "west"}}}),
    );
    assert!(permit.allows(Some(&own), Some(&own)) && permit.allows(None, Some(&own)));
    assert!(!permit.allows(Some(&other), Some(&own)));
    assert!(!permit.allows(Some(&own), Some(&other)));
    assert!(!permit.allows(None, Some(&json!({}))));
}

#[test]
fn tokens_are_taken_up_and_revoked_while_the_server_runs() {
    let dir = tempfile::tempdir().unwrap();
    let auth = Authenticator::new(dir.path(), "secret-admin".into());
    assert_eq!(auth.user("Bearer secret-admin").unwrap().name, "admin");
    assert!(auth.user("Bearer other").is_none() && auth.user("Basic secret-admin").is_none());
    let token = Tokens::change(dir.path(), |t| t.add("east", vec![Rule::all()])).unwrap();
    assert_eq!(auth.user(&format!("bearer {token}")).unwrap().name, "east");
    assert!(Tokens::change(dir.path(), |t| Ok(t.remove("east"))).unwrap());
    assert!(auth.user(&format!("Bearer {token}")).is_none());
}

#[test]
fn a_damaged_file_leaves_the_former_tokens_valid_and_no_secret_in_the_error() {
    let dir = tempfile::tempdir().unwrap();
    let auth = Authenticator::new(dir.path(), "a".into());
    let token = Tokens::change(dir.path(), |t| t.add("east", vec![])).unwrap();
    assert!(auth.user(&format!("Bearer {token}")).is_some());
    std::fs::write(dir.path().join(FILE), format!("[{{\"token\": {token}")).unwrap();
    assert!(auth.user(&format!("Bearer {token}")).is_some());
    let error = Tokens::load(dir.path()).unwrap_err();
    assert!(!format!("{error} {error:?}").contains(&token));
}

#[test]
fn the_file_is_private_and_tokens_do_not_show_in_debug_output() {
    let dir = tempfile::tempdir().unwrap();
    let token = Tokens::change(dir.path(), |t| t.add("east", vec![])).unwrap();
    assert_eq!(
        std::fs::metadata(dir.path().join(FILE)).unwrap().mode() & 0o777,
        0o600
    );
    assert!(!format!("{:?}", Tokens::load(dir.path()).unwrap()).contains(&token));
}
