//! Figures draw what can be drawn, say what cannot, and give the same bytes again.

use conditioned_report::curves::{self, Curve};
use conditioned_report::drawing::{Content, Drawing};
use conditioned_report::heat::{self, HeatMap};
use conditioned_report::scatter::{self, Group, Point, Scatter};

/// As many curves as there are colours, and one more.
pub(crate) fn losses(log_y: bool) -> curves::Figure {
    let curve = |arm: usize| {
        let point = |i: usize| {
            let mean = if arm == 1 && i == 3 { f64::NAN } else { 10f64.powi(-(i as i32)) };
            (i as f64, mean, 0.5 * mean, 2.0 * mean)
        };
        Curve { name: format!("arm {arm}"), points: (0..6).map(point).collect() }
    };
    let panel =
        curves::Panel { title: "<script>".to_string(), curves: (0..8).map(curve).collect() };
    curves::Figure { x: "step".into(), y: "loss".into(), log_y, panels: vec![panel] }
}

pub(crate) fn inequality() -> Scatter {
    let point = |x: f64, y: f64| Point { x, y, label: format!("at {x}, \"{y}\"") };
    let points = vec![point(1.0, 2.0), point(100.0, 30.0), point(0.0, 1.0), point(f64::NAN, 1.0)];
    let groups = vec![Group { name: "baseline".into(), points }];
    let panels = vec![scatter::Panel { title: "ViT".into(), groups }];
    let (x, y) = ("bound".to_string(), "measured".to_string());
    Scatter { x, y, log_x: true, log_y: true, diagonal: true, panels }
}

pub(crate) fn spectra() -> HeatMap {
    let rows = vec![vec![10.0, 5.0, 3.0], vec![1.0, 0.0, f64::NAN]];
    let panel = heat::Panel { title: "X".into(), x: vec![0.0, 50.0, 100.0], rows };
    let (x, y) = ("step".to_string(), "index".to_string());
    HeatMap { x, y, value: "singular value".into(), panels: vec![panel] }
}

#[test]
fn every_kind_gives_the_same_bytes_and_holds_its_titles() {
    let figures: [(&dyn Drawing, &str); 4] = [
        (&losses(false), "arm 7"),
        (&losses(true), "arm 7"),
        (&inequality(), "baseline"),
        (&spectra(), "singular value"),
    ];
    for (figure, text) in figures {
        let svg = figure.svg().unwrap();
        assert!(svg.contains(text), "{text}");
        assert!(!svg.contains("NaN") && !svg.contains("<script>"), "{text}");
        assert_eq!(svg, figure.svg().unwrap());
        let folder = tempfile::tempdir().unwrap();
        figure.save(&folder.path().join("figure")).unwrap();
        assert_eq!(std::fs::read_to_string(folder.path().join("figure.svg")).unwrap(), svg);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}

#[test]
fn the_data_of_a_figure_are_all_its_points() {
    let lines = |csv: String| csv.lines().count();
    assert_eq!(lines(losses(false).csv().unwrap()), 1 + 8 * 6);
    assert_eq!(lines(inequality().csv().unwrap()), 1 + 4);
    assert_eq!(lines(spectra().csv().unwrap()), 1 + 2 * 3);
    let hover = inequality().hover().unwrap();
    let Content::Points { series } = &hover.panels[0].content else { panic!("not points") };
    assert_eq!(series[0].labels[1], "at 100, \"30\"");
    // Both axes have one range, or the line y = x would mean nothing.
    assert_eq!(hover.panels[0].x.low, hover.panels[0].y.low);
}

#[test]
fn a_figure_of_nothing_is_an_error() {
    let nothing = curves::Figure { panels: Vec::new(), ..losses(false) };
    let error = nothing.svg().unwrap_err().to_string();
    assert_eq!(error, "the figure cannot be drawn: it has no points");
    let mut ragged = spectra();
    ragged.panels[0].rows[1].pop();
    assert!(ragged.svg().is_err(), "a row that is shorter than the columns");
}

#[test]
fn one_point_is_drawn() {
    let mut figure = losses(true);
    figure.panels[0].curves.truncate(1);
    figure.panels[0].curves[0].points.truncate(1);
    assert!(figure.svg().unwrap().contains("arm 0"));
}
