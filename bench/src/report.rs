//! What a benchmark found, as table and as JSON.

use anyhow::{Context, Result};
use clap::Args;
use comfy_table::{CellAlignment, ContentArrangement, LineStyle, Table, presets};
use serde::Serialize;
use serde_json::{Value, json};

use crate::stats::{Summary, Unit};

/// Who is compared with the others.
pub const BERTH: &str = "berth";
/// Columns of a terminal everybody has.
const WIDTH: u16 = 80;

/// Where to write the figures.
#[derive(Debug, Clone, Args)]
pub struct Output {
    /// Write all figures as JSON to this file; `-` writes them to standard output and the table to standard error
    #[arg(long, value_name = "FILE")]
    pub json: Option<String>,
}

/// One measure of one subject, over all runs.
#[derive(Debug, Clone, Serialize)]
struct Series {
    measure: &'static str,
    subject: String,
    unit: Unit,
    values: Vec<f64>,
}

/// What a benchmark found.
#[derive(Debug)]
pub struct Report {
    benchmark: &'static str,
    facts: Vec<(&'static str, Value)>,
    series: Vec<Series>,
}

impl Report {
    /// Nothing so far; notes on what machine and when.
    pub fn new(benchmark: &'static str) -> Self {
        let mut report = Self { benchmark, facts: Vec::new(), series: Vec::new() };
        report.fact("date", jiff::Timestamp::now().to_string());
        report.fact("kernel", rustix::system::uname().release().to_string_lossy());
        report.fact("cpus", std::thread::available_parallelism().map_or(1, usize::from));
        report
            .fact("place", if std::env::var_os("BERTH_LAB").is_some() { "lab (software emulation)" } else { "direct" });
        report.fact("load at the start", load());
        report
    }

    /// Notes something that the reader of the figures must know.
    pub fn fact(&mut self, name: &'static str, value: impl Serialize) {
        let value = serde_json::to_value(value).unwrap_or_default();
        self.facts.push((name, value));
    }

    /// Adds the figure of one run.
    pub fn add(&mut self, measure: &'static str, subject: &str, unit: Unit, value: f64) {
        let found = self.series.iter_mut().find(|series| series.measure == measure && series.subject == subject);
        match found {
            Some(series) => series.values.push(value),
            None => self.series.push(Series { measure, subject: subject.to_owned(), unit, values: vec![value] }),
        }
    }

    /// Ends the benchmark: shows the table, and writes the file if one is wanted.
    pub fn finish(mut self, output: &Output) -> Result<()> {
        self.fact("load at the end", load());
        let json = || serde_json::to_string_pretty(&self.json()).context("cannot write the figures as JSON");
        match output.json.as_deref() {
            None => println!("{}", self.table()),
            Some("-") => {
                eprintln!("{}", self.table());
                println!("{}", json()?);
            }
            Some(file) => {
                println!("{}", self.table());
                std::fs::write(file, json()? + "\n").with_context(|| format!("cannot write {file}"))?;
            }
        }
        Ok(())
    }

    /// Berth's median over a peer's, for each measure that both have.
    fn ratios(&self) -> Vec<(&'static str, &str, f64)> {
        let own: Vec<_> = self.series.iter().filter(|series| series.subject == BERTH).collect();
        let peers = self.series.iter().filter(|series| series.subject != BERTH);
        peers
            .filter_map(|peer| {
                let own = own.iter().find(|own| own.measure == peer.measure)?;
                let (own, other) = (Summary::of(&own.values)?, Summary::of(&peer.values)?);
                (other.median > 0.0).then(|| (peer.measure, peer.subject.as_str(), own.median / other.median))
            })
            .collect()
    }

    fn table(&self) -> String {
        let facts: Vec<_> = self.facts.iter().map(|(name, value)| format!("{name}: {}", plain(value))).collect();
        let mut figures = table(&["measure", "of", "runs", "median", "min", "max"]);
        // The same measure of all subjects side by side.
        let mut measures: Vec<&str> = Vec::new();
        for series in &self.series {
            if !measures.contains(&series.measure) {
                measures.push(series.measure);
            }
        }
        for series in measures.iter().flat_map(|name| self.series.iter().filter(move |series| series.measure == *name))
        {
            let Some(Summary { median, min, max }) = Summary::of(&series.values) else { continue };
            let show = |value| series.unit.show(value);
            let runs = series.values.len().to_string();
            figures.add_row([series.measure, &series.subject, &runs, &show(median), &show(min), &show(max)]);
        }
        let mut text = format!("{}\n{}", facts.join("\n"), figures);
        let ratios = self.ratios();
        if !ratios.is_empty() {
            let mut table = table(&["berth over", "measure", "ratio of medians"]);
            for (measure, peer, ratio) in ratios {
                table.add_row([peer, measure, &format!("{ratio:.2}")]);
            }
            text += &format!("\n{table}");
        }
        text
    }

    fn json(&self) -> Value {
        let facts: serde_json::Map<_, _> =
            self.facts.iter().map(|(name, value)| (name.replace(' ', "_"), value.clone())).collect();
        let results: Vec<_> = self
            .series
            .iter()
            .map(|series| {
                json!({
                    "measure": series.measure, "subject": series.subject, "unit": series.unit,
                    "summary": Summary::of(&series.values), "values": series.values,
                })
            })
            .collect();
        let ratios: Vec<_> = self
            .ratios()
            .into_iter()
            .map(|(measure, peer, ratio)| {
                json!({
                    "measure": measure, "peer": peer, "ratio": ratio,
                })
            })
            .collect();
        json!({ "benchmark": self.benchmark, "facts": facts, "results": results, "ratios": ratios })
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none())).set_width(WIDTH);
    table.set_content_arrangement(ContentArrangement::Dynamic).set_header(header.to_vec());
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The machine's load: figures of a busy one are worth less.
fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::new("test");
        for (own, peer) in [(10.0, 20.0), (11.0, 20.5), (90.0, 30.0)] {
            report.add("start", BERTH, Unit::Milliseconds, own);
            report.add("start", "peer", Unit::Milliseconds, peer);
            report.add("memory", BERTH, Unit::Mebibytes, own);
        }
        report
    }

    #[test]
    fn ratios_are_of_medians_and_of_what_both_have() {
        assert_eq!(report().ratios(), [("start", "peer", 11.0 / 20.5)]);
    }

    #[test]
    fn the_table_fits_and_holds_all_figures() {
        let mut report = report();
        report.add("from the process to the first program", "qemu microvm", Unit::Milliseconds, 123_456.7);
        let text = report.table();
        assert!(text.lines().all(|line| line.chars().count() <= usize::from(WIDTH)), "{text}");
        for figure in ["11.0 ms", "90.0 ms", "20.5 ms", "11.0 MiB", "123457 ms", "0.54", "load at the start"] {
            assert!(text.contains(figure), "{figure} is missing:\n{text}");
        }
    }

    #[test]
    fn json_has_every_run() {
        let json = report().json();
        assert_eq!(json["results"][0]["values"], json!([10.0, 11.0, 90.0]));
        assert_eq!(json["results"][0]["summary"]["median"], 11.0);
        assert_eq!(json["ratios"][0]["peer"], "peer");
        assert!(json["facts"]["load_at_the_start"].is_string());
    }
}
