//! What a measured figure looks like: on the terminal as a table; on disk as `figures.json`, the raw numbers of each
//! figure as `NAME.json`, and plots as SVG.

use std::io::Write;
use std::path::Path;

use serde::Serialize;

use crate::Figure;

/// A measured figure: medians of interleaved rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Result {
    /// Name of the figure.
    pub name: String,
    /// Our median.
    pub value: f64,
    /// Unit of both values.
    pub unit: String,
    /// What the peer is, or the limit that the value is held against.
    pub peer: String,
    /// The peer's median.
    pub peer_value: f64,
    /// Median of the rounds' own ratios, so taken that more is better.
    pub ratio: f64,
    /// The least ratio that this project promises; 0 where it only reports.
    pub bar: f64,
    /// All rounds: ours, the peer's.
    pub samples: Vec<(f64, f64)>,
    /// Conditions.
    pub note: String,
}

/// Whether more of a unit is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// Speed, success.
    More,
    /// Cost, memory, delay.
    Less,
}

/// A figure with what is worth keeping beside its result.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The result.
    pub result: Result,
    /// Raw numbers, for `NAME.json`.
    pub raw: serde_json::Value,
    /// Plots: what follows the figure's name in the file's name, and the SVG.
    pub plots: Vec<(&'static str, String)>,
}

impl Result {
    /// The result of the rounds in `ours` and `theirs`.
    pub fn new(figure: &dyn Figure, ours: Vec<f64>, theirs: Vec<f64>) -> Self {
        Result::of(figure.name(), figure.unit(), figure.peer(), Better::More, figure.bar(), &ours, &theirs)
            .noting(figure.note())
    }

    /// The result of rounds, value by value.
    pub fn of(
        name: &str,
        unit: &str,
        peer: &str,
        better: Better,
        bar: f64,
        ours: &[f64],
        theirs: &[f64],
    ) -> Self {
        let samples: Vec<(f64, f64)> = ours.iter().copied().zip(theirs.iter().copied()).collect();
        let ratio = |&(a, b): &(f64, f64)| if better == Better::More { a / b } else { b / a };
        Result {
            name: name.into(),
            value: median(ours.to_vec()),
            unit: unit.into(),
            peer: peer.into(),
            peer_value: median(theirs.to_vec()),
            ratio: median(samples.iter().map(ratio).collect()),
            bar,
            samples,
            note: String::new(),
        }
    }

    /// The same with conditions.
    pub fn noting(mut self, note: String) -> Self {
        self.note = note;
        self
    }

    /// Whether the bar is held.
    pub fn holds(&self) -> bool {
        self.ratio >= self.bar
    }
}

/// The middle value; the mean of the two middle ones of an even number; 0 of none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

/// Writes the results as a table.
pub fn table(results: &[Result], out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(
        out,
        "{:<20} {:>10} {:<16} {:>10}  {:<34} {:>6} {:>6}",
        "figure", "ours", "unit", "peer", "", "ratio", "bar"
    )?;
    for r in results {
        let (bar, mark) = match r.bar {
            0.0 => (String::new(), ""),
            bar => (format!("{bar:.2}x"), if r.holds() { "" } else { "  below its bar" }),
        };
        writeln!(
            out,
            "{:<20} {:>10} {:<16} {:>10}  {:<34} {:>5.2}x {:>6}{mark}",
            r.name,
            plain(r.value),
            r.unit,
            plain(r.peer_value),
            r.peer,
            r.ratio,
            bar
        )?;
    }
    Ok(())
}

/// A number with as many digits as one reads.
fn plain(value: f64) -> String {
    if value.abs() >= 1000.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

/// Writes `figures.json` into `dir`.
pub fn json(results: &[Result], dir: &Path) -> std::io::Result<()> {
    write_json(&results, &dir.join("figures.json"))
}

/// Writes raw numbers and plots of a figure into `dir`.
pub fn details(measured: &Measured, dir: &Path) -> std::io::Result<()> {
    let name = &measured.result.name;
    write_json(&measured.raw, &dir.join(format!("{name}.json")))?;
    for (part, svg) in &measured.plots {
        std::fs::write(dir.join(format!("{name}{part}.svg")), svg)?;
    }
    Ok(())
}

fn write_json(value: &impl Serialize, path: &Path) -> std::io::Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::write(path, serde_json::to_string_pretty(value)? + "\n")
}

#[cfg(test)]
mod tests {
    use super::{Better, Result, median};

    #[test]
    fn median_of_odd_even_and_none() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(vec![]), 0.0);
    }

    #[test]
    fn a_ratio_is_better_when_it_is_more() {
        let of = |better| Result::of("n", "u", "p", better, 1.5, &[2.0, 4.0, 4.0], &[4.0, 8.0, 8.0]);
        assert_eq!((of(Better::More).ratio, of(Better::More).holds()), (0.5, false));
        assert_eq!((of(Better::Less).ratio, of(Better::Less).holds()), (2.0, true));
    }
}
