//! `iomgr map`: which parts of a disk are data, and where they lie in the image.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use vbd::{ExtentKind, MapEntry};

use crate::args::Format;
use crate::failure::Failure;

const EXAMPLES: &str = "\
Examples:
  iomgr map disk.vhd                        each run's start, length, kind, offset in the file
  iomgr map disk.vhd --json                 as `qemu-img map --output=json`
  iomgr map disk.img | grep -c data         how many runs of data

Kinds: data; zero, which takes space; hole, which takes none; bad, where the image lies.
Metadata alone is read.";

/// Show which parts of a disk are data, zeros and holes, and where they lie in the image
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Map {
    /// The image
    image: PathBuf,
    /// The format, where the extension does not tell it
    #[arg(long)]
    format: Option<Format>,
}

impl Map {
    pub(crate) fn run(&self, json: bool) -> Result<ExitCode, Failure> {
        // Images may have millions of runs: they are passed on as they are found.
        let mut out = BufWriter::new(io::stdout().lock());
        let mut sink = Sink { json, entries: 0 };
        let mut reader_left = false;
        let mut note_reader = |result: io::Result<()>| {
            result.inspect_err(|error| reader_left |= error.kind() == io::ErrorKind::BrokenPipe)
        };
        let format = self.format.map(Into::into);
        let mapped = vbd::map(&self.image, format, &mut |entry| {
            note_reader(sink.entry(&mut out, entry))
        });
        let ended = mapped.map_err(Failure::from).and_then(|()| {
            let ended = note_reader(sink.end(&mut out));
            ended.map_err(|error| Failure::new("cannot write to stdout").because(error))
        });
        // What is in the buffer must not follow an error.
        let _ = out.into_parts();
        match ended {
            Err(_) if reader_left => Ok(ExitCode::SUCCESS),
            ended => ended.map(|()| ExitCode::SUCCESS),
        }
    }
}

/// Writes entries, one on each line.
#[derive(Debug)]
struct Sink {
    json: bool,
    entries: u64,
}

impl Sink {
    fn entry(&mut self, out: &mut impl Write, entry: MapEntry) -> io::Result<()> {
        let is_first = self.entries == 0;
        self.entries += 1;
        if self.json {
            out.write_all(if is_first { b"[" } else { b",\n" })?;
            return Ok(serde_json::to_writer(out, &entry)?);
        }
        if is_first {
            writeln!(out, "{:>16}  {:>16}  {:4}  {:>16}", "START", "LENGTH", "KIND", "OFFSET")?;
        }
        let offset = entry.offset.map_or("-".to_owned(), |offset| offset.to_string());
        let (start, length, kind) = (entry.start, entry.length, word(entry.kind));
        writeln!(out, "{start:>16}  {length:>16}  {kind:4}  {offset:>16}")
    }

    fn end(&self, out: &mut impl Write) -> io::Result<()> {
        if self.json {
            // A disk has at least one sector, so there was an entry.
            out.write_all(b"]\n")?;
        }
        out.flush()
    }
}

fn word(kind: ExtentKind) -> &'static str {
    match kind {
        ExtentKind::Data => "data",
        ExtentKind::Zero => "zero",
        ExtentKind::Hole => "hole",
        ExtentKind::Bad => "bad",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(start: u64, kind: ExtentKind, offset: Option<u64>) -> MapEntry {
        MapEntry {
            start,
            length: 4096,
            depth: 0,
            present: true,
            zero: kind == ExtentKind::Hole,
            data: kind == ExtentKind::Data,
            kind,
            offset,
        }
    }

    fn written(json: bool) -> String {
        let mut out = Vec::new();
        let mut sink = Sink { json, entries: 0 };
        for entry in [
            entry(0, ExtentKind::Data, Some(8192)),
            entry(4096, ExtentKind::Hole, None),
        ] {
            sink.entry(&mut out, entry).unwrap();
        }
        sink.end(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn people_get_a_table() {
        insta::assert_snapshot!(written(false), @r"
                   START            LENGTH  KIND            OFFSET
                       0              4096  data              8192
                    4096              4096  hole                 -
        ");
    }

    #[test]
    fn programs_get_the_keys_of_qemu() {
        insta::assert_snapshot!(written(true), @r#"
        [{"start":0,"length":4096,"depth":0,"present":true,"zero":false,"data":true,"kind":"data","offset":8192},
        {"start":4096,"length":4096,"depth":0,"present":true,"zero":true,"data":false,"kind":"hole"}]
        "#);
    }
}
