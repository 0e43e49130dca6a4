//! The catalogue of errors: each names the file, what is wrong with it, and the way out; with `--json` each under its own key.

use crate::run::{Place, flip};

/// A folder with something wrong of each kind.
fn place() -> Place {
    let place = Place::new()
        .with_vhd("good.vhd")
        .with_vhd("torn.vhd")
        .with_vhd("lying.vhd");
    let torn = place.path("torn.vhd");
    flip(&torn, place.read("torn.vhd").len() - 500);
    // The block size in the dynamic header, whose checksum then is wrong too.
    flip(&place.path("lying.vhd"), 512 + 32);
    place.write("noise.vhd", &[7; 8192]);
    place.write("short.img", &[1; 100]);
    place.write("raw.img", &[0; 4096]);
    for folder in ["folder.img", "folder.vhd"] {
        std::fs::create_dir(place.path(folder)).unwrap();
    }
    place
}

const CASES: &[&[&str]] = &[
    &["info", "none.img"],
    &["info", "no-extension"],
    &["info", "folder.img"],
    &["repair", "folder.vhd"],
    &["serve", "folder.img"],
    &["create", "folder.img", "--size", "1M", "--force"],
    &["convert", "good.vhd", "folder.img", "--force"],
    &["info", "short.img"],
    &["info", "noise.vhd"],
    &["info", "lying.vhd"],
    &["check", "raw.img"],
    &["repair", "raw.img"],
    &["map", "lying.vhd"],
    &["create", "good.vhd", "--size", "1M"],
    &["create", "new.img", "--size", "1000"],
    &["create", "new.vhd", "--size", "3T"],
    &["create", "none/new.img", "--size", "1M"],
    &["convert", "none.img", "new.vhd"],
    &["convert", "good.vhd", "raw.img"],
    &["convert", "good.vhd", "good.vhd", "--force"],
    &["convert", "good.vhd", "none/new.img"],
    &["convert", "noise.vhd", "new.img"],
    &["compare", "good.vhd", "none.img"],
    &["serve", "torn.vhd"],
    &["man", "explode"],
];

#[test]
fn errors_name_the_file_and_the_way_out() {
    let place = place();
    let mut catalogue = String::new();
    for case in CASES {
        let ended = place.run(case);
        assert_eq!(ended.stderr.lines().count(), 1, "{case:?}: {ended:?}");
        assert!(
            ended.stderr.starts_with("iomgr: error: ") && ended.stdout.is_empty(),
            "{case:?}: {ended:?}"
        );
        catalogue += &format!(
            "$ iomgr {}\n{}({})\n\n",
            case.join(" "),
            ended.stderr,
            ended.code.unwrap()
        );

        let json = place.run(&[case, &["--json"][..]].concat());
        assert_eq!(
            (json.code, json.stdout.as_str()),
            (ended.code, ""),
            "{case:?}: {json:?}"
        );
        let error = json.json_error();
        let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
        assert!(!text("hint").is_empty(), "{case:?} shows no way out: {error}");
        assert!(text("error").contains(&text("hint")), "{error}");
        assert!(
            !text("file").is_empty() || case[0] == "man",
            "{case:?} names no file: {error}"
        );
        assert!(text("error").starts_with(&text("file")), "{error}");
        let of_image = text("kind") == "image";
        assert!(
            !of_image || !text("field").is_empty(),
            "{case:?} names no field: {error}"
        );
    }
    let catalogue = catalogue.replace(&*place.path("").to_string_lossy(), "PLACE/");
    insta::with_settings!({filters => vec![(r"0x[0-9a-f]{8}", "SUM")]}, {
        insta::assert_snapshot!(catalogue);
    });
}
