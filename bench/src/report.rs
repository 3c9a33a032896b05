//! What a measured figure looks like: on the terminal as a table, on disk as `figures.json`.

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
    /// Unit of both values; higher is better.
    pub unit: String,
    /// What the peer is.
    pub peer: String,
    /// The peer's median.
    pub peer_value: f64,
    /// Median of the rounds' own ratios, ours to the peer's.
    pub ratio: f64,
    /// The least ratio that this project promises.
    pub bar: f64,
    /// All rounds: ours, the peer's.
    pub samples: Vec<(f64, f64)>,
    /// Conditions.
    pub note: String,
}

impl Result {
    /// The result of the rounds in `ours` and `theirs`.
    pub fn new(figure: &dyn Figure, ours: Vec<f64>, theirs: Vec<f64>) -> Self {
        let samples: Vec<(f64, f64)> = ours.iter().copied().zip(theirs.iter().copied()).collect();
        Result {
            name: figure.name().into(),
            value: median(ours),
            unit: figure.unit().into(),
            peer: figure.peer().into(),
            peer_value: median(theirs),
            ratio: median(samples.iter().map(|(a, b)| a / b).collect()),
            bar: figure.bar(),
            samples,
            note: figure.note(),
        }
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
        "{:<16} {:>10} {:<14} {:>10}  {:<34} {:>6} {:>6}",
        "figure", "ours", "unit", "peer", "", "ratio", "bar"
    )?;
    for r in results {
        let mark = if r.ratio >= r.bar { "" } else { "  below its bar" };
        writeln!(
            out,
            "{:<16} {:>10.2} {:<14} {:>10.2}  {:<34} {:>5.2}x {:>5.2}x{mark}",
            r.name, r.value, r.unit, r.peer_value, r.peer, r.ratio, r.bar
        )?;
    }
    Ok(())
}

/// Writes `figures.json` into `dir`.
pub fn json(results: &[Result], dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let text = serde_json::to_string_pretty(results)?;
    std::fs::write(dir.join("figures.json"), text + "\n")
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn median_of_odd_even_and_none() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(vec![]), 0.0);
    }
}
