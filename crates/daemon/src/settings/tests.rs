use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use super::{Origin, Setting, Settings, command};

static TABLE: &[Setting] = &[
    Setting::new(
        "SUBMARINER_CLUSTERID",
        "This cluster",
        "a DNS label, such as east",
    )
    .required(),
    Setting::new("SUBMARINER_METRICSPORT", "Port", "a port, 1 to 65535").default("32782"),
    Setting::new("SUBMARINER_HEALTHCHECKENABLED", "Ping", "true or false").default("true"),
    Setting::new(
        "SUBMARINER_CLUSTERCIDR",
        "Pods",
        "prefixes separated by commas",
    ),
    Setting::new("SUBMARINER_HEALTHCHECKINTERVAL", "Pause", "seconds").default("1"),
    Setting::new("BROKER_K8S_APISERVERTOKEN", "Token", "a bearer token").secret(),
    Setting::new("STRAIT_ADOPT", "Adopt", "true or false")
        .default("false")
        .switch("adopt"),
];

fn read(arguments: &[&str], environment: &[(&str, &str)]) -> Settings {
    let environment = environment
        .iter()
        .map(|(name, value)| ((*name).to_owned(), OsString::from(value)));
    read_os(arguments, environment.collect())
}

fn read_os(arguments: &[&str], environment: Vec<(String, OsString)>) -> Settings {
    let arguments = std::iter::once("agent").chain(arguments.iter().copied());
    let matches = command("agent", "An agent", TABLE)
        .try_get_matches_from(arguments)
        .unwrap();
    Settings::read_from(&matches, TABLE, environment)
}

fn cluster_id(value: &str) -> Result<String, String> {
    if value.contains('_') {
        Err("'_' is not allowed".to_owned())
    } else {
        Ok(value.to_owned())
    }
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_default() {
    let name = "SUBMARINER_METRICSPORT";
    assert_eq!(read(&[], &[]).port(name), Ok(32782));
    assert_eq!(read(&[], &[(name, "1")]).port(name), Ok(1));
    assert_eq!(
        read(&["--submariner-metricsport", "2"], &[(name, "1")]).port(name),
        Ok(2)
    );
}

#[test]
fn all_that_is_wrong_is_told_at_once_with_value_origin_and_what_was_expected() {
    let environment = [
        ("SUBMARINER_METRICSPORT", "70000"),
        ("SUBMARINER_HEALTHCHECKENABLED", "yes"),
    ];
    let mut settings = read(&["--submariner-clusterid", "ea_st"], &environment);
    let id = settings.parse("SUBMARINER_CLUSTERID", cluster_id);
    let port = settings.port("SUBMARINER_METRICSPORT");
    let ping = settings.bool("SUBMARINER_HEALTHCHECKENABLED");
    let interval = settings.seconds("SUBMARINER_HEALTHCHECKINTERVAL");
    assert_eq!(interval, Ok(Duration::from_secs(1)));
    let error = settings.finish(|| Ok((id?, port?, ping?))).unwrap_err();
    let expected = "3 settings are wrong:
  SUBMARINER_CLUSTERID=\"ea_st\" (flag --submariner-clusterid): '_' is not allowed; expected a DNS label, such as east
  SUBMARINER_METRICSPORT=\"70000\" (environment): number too large to fit in target type; expected a port, 1 to 65535
  SUBMARINER_HEALTHCHECKENABLED=\"yes\" (environment): is neither true nor false; expected true or false";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn what_is_required_must_be_set_and_not_empty() {
    let mut settings = read(&[], &[]);
    let id = settings.text("SUBMARINER_CLUSTERID");
    let error = settings.finish(|| id).unwrap_err().to_string();
    let expected = "a setting is wrong: SUBMARINER_CLUSTERID is not set (nor is --submariner-clusterid); \
                    expected a DNS label, such as east";
    assert_eq!(error, expected);
    let mut settings = read(&[], &[("SUBMARINER_CLUSTERID", "")]);
    let id = settings.text("SUBMARINER_CLUSTERID");
    let error = settings.finish(|| id).unwrap_err().to_string();
    assert!(
        error.contains("SUBMARINER_CLUSTERID=\"\" (environment): is empty"),
        "{error}"
    );
}

#[test]
fn a_problem_that_the_builder_does_not_look_at_still_fails() {
    let mut settings = read(&[], &[("SUBMARINER_METRICSPORT", "0")]);
    let _ = settings.port("SUBMARINER_METRICSPORT");
    assert!(settings.finish(|| Ok(())).is_err());
}

#[test]
fn set_but_empty_overrides_the_default_as_upstream_has_it() {
    let empty = [
        ("SUBMARINER_METRICSPORT", ""),
        ("SUBMARINER_HEALTHCHECKENABLED", ""),
        ("SUBMARINER_CLUSTERCIDR", ""),
    ];
    let mut settings = read(&[], &empty);
    assert!(settings.port("SUBMARINER_METRICSPORT").is_err());
    assert!(settings.bool("SUBMARINER_HEALTHCHECKENABLED").is_err());
    assert_eq!(settings.optional_text("SUBMARINER_CLUSTERCIDR"), Ok(None));
    let error = settings.finish(|| Ok(())).unwrap_err();
    assert!(
        error
            .problems()
            .iter()
            .all(|problem| problem.problem == "is empty"),
        "{error}"
    );
    assert_eq!(error.problems().len(), 2);
}

#[test]
fn lists_drop_blanks_and_name_the_element_that_is_wrong() {
    let name = "SUBMARINER_CLUSTERCIDR";
    let number = |element: &str| {
        element
            .parse::<u8>()
            .map_err(|_| format!("{element} is no number"))
    };
    assert_eq!(
        read(&[], &[(name, " 1, 2,")]).list(name, number),
        Ok(vec![1, 2])
    );
    assert_eq!(read(&[], &[(name, "")]).list(name, number), Ok(vec![]));
    assert_eq!(read(&[], &[]).list(name, number), Ok(vec![]));
    let mut settings = read(&[], &[(name, "1,x")]);
    assert!(settings.list(name, number).is_err());
    assert_eq!(
        settings.finish(|| Ok(())).unwrap_err().problems()[0].problem,
        "x is no number"
    );
}

#[test]
fn truth_is_what_go_takes_for_it() {
    for (values, truth) in [
        ("1 t T TRUE true True", true),
        ("0 f F FALSE false False", false),
    ] {
        assert!(
            values
                .split(' ')
                .all(|value| super::go_bool(value) == Ok(truth))
        );
    }
    for value in ["", "yes", "tRUE", " true", "2"] {
        assert!(super::go_bool(value).is_err(), "{value:?}");
    }
}

#[test]
fn a_secret_is_never_shown_not_even_by_the_parser_that_rejects_it() {
    let name = "BROKER_K8S_APISERVERTOKEN";
    let mut settings = read(&[], &[(name, "hunter2")]);
    let refused = settings.parse(name, |value| Err::<(), _>(format!("{value} is bad")));
    assert!(refused.is_err());
    assert!(
        settings
            .shown()
            .any(|shown| shown == (name, "***", Origin::Environment))
    );
    assert!(!format!("{settings:?}").contains("hunter2"), "{settings:?}");
    let error = settings.finish(|| Ok(())).unwrap_err();
    assert!(
        !format!("{error} {error:?}").contains("hunter2"),
        "{error:?}"
    );
    assert!(error.to_string().contains(name));
}

#[test]
fn a_secret_comes_from_a_file_but_never_from_the_command_line() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"hunter2\n").unwrap();
    let path = file.path().to_str().unwrap();
    let mut settings = read(&["--broker-k8s-apiservertoken-file", path], &[]);
    let secret = settings
        .secret("BROKER_K8S_APISERVERTOKEN")
        .unwrap()
        .unwrap();
    assert_eq!(secret.expose(), "hunter2");
    let on_line = ["agent", "--broker-k8s-apiservertoken", "hunter2"];
    assert!(
        command("agent", "An agent", TABLE)
            .try_get_matches_from(on_line)
            .is_err()
    );
    let settings = read(&["--broker-k8s-apiservertoken-file", "/no/such/file"], &[]);
    let error = settings.finish(|| Ok(())).unwrap_err().to_string();
    assert!(
        error.contains("cannot read /no/such/file: No such file or directory"),
        "{error}"
    );
}

#[test]
fn bytes_that_are_no_text_are_a_problem_of_their_variable_only() {
    let bytes = OsString::from_vec(vec![0xff]);
    let settings = read_os(&[], vec![("SUBMARINER_CLUSTERCIDR".into(), bytes)]);
    let error = settings.finish(|| Ok(())).unwrap_err();
    assert_eq!(
        (error.problems().len(), error.problems()[0].name.as_str()),
        (1, "SUBMARINER_CLUSTERCIDR")
    );
}

#[test]
fn misspelt_variables_are_found_and_those_of_kubernetes_and_the_operator_are_not() {
    let environment = [
        ("SUBMARINER_CLUSTER_ID", "east"),
        ("STRAIT_LOGS", "debug"),
        ("SUBMARINER_CLUSTERID", "east"),
        ("SUBMARINER_COLORCODES", "blue"),
        ("SUBMARINER_GATEWAY_SERVICE_HOST", "10.0.0.1"),
        ("SUBMARINER_GATEWAY_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("PATH", "/bin"),
    ];
    let settings = read(&[], &environment);
    let found: Vec<&str> = settings.unknown.iter().map(String::as_str).collect();
    assert_eq!(found, ["STRAIT_LOGS", "SUBMARINER_CLUSTER_ID"]);
}

#[test]
fn every_setting_is_in_the_help_with_its_variable_and_default() {
    let help = command("agent", "An agent", TABLE)
        .render_long_help()
        .to_string();
    for text in [
        "--submariner-metricsport",
        "[env: SUBMARINER_METRICSPORT] [default: 32782]",
        "--kubeconfig",
        "--strait-log",
    ] {
        assert!(help.contains(text), "no {text} in\n{help}");
    }
}

#[test]
fn a_switch_stands_alone_or_with_a_value_and_has_the_variables_name_too() {
    let name = "STRAIT_ADOPT";
    for (arguments, environment, expected) in [
        (&[][..], &[][..], false),
        (&[], &[(name, "true")], true),
        (&["--adopt"], &[], true),
        (&["--adopt", "false"], &[(name, "true")], false),
        (&["--strait-adopt=true"], &[], true),
        (&["--adopt", "--submariner-metricsport", "2"], &[], true),
    ] {
        let mut settings = read(arguments, environment);
        assert_eq!(settings.bool(name), Ok(expected), "{arguments:?}");
    }
    assert!(read(&["--adopt", "perhaps"], &[]).bool(name).is_err());
}
