//! Every help text, and completions.

use crate::run::Place;

#[test]
fn the_front_page() {
    insta::assert_snapshot!(Place::new().ok(&["--help"]).stdout);
}

#[test]
fn every_verb() {
    let place = Place::new();
    for verb in [
        "create",
        "info",
        "check",
        "repair",
        "convert",
        "serve",
        "stop",
        "status",
        "doctor",
        "completions",
    ] {
        let help = place.ok(&[verb, "--help"]).stdout;
        assert!(help.contains("Examples:\n"), "{verb} has no example");
        insta::assert_snapshot!(format!("help_{verb}"), help);
    }
}

#[test]
fn lines_fit_a_terminal() {
    let place = Place::new();
    let long = |text: String| {
        text.lines()
            .filter(|line| line.chars().count() > 100)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    for verb in [
        "create",
        "info",
        "check",
        "repair",
        "convert",
        "serve",
        "stop",
        "status",
        "doctor",
        "completions",
    ] {
        assert_eq!(long(place.ok(&[verb, "--help"]).stdout), Vec::<String>::new(), "{verb}");
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
