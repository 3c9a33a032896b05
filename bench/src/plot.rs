//! Plots as SVG: lines over a numeric axis, and bars in groups. Just enough for a report; no fonts, no scripts.

use std::fmt::Write;

/// Colours of contestants, the first is ours.
const COLOURS: [&str; 8] =
    ["#1a7f37", "#8250df", "#bc4c00", "#0969da", "#cf222e", "#6e7781", "#b35900", "#1b7c83"];
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 48.0;
const BOTTOM: f64 = 56.0;

/// One line or one colour of bars.
#[derive(Clone, Debug)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// Its points (`x`, `y`); for bars `x` is the group's number.
    pub points: Vec<(f64, f64)>,
}

/// What a plot says.
#[derive(Clone, Debug)]
pub struct Chart {
    /// Above the plot.
    pub title: String,
    /// Below the horizontal axis.
    pub x: String,
    /// Beside the vertical axis.
    pub y: String,
    /// The vertical axis shows powers of ten.
    pub logarithmic: bool,
    /// Lines or bars.
    pub series: Vec<Series>,
}

impl Chart {
    /// The plot as lines with a mark at each point.
    pub fn lines(&self) -> String {
        let left = self.points().map(|p| p.0).fold(f64::INFINITY, f64::min).min(0.0);
        let right = self.points().map(|p| p.0).fold(1e-9, f64::max);
        let place = |x: f64| LEFT + (x - left) / (right - left) * (WIDTH - LEFT - RIGHT);
        let mut svg = self.frame();
        for tick in ticks(left, right) {
            self.x_label(&mut svg, place(tick), 0.0, &number(tick));
        }
        for (series, colour) in self.series.iter().zip(COLOURS) {
            let points: Vec<String> = series
                .points
                .iter()
                .map(|&(x, y)| format!("{:.1},{:.1}", place(x), self.height_of(y)))
                .collect();
            let _ = writeln!(
                svg,
                r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"/>"#,
                points.join(" ")
            );
            for point in &points {
                let (x, y) = point.split_once(',').unwrap_or(("0", "0"));
                let _ = writeln!(svg, r#"<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>"#);
            }
        }
        svg + "</svg>\n"
    }

    /// The plot as bars, one group per name in `groups`.
    pub fn bars(&self, groups: &[&str]) -> String {
        let mut svg = self.frame();
        let room = (WIDTH - LEFT - RIGHT) / groups.len().max(1) as f64;
        let width = room * 0.8 / self.series.len().max(1) as f64;
        // Many groups: their names take turns between two lines, and bars go without their numbers.
        let crowded = groups.len() > 8;
        for (index, group) in groups.iter().enumerate() {
            let lower = if crowded && index % 2 == 1 { 13.0 } else { 0.0 };
            self.x_label(&mut svg, LEFT + room * (index as f64 + 0.5), lower, group);
        }
        let bottom = HEIGHT - BOTTOM;
        for ((nth, series), colour) in self.series.iter().enumerate().zip(COLOURS) {
            for &(group, y) in &series.points {
                let (x, top) = (LEFT + room * (group + 0.1) + width * nth as f64, self.height_of(y));
                let _ = writeln!(
                    svg,
                    r#"<rect x="{x:.1}" y="{top:.1}" width="{:.1}" height="{:.1}" fill="{colour}"/>"#,
                    width * 0.95,
                    (bottom - top).max(0.5),
                );
                if crowded && self.series.len() > 1 {
                    continue;
                }
                let _ = writeln!(
                    svg,
                    r#"<text x="{:.1}" y="{:.1}" font-size="10" text-anchor="middle">{}</text>"#,
                    x + width / 2.0,
                    top - 3.0,
                    number(y)
                );
            }
        }
        svg + "</svg>\n"
    }

    fn points(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        self.series.iter().flat_map(|series| series.points.iter().copied())
    }

    /// Lowest and highest value of the vertical axis.
    fn range(&self) -> (f64, f64) {
        let high = self.points().map(|p| p.1).fold(1e-9, f64::max) * 1.05;
        if !self.logarithmic {
            return (0.0, high);
        }
        let low = self.points().map(|p| p.1).filter(|y| *y > 0.0).fold(high, f64::min);
        (10_f64.powf(low.log10().floor()), 10_f64.powf(high.log10().ceil()))
    }

    /// Where a value lies, from the top.
    fn height_of(&self, y: f64) -> f64 {
        let (low, high) = self.range();
        let share = match self.logarithmic {
            true => (y.max(low).log10() - low.log10()) / (high.log10() - low.log10()),
            false => (y - low) / (high - low),
        };
        HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
    }

    /// Everything but the data.
    fn frame(&self) -> String {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
             <text x=\"{LEFT}\" y=\"18\" font-size=\"14\" font-weight=\"bold\">{}</text>\n",
            escape(&self.title)
        );
        let (low, high) = self.range();
        let ticks = match self.logarithmic {
            true => powers(low, high),
            false => ticks(low, high),
        };
        for tick in ticks {
            let y = self.height_of(tick);
            let _ = writeln!(
                svg,
                r##"<line x1="{LEFT}" x2="{}" y1="{y:.1}" y2="{y:.1}" stroke="#d0d7de"/><text x="{}" y="{:.1}" text-anchor="end">{}</text>"##,
                WIDTH - RIGHT,
                LEFT - 6.0,
                y + 4.0,
                number(tick)
            );
        }
        let _ = writeln!(
            svg,
            r#"<text x="{}" y="{}" text-anchor="middle">{}</text><text transform="translate(14 {}) rotate(-90)" text-anchor="middle">{}</text>"#,
            (WIDTH + LEFT - RIGHT) / 2.0,
            HEIGHT - 10.0,
            escape(&self.x),
            (HEIGHT + TOP - BOTTOM) / 2.0,
            escape(&self.y)
        );
        let mut x = LEFT;
        for (series, colour) in self.series.iter().zip(COLOURS) {
            let _ = writeln!(
                svg,
                r#"<rect x="{x:.0}" y="28" width="10" height="10" fill="{colour}"/><text x="{:.0}" y="37">{}</text>"#,
                x + 14.0,
                escape(&series.name)
            );
            x += 28.0 + 6.6 * series.name.chars().count() as f64;
        }
        svg
    }

    fn x_label(&self, svg: &mut String, x: f64, lower: f64, text: &str) {
        let _ = writeln!(
            svg,
            r#"<text x="{x:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
            HEIGHT - BOTTOM + 15.0 + lower,
            escape(text)
        );
    }
}

/// Plots one under the other in one picture.
pub fn stack(plots: &[String]) -> String {
    let height = HEIGHT * plots.len() as f64;
    let mut svg = format!("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\">\n");
    for (number, plot) in plots.iter().enumerate() {
        let place = format!("<svg y=\"{}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" ", HEIGHT * number as f64);
        svg += &plot.replacen("<svg ", &place, 1);
    }
    svg + "</svg>\n"
}

/// About five round numbers that cover a range.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let rough = (high - low) / 5.0;
    let power = 10_f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].map(|n| n * power).into_iter().find(|step| *step >= rough).unwrap_or(rough);
    let first = (low / step).ceil() as i64;
    (first..).map(|n| n as f64 * step).take_while(|tick| *tick <= high).collect()
}

fn powers(low: f64, high: f64) -> Vec<f64> {
    (low.log10() as i32..=high.log10() as i32).map(|power| 10_f64.powi(power)).collect()
}

/// A number as one writes it on an axis.
fn number(value: f64) -> String {
    match value.abs() {
        n if n >= 1e6 => format!("{} M", short(value / 1e6)),
        n if n >= 1e4 => format!("{} k", short(value / 1e3)),
        _ => short(value),
    }
}

fn short(value: f64) -> String {
    let decimals = match value.abs() {
        n if n >= 100.0 => 0,
        n if n >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(logarithmic: bool) -> Chart {
        let series = |name: &str, factor: f64| Series {
            name: name.into(),
            points: vec![(0.0, factor), (1.0, 10.0 * factor), (2.0, 400.0 * factor)],
        };
        Chart {
            title: "a < b & c".into(),
            x: "x".into(),
            y: "y".into(),
            logarithmic,
            series: vec![series("ours", 1.0), series("theirs", 3.0)],
        }
    }

    #[test]
    fn higher_values_stand_higher_and_inside() {
        for logarithmic in [false, true] {
            let chart = chart(logarithmic);
            let heights: Vec<f64> = [1.0, 10.0, 400.0, 1200.0].map(|y| chart.height_of(y)).to_vec();
            assert!(heights.windows(2).all(|pair| pair[0] > pair[1]), "{heights:?}");
            assert!(heights.iter().all(|y| (TOP..=HEIGHT - BOTTOM).contains(y)), "{heights:?}");
        }
    }

    #[test]
    fn every_point_and_name_is_drawn_and_text_is_escaped() {
        let lines = chart(true).lines();
        assert_eq!(lines.matches("<circle").count(), 6);
        assert!(
            lines.contains("a &lt; b &amp; c") && lines.contains("theirs") && lines.ends_with("</svg>\n")
        );
        assert_eq!(chart(false).bars(&["p", "q", "r"]).matches("<rect").count(), 1 + 2 + 6);
    }

    #[test]
    fn stacked_plots_are_all_there() {
        let plot = chart(true).lines();
        let both = stack(&[plot.clone(), plot]);
        assert_eq!((both.matches("<svg ").count(), both.matches("</svg>").count()), (3, 3));
        assert!(both.contains("<svg y=\"400\""));
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            ["0", "0.25", "12.5", "30 k", "1.5 M"],
            [0.0, 0.25, 12.5, 30_000.0, 1.5e6].map(number).map(|s| s).each_ref().map(String::as_str)
        );
    }

    #[test]
    fn ticks_cover_the_range() {
        assert_eq!(ticks(0.0, 10.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(powers(1.0, 1000.0), [1.0, 10.0, 100.0, 1000.0]);
    }
}
