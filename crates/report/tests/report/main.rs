//! Statistics, tables and curves against textbooks and their own definitions.

#![allow(clippy::unwrap_used)]

mod figures;
mod page;
mod tensorboard;

mod grid {
    use conditioned_report::grid::Grid;

    fn table() -> Grid {
        Grid {
            title: "T, 100 % real".into(),
            columns: vec![("a_b".into(), false), ("Δ".into(), true)],
            rows: vec![vec!["x, y".into(), "1 ± 2".into()]],
            notes: vec!["A note.".into()],
        }
    }

    #[test]
    fn every_form_holds_every_cell() {
        let table = table();
        assert!(table.terminal(None).contains("x, y"));
        assert_eq!(table.csv().unwrap(), "a_b,Δ\n\"x, y\",1 ± 2\n");
        let markdown = table.markdown();
        assert!(markdown.contains("| a_b  | Δ     |"), "{markdown}");
        assert!(markdown.contains("- A note."));
    }

    #[test]
    fn a_narrow_terminal_shows_the_answer_and_names_the_rest() {
        let text = table().terminal(Some(12));
        assert!(text.contains("1 ± 2") && !text.contains("x, y"), "{text}");
        assert!(text.contains("No room for: a_b."), "{text}");
        // Too narrow for any whole column: cells are broken, nothing is wider than the terminal.
        let text = table().terminal(Some(8));
        let grid = text.lines().filter(|line| line.contains(['│', '┌', '╞', '└']));
        assert!(grid.map(console::measure_text_width).all(|width| width <= 8), "{text}");
        assert!(table().terminal(Some(80)).contains("x, y"));
    }

    #[test]
    fn latex_is_escaped() {
        let latex = table().latex();
        assert!(latex.contains("a\\_b & $\\Delta$ \\\\"), "{latex}");
        assert!(latex.contains("100 \\% real"), "{latex}");
        assert!(latex.contains("1 $\\pm$ 2"), "{latex}");
    }
}

mod statistics {
    use conditioned_report::statistics::{Sample, holm, median, quantile};

    /// A difference, a product and a sum, each rounded once.
    const ROUNDING: f64 = 1e-15;

    #[test]
    fn the_interval_is_that_of_the_textbook() {
        // R: t.test(c(1, 2, 3, 4, 5)): mean 3, 95 percent interval 1.036757 to 4.963243.
        let sample = Sample::of(&[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
        assert!((sample.mean - 3.0).abs() < 1e-12);
        assert!((sample.half_width().unwrap() - 1.963_243).abs() < 1e-5);
    }

    /// `scipy.stats.ttest_1samp(values, 0).pvalue`.
    #[test]
    fn p_values_are_those_of_scipy() {
        let loss = [-0.01, -0.012, -0.009, -0.011, -0.0105, -0.0093, -0.0111, -0.0098];
        for (values, wanted) in [
            (&[0.3, 0.1, 0.5, -0.1, 0.2][..], 0.116_116_523_516_815_56),
            (&[1.0, 2.0], 0.204_832_764_699_133_45),
            (&loss, 1.465_257_774_341_384_2e-8),
        ] {
            let p = Sample::of(values).unwrap().p_value().unwrap();
            assert!((p / wanted - 1.0).abs() < 1e-6, "{p} {wanted}");
        }
        assert_eq!(Sample::of(&[1.0]).unwrap().p_value(), None);
        assert_eq!(Sample::of(&[2.0, 2.0]).unwrap().p_value(), Some(0.0));
        assert_eq!(Sample::of(&[0.0, 0.0]).unwrap().p_value(), Some(1.0));
    }

    /// R: `p.adjust(p, "holm")`.
    #[test]
    fn holm_adjusts_as_r_does() {
        let close = |p: &[f64], wanted: &[f64]| {
            for (adjusted, wanted) in holm(p).iter().zip(wanted) {
                assert!((adjusted - wanted).abs() < ROUNDING, "{p:?}: {adjusted} {wanted}");
            }
        };
        close(&[0.01, 0.02, 0.03, 0.04], &[0.04, 0.06, 0.06, 0.06]);
        close(&[0.04, 0.001, 0.9], &[0.08, 0.003, 0.9]);
        close(&[0.5, 0.6], &[1.0, 1.0]);
        close(&[], &[]);
    }

    #[test]
    fn one_value_has_no_spread_and_none_no_mean() {
        let sample = Sample::of(&[2.0]).unwrap();
        assert_eq!((sample.sd, sample.half_width()), (None, None));
        assert_eq!(Sample::of(&[]), None);
    }

    #[test]
    fn the_median_takes_infinity_and_refuses_nan() {
        assert_eq!(median(&[3.0, 1.0, f64::INFINITY]), Some(3.0));
        assert_eq!(median(&[4.0, 1.0]), Some(2.5));
        assert_eq!(median(&[f64::NAN, 1.0]), None);
    }

    #[test]
    fn the_median_of_two_is_their_mean_to_the_last_bit() {
        let values = (1..200).map(|i| (1.0 / f64::from(i), f64::from(i).sqrt()));
        for (a, b) in values {
            assert_eq!(median(&[a, b]), Some(0.5 * (a + b)), "{a} and {b}");
        }
    }

    #[test]
    fn quantiles_are_those_of_numpy() {
        // numpy.quantile(values, p) of NumPy 2.4.
        let few = [3.7, -1.2, 0.4, 8.1, 2.6, 2.6];
        let wide = [1e-3, 5.0, 1e6, 40.0];
        for (p, of_few, of_wide) in [
            (0.0, -1.2, 0.001),
            (0.1, -0.4, 1.5007),
            (0.25, 0.9500000000000001, 3.7502500000000003),
            (0.5, 2.6, 22.5),
            (0.75, 3.4250000000000003, 250030.0),
            (0.9, 5.9, 700012.0000000002),
            (1.0, 8.1, 1e6),
        ] {
            for (values, wanted) in [(&few[..], of_few), (&wide, of_wide)] {
                let found = quantile(values, p).unwrap();
                assert!((found - wanted).abs() <= ROUNDING * wanted.abs().max(1.0), "{p}: {found}");
            }
        }
        assert_eq!(quantile(&[7.0], 0.3), Some(7.0));
    }

    #[test]
    fn quantiles_take_infinity_at_both_ends_and_refuse_nan() {
        const INFINITE: f64 = f64::INFINITY;
        let of = |values: &[f64]| [0.0, 0.25, 0.5, 0.75, 1.0].map(|p| quantile(values, p).unwrap());
        // What NumPy finds too.
        assert_eq!(of(&[3.0, INFINITE, 1.0, 2.0]), [1.0, 1.75, 2.5, INFINITE, INFINITE]);
        assert_eq!(of(&[3.0, -INFINITE, 1.0, 2.0]), [-INFINITE, -INFINITE, 1.5, 2.25, 3.0]);
        // Where NumPy subtracts infinity from itself.
        assert_eq!(of(&[INFINITE, 1.0]), [1.0, INFINITE, INFINITE, INFINITE, INFINITE]);
        assert_eq!(of(&[-INFINITE, 1.0]), [-INFINITE, -INFINITE, -INFINITE, -INFINITE, 1.0]);
        assert_eq!(of(&[INFINITE; 3]), [INFINITE; 5]);
        for p in [0.0, 0.5, 1.0] {
            assert_eq!(quantile(&[], p), None);
            assert_eq!(quantile(&[1.0, f64::NAN, INFINITE], p), None);
        }
    }
}

mod curves {
    use conditioned_report::curves::{Curve, Figure, Panel};
    use conditioned_report::drawing::Drawing;

    /// Runs that were looked at as often, but not at the same steps.
    #[test]
    fn runs_meet_at_the_steps_that_all_have() {
        let seldom: &[(usize, f64)] = &[(0, 1.0), (4, 5.0), (8, 9.0)];
        let often: &[(usize, f64)] = &[(0, 3.0), (2, 100.0), (4, 7.0), (6, 100.0), (9, 100.0)];
        let curve = Curve::over("ViT".into(), &[seldom, often]).unwrap();
        assert_eq!(curve.points, [(0.0, 2.0, 1.0, 3.0), (4.0, 6.0, 5.0, 7.0)]);
        assert_eq!(Curve::over("ViT".into(), &[]), None);
    }

    #[test]
    fn both_files_are_written_and_hold_the_names() {
        let folder = tempfile::tempdir().unwrap();
        let points = vec![(0.0, 10.0, 9.0, 11.0), (1.0, 20.0, 18.0, 22.0)];
        let curve = Curve { name: "baseline".into(), points };
        let panel = Panel { title: "ViT".into(), curves: vec![curve] };
        let figure =
            Figure { x: "step".into(), y: "accuracy".into(), log_y: false, panels: vec![panel] };
        figure.save(&folder.path().join("curves")).unwrap();
        let svg = std::fs::read_to_string(folder.path().join("curves.svg")).unwrap();
        assert!(svg.contains("baseline") && svg.contains("ViT") && svg.contains("step"));
        let png = std::fs::read(folder.path().join("curves.png")).unwrap();
        assert_eq!(&png[1..4], b"PNG");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
