//! Probes during training, by the real binaries: figures, bits, resuming, every family of tasks; and what they
//! measure, against its definition.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use support::{Binary, probes, text};

const FIGURE: Binary = Binary(env!("CARGO_BIN_EXE_figure-conditioning"));
const TABLE1: Binary = Binary(env!("CARGO_BIN_EXE_table1-imagenet"));
const TABLE3: Binary = Binary(env!("CARGO_BIN_EXE_table3-lra"));
const TABLE4: Binary = Binary(env!("CARGO_BIN_EXE_table4-glue"));
const TABLE5: Binary = Binary(env!("CARGO_BIN_EXE_table5-tinystories"));

fn at(root: &tempfile::TempDir, name: &str) -> String {
    root.path().join(name).to_str().unwrap().to_string()
}

/// The lines of a record that are no probes.
fn training(run: &Path) -> Vec<String> {
    let record = text(&run.join("metrics.jsonl"));
    let lines = record.lines().filter(|line| !line.contains("\"event\":\"probe\""));
    lines.map(ToString::to_string).collect()
}

/// The figures that a table with probes draws, and a word of each.
const FIGURES: [(&str, &str); 6] = [
    ("curves", "accuracy on the tuning slice"),
    ("kappa", "tokens that enter layer 1"),
    ("layers", "attention matrix of a head"),
    ("spectra", "singular value over the largest"),
    ("bounds", "κ of the output of a head"),
    ("result-by-kappa", "top-1"),
];

#[test]
fn the_smoke_figures_are_complete_and_probes_change_no_bit() {
    let root = tempfile::tempdir().unwrap();
    let out = at(&root, "out");
    let printed = FIGURE.success(&["--preset", "smoke", "--out", &out]);
    let page = format!("{out}/report.html");
    assert_eq!(printed.lines().last(), Some(&*page), "{printed}");
    for (name, word) in FIGURES {
        let file = |ending: &str| root.path().join(format!("out/{name}.{ending}"));
        let svg = text(&file("svg"));
        assert!(svg.starts_with("<svg") && svg.contains(word), "{name}: no {word}");
        assert_eq!(&std::fs::read(file("png")).unwrap()[1..4], b"PNG", "{name}");
        let csv = text(&file("csv"));
        assert!(csv.lines().count() > 1, "{name}: {csv}");
        assert!(printed.contains(&format!("{name}.{{svg,png,csv}}")), "{printed}");
    }
    let page = text(Path::new(&page));
    assert_eq!(page.matches("<figure>").count(), FIGURES.len());
    for caption in ["Learning curves", "along training", "every layer", "Proposition 4.2"] {
        assert!(page.contains(caption), "{caption}");
    }

    // The records for TensorBoard have the numbers and the spectra.
    FIGURE.success(&["report", "--out", &out, "--tensorboard"]);
    let cell = "vit/per-sequence-published/seed100";
    let board = format!("{out}/tensorboard/{cell}/events.out.tfevents.report");
    let board = std::fs::read(board).unwrap();
    for tag in ["probe/layer1/tokens/kappa_q1", "spectrum/layer2/attention", "training/loss"] {
        assert!(board.windows(tag.len()).any(|bytes| bytes == tag.as_bytes()), "{tag}");
    }

    // The same cells, not looked at.
    let plain = at(&root, "plain");
    let few = ["--preset", "smoke", "--arms", "baseline,per-sequence", "--seeds", "1"];
    FIGURE.success(&[&few[..], &["--set", "probe_every=null", "--out", &plain]].concat());
    for cell in ["vit/baseline-published/seed100", cell] {
        let (seen, plain) = (Path::new(&out).join(cell), Path::new(&plain).join(cell));
        let found = probes(&seen, 5);
        // The method brings every sequence to its bound, and the baseline leaves it.
        for (step, found) in &found {
            let kappa = |place: &str| found.metrics[&format!("{place}/kappa")];
            assert_eq!(kappa("layer1/tokens"), kappa("y"), "{cell} {step}");
            assert_eq!(kappa("y") < kappa("x"), cell.contains("per-sequence"), "{cell} {step}");
        }
        assert!(found.len() > 2 && training(&seen).len() > 2, "{cell}");
        assert_eq!(training(&seen), training(&plain), "{cell}");
        assert_eq!(training(&plain).concat(), text(&plain.join("metrics.jsonl")).replace('\n', ""));
        for file in ["model.safetensors", "summary.json"] {
            let bytes = |run: &Path| std::fs::read(run.join(file)).unwrap();
            assert!(bytes(&seen) == bytes(&plain), "{cell}/{file}");
        }
    }
    // Runs with and without belong in one table, which draws what there is.
    let others = ["--preset", "smoke", "--arms", "pooled-current", "--seeds", "1"];
    FIGURE.success(&[&others[..], &["--out", &plain]].concat());
    let drawn = text(&Path::new(&plain).join("spectra.svg"));
    assert!(drawn.contains("pooled-current") && !drawn.contains("baseline"));
}

#[test]
fn a_killed_run_with_probes_resumes_to_the_same_record() {
    let root = tempfile::tempdir().unwrap();
    let out = at(&root, "out");
    let one = ["--preset", "smoke", "--arms", "per-sequence", "--seeds", "1"];
    let long = ["--set", "epochs=30", "--set", "probe_every=7", "--out", &out];
    FIGURE.success(&[&one[..], &long].concat());
    let run = root.path().join("out/vit/per-sequence-published/seed100");
    assert!(probes(&run, 7).len() > 10);
    FIGURE.resumes(&run, &root.path().join("killed"));
}

#[test]
fn a_probe_of_no_step_is_refused_and_a_search_has_none() {
    let root = tempfile::tempdir().unwrap();
    let out = at(&root, "out");
    for (value, reason) in [
        ("probe_every=0", "--set probe_every=0: at least one is needed"),
        ("probe_every=-5", "--set probe_every=-5"),
        ("probe_every=often", "--set probe_every=often"),
    ] {
        for binary in [FIGURE, TABLE3, TABLE4, TABLE5] {
            let error = binary.failure(&["--preset", "smoke", "--set", value, "--out", &out]);
            assert!(error.contains(reason), "{value}: {error}");
        }
    }
    assert!(!Path::new(&out).exists(), "nothing was written");
    let arguments = ["tune", "--preset", "smoke", "--arms", "baseline", "--seeds", "1"];
    FIGURE.success(&[&arguments[..], &["--set", "probe_every=5", "--out", &out]].concat());
    let cell = root.path().join("out/vit/baseline-lr0.002-x1-std0.02/seed0");
    assert_eq!(training(&cell).len(), text(&cell.join("metrics.jsonl")).lines().count());
}

/// A table, what is run of it, and its rows with whether their layers have bounds: Proposition 4.2 is about sums
/// over all tokens.
struct Rows {
    table: Binary,
    name: &'static str,
    options: &'static [&'static str],
    stages: &'static [&'static str],
    rows: &'static [(&'static str, bool)],
}

const ROWS: [Rows; 4] = [
    Rows {
        table: TABLE1,
        name: "table1",
        options: &["--models", "deit,swin,xcit,davit", "--arms", "pooled-current"],
        stages: &[""],
        rows: &[("deit", true), ("swin", false), ("xcit", false), ("davit", false)],
    },
    Rows {
        table: TABLE3,
        name: "table3",
        options: &["--arms", "per-sequence"],
        stages: &[""],
        rows: &[("listops", true), ("image", true), ("pathfinder", true)],
    },
    Rows {
        table: TABLE4,
        name: "table4",
        options: &[
            "--models",
            "crammed-bert,bert",
            "--arms",
            "pooled",
            "--set",
            "learning_rate=1e-3",
        ],
        stages: &["pre-training", "rte"],
        rows: &[("crammed-bert", true), ("bert", true)],
    },
    Rows {
        table: TABLE5,
        name: "table5",
        options: &["--arms", "pooled"],
        stages: &[""],
        rows: &[("gpt2", true)],
    },
];

#[test]
fn every_family_of_tasks_and_networks_can_be_probed() {
    let root = tempfile::tempdir().unwrap();
    let common = ["--preset", "smoke", "--seeds", "1", "--set", "probe_every=5"];
    for Rows { table, name, options, stages, rows } in ROWS {
        let out = at(&root, name);
        table.success(&[&common[..], options, &["--out", &out]].concat());
        for (row, is_bounded) in rows {
            let mut arms = Path::new(&out).join(row).read_dir().unwrap();
            let arm = arms.next().unwrap().unwrap().path();
            for stage in stages {
                let run = arm.join("seed100").join(stage);
                let probes = probes(&run, 5);
                assert!(probes.len() > 1, "{}: {} probes", run.display(), probes.len());
                for (step, found) in probes {
                    for side in ["bound_left", "bound_right", "violations"] {
                        let has = found.metrics.contains_key(&format!("layer1/{side}"));
                        assert_eq!(has, *is_bounded, "{} {step}: {side}", run.display());
                    }
                    if let Some(share) = found.metrics.get("layer1/violations") {
                        assert!((0.0..=1.0).contains(share), "{}: {share}", run.display());
                    }
                }
            }
        }
        // Not every network has bounds, and every table draws the rest.
        for figure in ["kappa", "layers", "spectra"] {
            assert!(Path::new(&out).join(format!("{figure}.svg")).exists(), "{name}: {figure}");
        }
    }
    let bounds = text(&root.path().join("table1/bounds.svg"));
    assert!(bounds.contains("DeiT") && !bounds.contains("Swin"), "panels of no points");
}

mod inside {
    use candle_conditioning::{Spectrum, condition_number, spectra};
    use candle_core::{DType, Device, Result, Tensor};
    use conditioned_models::network::Network;
    use conditioned_models::{Architecture, Model};
    use conditioned_nn::{Mode, Store};
    use conditioned_train::{Findings, TaskError};
    use experiments::probe::{Inside, SEQUENCES, findings, singles};
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// Two ways to the same product in f64, 1e-16 of its size off, times a condition number up to 1e7.
    const PRODUCTS: f64 = 1e-8;

    fn uniform(shape: &[usize], seed: u64) -> Tensor {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let values = (0..shape.iter().product()).map(|_| rng.random_range(-1.0f32..1.0)).collect();
        Tensor::from_vec::<_, f32>(values, shape, &Device::Cpu).unwrap()
    }

    /// A ViT whose every parameter was moved, so that no two heads are alike and no norm takes out the mean.
    fn model() -> Box<dyn Model> {
        let store = Store::new(1, DType::F32, &Device::Cpu);
        let model = Network::preset("vit-8-tiny").unwrap().build(store.builder()).unwrap();
        for (i, (_, var)) in store.parameters().into_iter().enumerate() {
            let noise = (uniform(var.dims(), i as u64) * 0.3).unwrap();
            var.set(&(var.as_tensor().detach() + noise).unwrap()).unwrap();
        }
        model
    }

    fn kappa(x: &Tensor) -> f64 {
        condition_number(x).unwrap().to_scalar().unwrap()
    }

    #[test]
    fn both_sides_of_the_bound_are_those_of_each_head() -> Result<()> {
        let (model, images) = (model(), uniform(&[3, 1, 8, 8], 99));
        let mut inside = Inside::default();
        let mut wanted = vec![Vec::new(), Vec::new()];
        for image in singles(&images) {
            let seen = model.probe(&image?)?;
            inside.add(&seen)?;
            for (layer, wanted) in seen.layers.iter().zip(&mut wanted) {
                let x = layer.input.squeeze(0)?.to_dtype(DType::F64)?; // (N, C)
                let w_v = layer.value_weight.as_ref().unwrap().to_dtype(DType::F64)?; // (C, C)
                let p = layer.heads.attention.squeeze(0)?.to_dtype(DType::F64)?; // (H, N, N)
                let (heads, _, _) = p.dims3()?;
                let d = w_v.dim(1)? / heads;
                for head in 0..heads {
                    let (p, w_v) = (p.get(head)?, w_v.narrow(1, head * d, d)?.contiguous()?);
                    let left = kappa(&p.matmul(&x)?.matmul(&w_v)?);
                    wanted.push((left, kappa(&p) * kappa(&x) * kappa(&w_v)));
                }
            }
        }
        for (layer, wanted) in wanted.into_iter().enumerate() {
            let found = &inside.bounds[&(layer + 1)];
            assert_eq!(found.len(), 3 * 4, "a bound a head and image");
            assert_eq!(found.len(), wanted.len());
            for (found, (left, right)) in found.iter().zip(wanted) {
                assert!(left.is_finite() && right.is_finite());
                assert!((found.left - left).abs() <= PRODUCTS * left, "{found:?}, {left:e}");
                assert!((found.right - right).abs() <= PRODUCTS * right, "{found:?}, {right:e}");
            }
        }
        // What is recorded are medians over all heads, of an even number the mean of two.
        let all = inside.findings().metrics;
        let median = |values: &mut Vec<f64>| {
            values.sort_by(f64::total_cmp);
            0.5 * (values[values.len() / 2 - 1] + values[values.len() / 2])
        };
        let mut lefts = inside.bounds[&2].iter().map(|bound| bound.left).collect();
        assert_eq!(all["layer2/bound_left"], median(&mut lefts));
        let mut kappas: Vec<f64> =
            inside.spectra["layer2/queries"].iter().map(Spectrum::condition_number).collect();
        assert_eq!(kappas.len(), 3 * 4);
        assert_eq!(all["layer2/queries/kappa"], median(&mut kappas));
        Ok(())
    }

    /// Those of shorter sequences are left out, or the median might rise where they end.
    #[test]
    fn the_median_spectrum_is_that_of_the_longest() {
        let diagonal = |values: &[f64]| {
            let eye = Tensor::eye(values.len(), DType::F64, &Device::Cpu).unwrap();
            let x = eye.broadcast_mul(&Tensor::new(values, &Device::Cpu).unwrap()).unwrap();
            spectra(&x).unwrap().remove(0)
        };
        let mut inside = Inside::default();
        let all =
            vec![diagonal(&[4.0, 0.5]), diagonal(&[3.0, 1.0, 1.0]), diagonal(&[5.0, 2.0, 0.5])];
        inside.spectra.insert("tokens".to_string(), all);
        assert_eq!(inside.median_spectrum("tokens"), [4.0, 1.5, 0.75]);
        assert!(inside.median_spectrum("nowhere").is_empty());
    }

    fn found(model: &dyn Model, images: &Tensor) -> Findings {
        let seen = singles(images).map(|image| Ok(model.probe(&image?)?));
        findings(seen).unwrap()
    }

    #[test]
    fn findings_are_the_same_bits_on_one_thread_and_on_two() {
        let images = uniform(&[SEQUENCES, 1, 8, 8], 98);
        let on = |threads: usize| {
            let Findings { metrics, spectra } =
                conditioned_threads::with_count(threads, || found(&*model(), &images));
            let metrics: Vec<_> =
                metrics.into_iter().map(|(name, value)| (name, value.to_bits())).collect();
            let spectra: Vec<_> = spectra
                .into_iter()
                .map(|(name, s)| (name, s.into_iter().map(f32::to_bits).collect::<Vec<_>>()))
                .collect();
            (metrics, spectra)
        };
        let one = on(1);
        // Two places of tokens, six of each of two layers; five measures and two sides with quartiles.
        assert_eq!(one.0.len(), (2 + 2 * 6) * 5 * 3 + 2 * (2 * 3 + 1));
        assert_eq!(one.1.len(), 2 + 2 * 6);
        assert!(one == on(2));
    }

    /// The first sequences, and the first error among them.
    #[test]
    fn so_many_sequences_are_looked_at_and_no_more() {
        let (model, images) = (model(), uniform(&[SEQUENCES, 1, 8, 8], 97));
        let few = found(&*model, &images);
        let more = Tensor::cat(&[&images, &uniform(&[2, 1, 8, 8], 96)], 0).unwrap();
        assert_eq!(found(&*model, &more), few);
        let beyond = singles(&images)
            .map(|image| Ok(model.probe(&image?)?))
            .chain([Err(TaskError::from("no image"))]);
        assert_eq!(findings(beyond).unwrap(), few);
        let error = findings([Err(TaskError::from("no image"))]).unwrap_err();
        assert_eq!(error.to_string(), "no image");
        // A probe leaves the model as it was.
        assert!(model.forward(&images, Mode::Eval.into()).is_ok());
        assert_eq!(found(&*model, &images), few);
    }
}
