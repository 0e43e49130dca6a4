//! `iomgr man`: manual pages, made from what the command line itself says.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Command, CommandFactory};
use clap_mangen::Man as Page;
use clap_mangen::roff::{Roff, roman};
use serde_json::json;

use crate::args::Cli;
use crate::failure::Failure;
use crate::output::{print, print_json};

const EXAMPLES: &str = "\
Examples:
  iomgr man | man -l -                        read the page of iomgr itself
  iomgr man convert | man -l -                and that of a verb
  iomgr man --out /usr/share/man/man1         write all of them, for a package";

/// Print a manual page, or write all of them
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Man {
    /// The verb; without one, iomgr itself
    #[arg(conflicts_with = "out")]
    verb: Option<String>,
    /// Write all pages into this folder, which is made
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Man {
    pub(crate) fn run(&self, json: bool) -> Result<ExitCode, Failure> {
        let pages = pages();
        match &self.out {
            Some(folder) => write_all(&pages, folder, json)?,
            None => self.print_one(&pages, json)?,
        }
        Ok(ExitCode::SUCCESS)
    }

    fn print_one(&self, pages: &[(String, String)], json: bool) -> Result<(), Failure> {
        let wanted = self
            .verb
            .as_ref()
            .map_or("iomgr".to_owned(), |verb| format!("iomgr-{verb}"));
        let Some((name, text)) = pages.iter().find(|(name, _)| *name == wanted) else {
            let what = format!("{wanted} has no page");
            return Err(Failure::new(what).hint("`iomgr --help` lists the verbs"));
        };
        match json {
            true => print_json(&json!({ "page": name, "text": text })),
            false => print(text),
        }
    }
}

fn write_all(pages: &[(String, String)], folder: &PathBuf, json: bool) -> Result<(), Failure> {
    fs::create_dir_all(folder).map_err(|error| Failure::new("cannot be made").at(folder).because(error))?;
    let mut paths = Vec::new();
    for (name, text) in pages {
        let path = folder.join(format!("{name}.1"));
        fs::write(&path, text).map_err(|error| Failure::new("cannot be written").at(&path).because(error))?;
        paths.push(path.to_string_lossy().into_owned());
    }
    match json {
        true => print_json(&json!({ "files": paths })),
        false => print(&(paths.join("\n") + "\n")),
    }
}

/// Every page, by name: `iomgr`, `iomgr-create`…
fn pages() -> Vec<(String, String)> {
    let mut cli = Cli::command().disable_help_subcommand(true);
    cli.build();
    let verbs = cli.get_subcommands().map(|verb| {
        let name = format!("iomgr-{}", verb.get_name());
        let page = page(verb.clone().display_name(name.clone()), "SEE ALSO", "iomgr(1)");
        (name, page)
    });
    let verbs: Vec<_> = verbs.collect();
    let all = verbs
        .iter()
        .map(|(name, _)| format!("{name}(1)"))
        .collect::<Vec<_>>()
        .join(", ");
    let front = ("iomgr".to_owned(), page(cli, "SEE ALSO", &all));
    std::iter::once(front).chain(verbs).collect()
}

/// One page: clap's sections, the examples as they are, and a last section.
fn page(command: Command, last: &str, text: &str) -> String {
    let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let has_verbs = command.has_subcommands();
    let man = Page::new(command).source(concat!("iomgr ", env!("CARGO_PKG_VERSION")));
    let mut out = Vec::new();
    let rendered = man
        .render_title(&mut out)
        .and_then(|()| man.render_name_section(&mut out))
        .and_then(|()| man.render_synopsis_section(&mut out))
        .and_then(|()| man.render_description_section(&mut out))
        .and_then(|()| man.render_options_section(&mut out))
        .and_then(|()| match has_verbs {
            true => man.render_subcommands_section(&mut out),
            false => Ok(()),
        })
        .and_then(|()| literal("EXAMPLES", examples.trim_start_matches("Examples:\n")).to_writer(&mut out))
        .and_then(|()| section(last, text).to_writer(&mut out));
    rendered.expect("memory takes what is written to it");
    String::from_utf8_lossy(&out).into_owned()
}

fn section(title: &str, text: &str) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", [title]).text([roman(text)]);
    roff
}

/// Text whose lines stay as they are.
fn literal(title: &str, text: &str) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", [title]).control("nf", []);
    for line in text.lines() {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
    roff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_a_page_with_examples() {
        let pages = pages();
        let verbs = Cli::command().get_subcommands().count();
        assert_eq!(pages.len(), verbs + 1);
        for (name, text) in pages {
            assert!(
                text.contains(".SH EXAMPLES") && text.contains("iomgr "),
                "{name}: {text}"
            );
        }
    }
}
