//! What is wrong is refused with the right code, and says what is wrong.

use std::process::{Command, Stdio};

use crate::run::{Ended, Place};

/// Runs a wrong command line: code 2, nothing on stdout.
fn refused(args: &[&str]) -> String {
    let ended = Place::new().run(args);
    assert_eq!(
        (ended.code, ended.stdout.as_str()),
        (Some(2), ""),
        "{args:?}: {ended:?}"
    );
    ended.stderr
}

#[test]
fn wrong_usage_is_code_2() {
    assert!(refused(&[]).contains("Usage:"));
    assert!(refused(&["explode"]).contains("unrecognized subcommand 'explode'"));
    assert!(refused(&["create", "a.vhd"]).contains("--size"));
    assert!(refused(&["create", "a.vhd", "--size", "1Q"]).contains("is no size; say 1G"));
    assert!(refused(&["create", "a.vhd", "--size", "1M", "--format", "qcow2"]).contains("possible values: raw, vhd"));
    assert!(refused(&["create", "a.vhd", "--size", "1M", "--fixed", "--block-size", "2M"]).contains("cannot be used"));
    assert!(refused(&["serve", "a.vhd", "--name", "a/b"]).contains("is no name for a file"));
    assert!(refused(&["serve", "a.vhd", "--lock-timeout", "soon"]).contains("is no time; say 2"));
    assert!(refused(&["serve", "a.vhd", "--read-only", "--repair"]).contains("cannot be used"));
    assert!(refused(&["stop"]).contains("--all"));
    assert!(refused(&["stop", "a", "--timeout", "0"]).contains("is no time at all"));
    assert!(refused(&["del", "-n", "0", "--timeout", "0"]).contains("is no time at all"));
    assert!(refused(&["stop", "--all", "a"]).contains("cannot be used"));
    assert!(refused(&["status", "a", "--control", "b"]).contains("cannot be used"));
    assert!(refused(&["completions", "tcsh"]).contains("possible values"));
}

/// Runs a command that cannot work: code 1, one line on stderr that begins as all do.
fn fails(place: &Place, args: &[&str]) -> String {
    ends_with(1, place, args)
}

/// The same for an option whose value cannot be.
fn refuses_value(place: &Place, args: &[&str]) -> String {
    ends_with(2, place, args)
}

fn ends_with(code: i32, place: &Place, args: &[&str]) -> String {
    let ended = place.run(args);
    assert_eq!(
        (ended.code, ended.stdout.as_str()),
        (Some(code), ""),
        "{args:?}: {ended:?}"
    );
    assert!(ended.stderr.starts_with("iomgr: error: "), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    ended.stderr
}

#[test]
fn a_missing_file_is_named_with_the_cause() {
    let place = Place::new();
    for verb in ["info", "check", "repair", "serve"] {
        let error = fails(&place, &[verb, "none.vhd"]);
        assert!(error.contains("none.vhd: "), "{error}");
        assert!(error.contains("; cause: No such file or directory"), "{error}");
    }
    assert!(fails(&place, &["convert", "none.vhd", "a.img"]).contains("none.vhd: "));
    assert!(!place.path("a.img").exists());
}

#[test]
fn an_unknown_format_is_never_guessed() {
    let place = Place::new().with_vhd("a.vhd");
    std::fs::rename(place.path("a.vhd"), place.path("a")).unwrap();
    for verb in ["info", "check", "repair", "serve"] {
        assert!(refuses_value(&place, &[verb, "a"]).contains("--format"), "{verb}");
    }
    assert!(place.ok(&["info", "a", "--format", "vhd"]).stdout.contains("dynamic"));
}

/// The way out is one that the verb has.
#[test]
fn hints_name_options_of_the_verb() {
    let place = Place::new();
    place.write("a.img", &[7; 8192]);
    place.write("odd", &[7; 8192]);
    place.write("noise.vhd", &[7; 8192]);
    let says = |code, args: &[&str], hint: &str| {
        let ended = place.run(args);
        assert_eq!(ended.code, Some(code), "{args:?}: {ended:?}");
        assert!(ended.stderr.contains(hint), "{args:?}: {ended:?}");
    };
    says(2, &["convert", "odd", "b.img"], "say --from raw or --from vhd");
    says(1, &["convert", "noise.vhd", "b.img"], "say --from raw");
    says(2, &["convert", "a.img", "b.qcow2"], "say --to raw or --to vhd");
    says(2, &["compare", "odd", "a.img"], "say --format-a raw or --format-a vhd");
    says(3, &["compare", "a.img", "noise.vhd"], "say --format-b raw");
    says(1, &["info", "noise.vhd"], "say --format raw");
}

/// Without write permission, which is nothing to root, unless it is root without that privilege.
#[test]
fn who_may_not_write_is_told_what_the_verb_can_do() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new().with_vhd("a.vhd");
    place.write("b.img", &[0; 4096]);
    std::fs::set_permissions(place.path("a.vhd"), std::fs::Permissions::from_mode(0o444)).unwrap();
    let may_write = std::fs::File::options().write(true).open(place.path("a.vhd")).is_ok();
    let cases: [(&[&str], &str); 4] = [
        (&["repair", "a.vhd"], "; --dry-run needs less"),
        (&["dmio", "write", "a.vhd@0+4096"], "; `dmio read` needs less"),
        (&["serve", "a.vhd"], "; --read-only needs less"),
        (
            &["convert", "b.img", "a.vhd", "--force"],
            "it cannot be replaced: name another target",
        ),
    ];
    for (args, words) in cases {
        let plain = place.command(args);
        let mut command = if may_write { without_privilege(&plain) } else { plain };
        let ended = Ended::from(command.output().unwrap());
        assert_eq!(ended.code, Some(1), "{args:?}: {ended:?}");
        assert!(ended.stderr.contains(words), "{args:?}: {ended:?}");
    }
}

/// The same for a root that files' permissions hold for, as for others.
fn without_privilege(command: &Command) -> Command {
    let mut less = Command::new("setpriv");
    less.args(["--bounding-set", "-dac_override,-dac_read_search", "--"])
        .arg(command.get_program())
        .args(command.get_args())
        .current_dir(command.get_current_dir().expect("the test's own folder"))
        .stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => less.env(name, value),
            None => less.env_remove(name),
        };
    }
    less
}

#[test]
fn a_link_that_leads_nowhere_is_called_so() {
    let place = Place::new();
    std::os::unix::fs::symlink("none.vhd", place.path("a.vhd")).unwrap();
    for args in [&["info", "a.vhd"][..], &["serve", "--create", "1M", "a.vhd"]] {
        let error = fails(&place, args);
        assert!(
            error.contains("a.vhd: is a symbolic link that leads nowhere; make what"),
            "{error}"
        );
    }
}

/// What a file is called never steers a terminal.
#[test]
fn names_are_shown_without_their_control_characters() {
    let place = Place::new();
    let name = "a\x1b[2J\nb.img";
    place.write(name, &[0; 4096]);
    let shown = "a\\u{1b}[2J\\nb.img";
    assert!(place.ok(&["info", name]).stdout.contains(shown));
    assert!(place.ok(&["convert", name, "c.vhd"]).stderr.is_empty());
    assert!(fails(&place, &["convert", "c.vhd", name]).contains(shown));
    place.ok(&["convert", "c.vhd", name, "--force"]);
    let made = place.ok(&["create", "d\x1b\u{9b}.img", "--size", "1M"]);
    assert!(made.stdout.contains("d\\u{1b}\\u{9b}.img"), "{made:?}");
    // JSON has its own way.
    assert_eq!(
        place.ok(&["info", "d\x1b\u{9b}.img", "--json"]).json()["path"],
        "d\x1b\u{9b}.img"
    );
}

#[test]
fn one_path_is_not_two_sockets() {
    let place = Place::new().with_vhd("a.vhd");
    let error = refuses_value(&place, &["serve", "a.vhd", "--socket", "x.s", "--control", "./x.s"]);
    assert!(error.contains("--socket and --control are both"), "{error}");
    assert!(!place.path("x.s").exists());
}

#[test]
fn existing_files_are_replaced_only_by_force() {
    let place = Place::new();
    place.write("a.vhd", b"precious");
    place.write("b.img", &[0; 1 << 20]);
    assert!(fails(&place, &["create", "a.vhd", "--size", "1M"]).contains("a.vhd: exists already; --force replaces it"));
    assert!(fails(&place, &["convert", "b.img", "a.vhd"]).contains("a.vhd: exists already; --force replaces it"));
    assert_eq!(place.read("a.vhd"), b"precious");
    place.ok(&["convert", "b.img", "a.vhd", "--force"]);
    assert_eq!(place.ok(&["info", "a.vhd", "--json"]).json()["size_bytes"], 1 << 20);
    place.ok(&["create", "a.vhd", "--size", "2M", "--force"]);
    assert_eq!(place.ok(&["info", "a.vhd", "--json"]).json()["size_bytes"], 2 << 20);
}

#[test]
fn sizes_must_be_whole_sectors() {
    let place = Place::new();
    assert!(refuses_value(&place, &["create", "a.img", "--size", "1000"]).contains("multiple of 512"));
    assert!(refuses_value(&place, &["create", "a.vhd", "--size", "0"]).contains("multiple of 512"));
    assert!(
        refuses_value(&place, &["create", "a.img", "--size", "18446744073709551615"]).contains("take a smaller one")
    );
    assert!(refuses_value(&place, &["create", "a.vhd", "--size", "3T"]).contains("2040 GiB"));
    assert!(refuses_value(&place, &["create", "a.vhd", "--size", "1M", "--block-size", "3"]).contains("power of two"));
    assert!(!place.path("a.img").exists() && !place.path("a.vhd").exists());
}

#[test]
fn options_of_vhds_are_not_dropped_silently_for_raw_images() {
    let place = Place::new();
    for (more, field) in [
        (&["--fixed"][..], "fixed"),
        (&["--block-size", "4K"], "block size"),
        // The default of VHDs, said.
        (&["--block-size", "2M"], "block size"),
    ] {
        let args = [&["create", "a.img", "--size", "1M"], more].concat();
        let error = refuses_value(&place, &args);
        assert!(error.contains(&format!("a.img: {field}: is for VHDs")), "{error}");
        assert!(!place.path("a.img").exists());
    }
    place.write("b.img", &[0; 4096]);
    let error = fails(&place, &["convert", "b.img", "c.img", "--fixed"]);
    assert!(error.contains("fixed: is for VHDs"), "{error}");
    assert!(!place.path("c.img").exists());
}

#[test]
fn serving_options_have_bounds() {
    let place = Place::new().with_vhd("a.vhd");
    assert!(refuses_value(&place, &["serve", "a.vhd", "--queues", "0"]).contains("queues must be from 1"));
    assert!(refuses_value(&place, &["serve", "a.vhd", "--depth", "1000000"]).contains("depth must be from 1"));
    assert!(refuses_value(&place, &["serve", "new.vhd", "--create", "1000"]).contains("multiple of 512"));
    assert!(refuses_value(&place, &["serve", "a.vhd", "--listen", "0.0.0.0"]).contains("say --insecure"));
    place.ok(&["create", "b.vhd", "--size", "1M"]);
    let twins = ["serve", "a.vhd", "b.vhd", "--name", "x", "--name", "x"];
    assert!(refuses_value(&place, &twins).contains("choose another name"));
    assert!(
        fails(&place, &["serve", "--create", "1M", "a.vhd"]).contains("exists with 67108864 bytes, not the 1048576")
    );
}

/// Who asks for several images, and gets an error, has none of them to clear away.
#[test]
fn images_that_were_made_for_nothing_are_removed() {
    let place = Place::new();
    place.write("c.img", &[0; 4096]);
    let error = fails(&place, &["serve", "--create", "1M", "a.vhd", "b.img", "c.img"]);
    assert!(error.contains("c.img: exists with 4096 bytes"), "{error}");
    assert!(!place.path("a.vhd").exists() && !place.path("b.img").exists());
    // One that was there stays.
    place.write("b.img", &[0; 1 << 20]);
    fails(&place, &["serve", "--create", "1M", "a.vhd", "b.img", "c.img"]);
    assert!(!place.path("a.vhd").exists());
    assert_eq!(place.read("b.img").len(), 1 << 20);
}

#[test]
fn with_json_an_error_is_a_line_of_json() {
    let place = Place::new();
    let ended = place.run(&["info", "none.vhd", "--json"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
    let error = ended.json_error();
    assert_eq!(error["kind"], "open");
    assert!(error["error"].as_str().unwrap().starts_with("none.vhd: "), "{error}");
    assert!(
        error["causes"][0].as_str().unwrap().starts_with("No such file"),
        "{error}"
    );
}

#[test]
fn with_json_wrong_usage_is_a_line_of_json_too() {
    let place = Place::new();
    let ended = place.run(&["create", "a.vhd", "--size", "1Q", "--json"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{ended:?}");
    let error = ended.json_error();
    assert_eq!(
        (&error["kind"], ended.stderr.lines().count()),
        (&"usage".into(), 1),
        "{error}"
    );
    assert!(
        error["error"].as_str().unwrap().contains("is no size; say 1G"),
        "{error}"
    );
    assert!(error["field"].as_str().unwrap().contains("--size"), "{error}");
    let ended = place.run(&["--json"]);
    assert_eq!(
        (ended.code, &ended.json_error()["kind"]),
        (Some(2), &"usage".into()),
        "{ended:?}"
    );
    assert!(place.ok(&["create", "--json", "--help"]).stdout.contains("Examples:"));
}

#[test]
fn who_stops_reading_does_no_harm() {
    let place = Place::new();
    let mut child = place
        .command(&["doctor"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
