//! Servers that take turns under one load, and what each of them did in every round.

use super::TAPDISK;
use super::load::Sample;
use super::report::Report;

/// The samples of one load, by server, in the order in which servers first came.
#[derive(Debug)]
pub(super) struct Turns {
    load: &'static str,
    servers: Vec<(&'static str, Vec<Sample>)>,
}

impl Turns {
    pub(super) fn new(load: &'static str) -> Turns {
        Turns {
            load,
            servers: Vec::new(),
        }
    }

    /// Keeps a sample, and shows it.
    pub(super) fn add(&mut self, server: &'static str, sample: Sample) {
        let at = self.servers.iter().position(|(name, _)| *name == server);
        let at = at.unwrap_or_else(|| {
            self.servers.push((server, Vec::new()));
            self.servers.len() - 1
        });
        let samples = &mut self.servers[at].1;
        samples.push(sample);
        println!(
            "{} {:>2}  {server:<24} {:>7.2} µs CPU/I/O {:>9.0} IOPS",
            self.load,
            samples.len(),
            sample.cpu_us,
            sample.iops
        );
    }

    /// One figure of each round.
    pub(super) fn each(&self, server: &str, figure: impl Fn(&Sample) -> f64) -> Vec<f64> {
        let found = self.servers.iter().find(|(name, _)| *name == server);
        found.map_or_else(Vec::new, |(_, samples)| samples.iter().map(figure).collect())
    }

    /// A row for each server, and one for tapdisk in any case.
    pub(super) fn report(&self, report: &mut Report, without_tapdisk: bool) {
        for (server, samples) in &self.servers {
            report.server(server, self.load, samples);
        }
        if without_tapdisk {
            report.absent(TAPDISK, self.load);
        }
    }
}
