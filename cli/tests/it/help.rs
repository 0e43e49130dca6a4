//! Every help text, and completions.

use crate::run::Place;

#[test]
fn the_front_page() {
    insta::assert_snapshot!(Place::new().ok(&["--help"]).stdout);
}

/// The verbs, as the front page lists them.
fn verbs(place: &Place) -> Vec<String> {
    let page = place.ok(&["--help"]).stdout;
    let lines = page.lines().skip_while(|line| *line != "Commands:").skip(1);
    let first_words = lines
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next());
    let verbs: Vec<_> = first_words.filter(|verb| *verb != "help").map(str::to_owned).collect();
    assert!(verbs.len() > 10, "the front page lists {verbs:?}");
    verbs
}

#[test]
fn every_verb() {
    let place = Place::new();
    for verb in verbs(&place) {
        let help = place.ok(&[&verb, "--help"]).stdout;
        assert!(help.contains("Examples:\n"), "{verb} has no example");
        insta::assert_snapshot!(format!("help_{verb}"), help);
    }
}

/// What there is to be said of a manager, and of each policy.
#[test]
fn every_verb_of_manager() {
    let place = Place::new();
    for verb in ["show", "set", "unset", "list"] {
        let help = place.ok(&["manager", verb, "--help"]).stdout;
        insta::assert_snapshot!(format!("help_manager_{verb}"), help);
    }
    for policy in ["none", "limit", "turn", "throttle", "wfq", "latency", "deadline"] {
        let help = place.ok(&["manager", "set", policy, "--help"]).stdout;
        assert!(help.contains("Examples:\n"), "{policy} has no example");
        let long: Vec<_> = help.lines().filter(|line| line.chars().count() > 100).collect();
        assert!(long.is_empty(), "{policy}: {long:#?}");
        insta::assert_snapshot!(format!("help_manager_set_{policy}"), help);
    }
}

#[test]
fn every_verb_of_dmio() {
    let place = Place::new();
    for verb in ["read", "write"] {
        let help = place.ok(&["dmio", verb, "--help"]).stdout;
        let long: Vec<_> = help.lines().filter(|line| line.chars().count() > 100).collect();
        assert!(long.is_empty(), "{verb}: {long:#?}");
        insta::assert_snapshot!(format!("help_dmio_{verb}"), help);
    }
}

#[test]
fn lines_fit_a_terminal() {
    let place = Place::new();
    for verb in verbs(&place) {
        let help = place.ok(&[&verb, "--help"]).stdout;
        let long: Vec<_> = help.lines().filter(|line| line.chars().count() > 100).collect();
        assert!(long.is_empty(), "{verb}: {long:#?}");
    }
}

#[test]
fn completions_name_the_verbs() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = place.ok(&["completions", shell]).stdout;
        assert!(
            script.contains("convert") && script.contains("lock-timeout"),
            "{shell}: {script}"
        );
    }
}

#[test]
fn it_knows_its_version() {
    assert_eq!(
        Place::new().ok(&["--version"]).stdout,
        format!("iomgr {}\n", env!("CARGO_PKG_VERSION"))
    );
}
