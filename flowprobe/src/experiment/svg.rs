//! Line plots as SVG that stands alone, inside a page or as a file, in light and in dark.

use std::fmt::Write as _;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 380.0;
/// Where the axes are.
const LEFT: f64 = 70.0;
const RIGHT: f64 = 500.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 320.0;
/// How far the lines of a plot are apart, from left to right.
const ASIDE: f64 = 7.0;

/// How values are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// By decades; what is 0, or far below the rest, is drawn on the axis.
    Decades,
    /// From 0 to 100 %.
    Percent,
}

/// A value with what its bar reaches.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

/// A line.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) name: String,
    pub(super) points: Vec<Point>,
    /// A dashed line beside it.
    pub(super) theory: Vec<(f64, f64)>,
}

/// A plot. Values are in percent.
#[derive(Clone, Debug)]
pub(super) struct Plot {
    pub(super) id: String,
    pub(super) title: String,
    /// What is seen, for those who do not see it.
    pub(super) description: String,
    pub(super) x_label: String,
    pub(super) y_label: String,
    pub(super) ticks: Vec<(f64, String)>,
    pub(super) scale: Scale,
    pub(super) series: Vec<Series>,
    /// A line across, and what it is.
    pub(super) limit: Option<(f64, String)>,
}

/// Colours that keep their distance for all kinds of sight (Okabe and Ito), light then dark.
const COLOURS: [(&str, &str); 6] = [
    ("#0072b2", "#56b4e9"),
    ("#b34700", "#e69f00"),
    ("#00795a", "#3fcf9f"),
    ("#a0417a", "#e08fc0"),
    ("#555555", "#bbbbbb"),
    ("#7a6a00", "#f0e442"),
];

/// The style of all plots; a page has it once.
pub(super) fn style() -> String {
    let mut light = String::new();
    let mut dark = String::new();
    for (i, (by_day, by_night)) in COLOURS.iter().enumerate() {
        let _ = write!(light, ".plot .s{i}{{color:{by_day}}}");
        let _ = write!(dark, ".plot .s{i}{{color:{by_night}}}");
    }
    format!(
        ".plot{{font:13px system-ui,sans-serif;color:#1a1a1a;background:#fff}}\
         .plot text{{fill:#1a1a1a}}.plot .title{{font-size:15px;font-weight:600}}\
         .plot .axis{{stroke:#1a1a1a}}.plot .grid{{stroke:#d5d5d5}}\
         .plot .line{{fill:none;stroke:currentColor;stroke-width:2}}\
         .plot .theory{{fill:none;stroke:currentColor;stroke-width:1.5;stroke-dasharray:5 4}}\
         .plot .bar{{stroke:currentColor;stroke-width:1}}.plot .mark{{fill:currentColor}}\
         .plot .limit{{stroke:#c00;stroke-dasharray:2 3}}{light}\
         @media (max-width:40rem){{.plot text{{font-size:16px}}.plot .title{{font-size:18px}}}}\
         @media (prefers-color-scheme:dark){{.plot{{color:#eee;background:#161616}}\
         .plot text{{fill:#eee}}.plot .axis{{stroke:#eee}}.plot .grid{{stroke:#3a3a3a}}\
         .plot .limit{{stroke:#f66}}{dark}}}"
    )
}

/// Text inside markup.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

impl Plot {
    /// As a file of its own.
    pub(super) fn file(&self) -> String {
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{}\n",
            self.markup(&format!("<style>{}</style>", style()))
        )
    }

    /// As a part of a page that has [`style`].
    pub(super) fn inline(&self) -> String {
        self.markup("")
    }

    fn markup(&self, style: &str) -> String {
        let id = &self.id;
        let axes = Axes::of(self);
        let mut text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"plot\" id=\"{id}\" \
             viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
             aria-labelledby=\"{id}-title {id}-text\">{style}\
             <title id=\"{id}-title\">{}</title><desc id=\"{id}-text\">{}</desc>\
             <text class=\"title\" x=\"{LEFT}\" y=\"22\">{}</text>",
            escaped(&self.title),
            escaped(&self.description),
            escaped(&self.title),
        );
        self.frame(&axes, &mut text);
        for (i, series) in self.series.iter().enumerate() {
            // Side by side, since values of several methods are often the same.
            let aside = i as f64 - (self.series.len() - 1) as f64 / 2.0;
            draw(series, i, aside * ASIDE, &axes, &mut text);
        }
        self.legend(&mut text);
        text.push_str("</svg>");
        text
    }

    /// Axes with ticks and labels, and the line across.
    fn frame(&self, axes: &Axes, text: &mut String) {
        for (value, label) in axes.y_ticks() {
            let y = axes.y(value);
            let _ = write!(
                text,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                LEFT - 8.0,
                y + 4.0
            );
        }
        for (value, label) in &self.ticks {
            let x = axes.x(*value);
            let _ = write!(
                text,
                "<line class=\"axis\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{BOTTOM}\" y2=\"{:.1}\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                BOTTOM + 5.0,
                BOTTOM + 20.0,
                escaped(label)
            );
        }
        let _ = write!(
            text,
            "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{BOTTOM}\" y2=\"{BOTTOM}\"/>\
             <line class=\"axis\" x1=\"{LEFT}\" x2=\"{LEFT}\" y1=\"{TOP}\" y2=\"{BOTTOM}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text transform=\"translate(16 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            f64::midpoint(LEFT, RIGHT),
            BOTTOM + 44.0,
            escaped(&self.x_label),
            f64::midpoint(TOP, BOTTOM),
            escaped(&self.y_label),
        );
        if let Some((value, _)) = &self.limit {
            let y = axes.y(*value);
            let _ = write!(
                text,
                "<line class=\"limit\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>"
            );
        }
    }

    fn legend(&self, text: &mut String) {
        let x = RIGHT + 16.0;
        let mut y = TOP + 10.0;
        let mut entry = |class: &str, sample: &str, name: &str| {
            let _ = write!(
                text,
                "<g class=\"{class}\"><line class=\"{sample}\" x1=\"{x}\" x2=\"{:.1}\" \
                 y1=\"{y:.1}\" y2=\"{y:.1}\"/>",
                x + 24.0
            );
            if let Some(shape) = class.strip_prefix('s').and_then(|i| i.parse().ok()) {
                text.push_str(&mark(shape, x + 12.0, y));
            }
            let _ = write!(
                text,
                "<text x=\"{:.1}\" y=\"{:.1}\">{}</text></g>",
                x + 30.0,
                y + 4.0,
                escaped(name)
            );
            y += 22.0;
        };
        for (i, series) in self.series.iter().enumerate() {
            entry(&format!("s{}", i % COLOURS.len()), "line", &series.name);
        }
        if self.series.iter().any(|series| !series.theory.is_empty()) {
            entry("", "theory", "theory");
        }
        if let Some((_, name)) = &self.limit {
            entry("", "limit", name);
        }
    }
}

fn draw(series: &Series, number: usize, aside: f64, axes: &Axes, text: &mut String) {
    let path = |points: &mut dyn Iterator<Item = (f64, f64)>| {
        let points = points.map(|(x, y)| format!("{:.1},{:.1}", axes.x(x) + aside, axes.y(y)));
        points.collect::<Vec<_>>().join(" ")
    };
    let _ = write!(text, "<g class=\"s{}\">", number % COLOURS.len());
    if !series.theory.is_empty() {
        let line = path(&mut series.theory.iter().copied());
        let _ = write!(text, "<polyline class=\"theory\" points=\"{line}\"/>");
    }
    let line = path(&mut series.points.iter().map(|point| (point.x, point.y)));
    let _ = write!(text, "<polyline class=\"line\" points=\"{line}\"/>");
    for point in &series.points {
        let x = axes.x(point.x) + aside;
        let _ = write!(
            text,
            "<line class=\"bar\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>",
            axes.y(point.low),
            axes.y(point.high)
        );
        text.push_str(&mark(number, x, axes.y(point.y)));
    }
    text.push_str("</g>");
}

/// A mark: each line has a shape of its own, so that colour is not all that tells them apart.
fn mark(shape: usize, x: f64, y: f64) -> String {
    let path = match shape % 6 {
        0 => return format!("<circle class=\"mark\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"/>"),
        1 => "-4,-4 4,-4 4,4 -4,4",
        2 => "0,-5 5,4 -5,4",
        3 => "0,-5.5 5.5,0 0,5.5 -5.5,0",
        4 => "-5,-4 5,-4 0,5",
        _ => "-6,-2 6,-2 6,2 -6,2",
    };
    format!("<polygon class=\"mark\" transform=\"translate({x:.1} {y:.1})\" points=\"{path}\"/>")
}

/// Where values are on the page.
struct Axes {
    scale: Scale,
    x: (f64, f64),
    /// Decades, or percent.
    y: (f64, f64),
}

impl Axes {
    /// Decades at most below the largest value.
    const DEPTH: f64 = 5.0;

    fn of(plot: &Plot) -> Self {
        let xs = || plot.ticks.iter().map(|(x, _)| *x);
        let least = xs().fold(f64::INFINITY, f64::min);
        let most = xs().fold(f64::NEG_INFINITY, f64::max);
        // Room on both sides, and for a single value.
        let room = ((most - least) * 0.06).max(0.25);
        let y = match plot.scale {
            Scale::Percent => (0.0, 100.0),
            Scale::Decades => plot.decades(),
        };
        Self {
            scale: plot.scale,
            x: (least - room, most + room),
            y,
        }
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + (value - self.x.0) / (self.x.1 - self.x.0) * (RIGHT - LEFT)
    }

    fn y(&self, value: f64) -> f64 {
        let value = match self.scale {
            Scale::Percent => value,
            Scale::Decades => value.max(1e-300).log10(),
        };
        let part = (value - self.y.0) / (self.y.1 - self.y.0);
        BOTTOM - part.clamp(0.0, 1.0) * (BOTTOM - TOP)
    }

    fn y_ticks(&self) -> Vec<(f64, String)> {
        match self.scale {
            Scale::Percent => (0..=5)
                .map(|i| (f64::from(i) * 20.0, (i * 20).to_string()))
                .collect(),
            Scale::Decades => (self.y.0 as i32..=self.y.1 as i32)
                .map(|decade| {
                    let value = 10_f64.powi(decade);
                    let label = match decade {
                        -2..=3 => format!("{value}"),
                        decade => format!("10{}", raised(decade)),
                    };
                    (value, label)
                })
                .collect(),
        }
    }
}

/// A number as an exponent.
fn raised(number: i32) -> String {
    let raise = |digit: char| match digit.to_digit(10) {
        Some(digit) => ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'][digit as usize],
        None => '⁻',
    };
    number.to_string().chars().map(raise).collect()
}

impl Plot {
    /// Whole decades around all values.
    fn decades(&self) -> (f64, f64) {
        let points = self.series.iter().flat_map(|series| {
            let measured = series.points.iter().flat_map(|p| [p.y, p.low, p.high]);
            measured.chain(series.theory.iter().map(|(_, y)| *y))
        });
        let limit = self.limit.iter().map(|(value, _)| *value);
        let logs: Vec<f64> = points
            .chain(limit)
            .filter(|value| *value > 0.0 && value.is_finite())
            .map(f64::log10)
            .collect();
        let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if !most.is_finite() {
            return (-1.0, 2.0);
        }
        let least = logs.iter().copied().fold(f64::INFINITY, f64::min);
        let top = most.ceil();
        let bottom = least.floor().max(top - Axes::DEPTH);
        (bottom.min(top - 1.0), top)
    }
}
