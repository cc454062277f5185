//! The real binary `inspect`: runs, exported models, what it says, its errors.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use support::{Binary, text};

const INSPECT: Binary = Binary(env!("CARGO_BIN_EXE_inspect"));
const FIGURE: Binary = Binary(env!("CARGO_BIN_EXE_figure-conditioning"));
const TABLE5: Binary = Binary(env!("CARGO_BIN_EXE_table5-tinystories"));

/// What it prints at most, the place of the report included.
const LINES: usize = 11;

fn at(root: &tempfile::TempDir, name: &str) -> String {
    root.path().join(name).to_str().unwrap().to_string()
}

/// The condition number in the last probe of a run.
fn last_kappa(run: &Path) -> f64 {
    let record = text(&run.join("metrics.jsonl"));
    let last = record.lines().rfind(|line| line.contains(r#""event":"probe""#)).unwrap();
    let last: serde_json::Value = serde_json::from_str(last).unwrap();
    last["metrics"]["layer1/tokens/kappa"].as_f64().unwrap()
}

fn says(lines: &str, out: &str) {
    assert!(lines.lines().count() <= LINES, "{lines}");
    for word in
        ["Tokens that enter layer 1: κ ", "Verdict: ", "conditioning, to", "A factor: never"]
    {
        assert!(lines.contains(word), "{word} is missing in\n{lines}");
    }
    for file in ["layers.svg", "layers.png", "layers.csv", "spectra.svg", "report.html"] {
        assert!(Path::new(out).join(file).exists(), "{file}");
    }
    assert!(text(&Path::new(out).join("report.html")).contains("layer1/attention"));
}

#[test]
fn a_run_and_its_exported_model_are_looked_into() {
    let root = tempfile::tempdir().unwrap();
    let (runs, out, model) = (at(&root, "runs"), at(&root, "out"), at(&root, "model"));
    let cell =
        ["--preset", "smoke", "--arms", "baseline,per-sequence", "--seeds", "1", "--out", &runs];
    FIGURE.success(&cell);
    let run = Path::new(&runs).join("vit/baseline-published/seed100");
    let lines = INSPECT.success(&[run.to_str().unwrap(), "--out", &out]);
    says(&lines, &out);
    // The weights are those of the last probe, and so are the images.
    let layers = text(&Path::new(&out).join("layers.csv"));
    let tokens = layers.lines().find(|line| line.contains(",tokens,1,")).unwrap();
    let found: f64 = tokens.split(',').nth(3).unwrap().parse().unwrap();
    assert_eq!(found, last_kappa(&run));

    let conditioned = Path::new(&runs).join("vit/per-sequence-published/seed100");
    let lines = INSPECT.success(&[conditioned.to_str().unwrap(), "--out", &out]);
    assert!(lines.contains("its own conditioning brings κ from "), "{lines}");

    FIGURE.success(&["export", "--run", run.to_str().unwrap(), "--out", &model]);
    let lines = INSPECT.success(&[&model, "--out", &out]);
    says(&lines, &out);
    assert!(lines.contains("8 images of 8 x 8 pixels from enlarged UCI digits"), "{lines}");

    let error = INSPECT.failure(&[&model, "some.png"]);
    assert!(error.contains("a model of 1 channels reads no image files"), "{error}");
    let error = INSPECT.failure(&[run.to_str().unwrap(), "some.png"]);
    assert!(error.contains("leave out FILE"), "{error}");
    let search = at(&root, "search");
    FIGURE.success(&[
        "tune", "--preset", "smoke", "--arms", "baseline", "--seeds", "1", "--out", &search,
    ]);
    let point = std::fs::read_dir(Path::new(&search).join("vit")).unwrap().next().unwrap().unwrap();
    let error = INSPECT.failure(&[point.path().join("seed0").to_str().unwrap()]);
    assert!(error.contains("no model.safetensors"), "{error}");
}

#[test]
fn a_language_model_looks_at_a_text() {
    let root = tempfile::tempdir().unwrap();
    let (runs, out, model) = (at(&root, "runs"), at(&root, "out"), at(&root, "model"));
    TABLE5.success(&["--preset", "smoke", "--arms", "baseline", "--seeds", "1", "--out", &runs]);
    let run = Path::new(&runs).join("gpt2/baseline-published/seed100");
    TABLE5.success(&["export", "--run", run.to_str().unwrap(), "--out", &model]);
    says(&INSPECT.success(&[&model, "--out", &out]), &out);

    let file = at(&root, "text.txt");
    std::fs::write(&file, "One day a cat met a dog.\n\nThe dog was glad.\n").unwrap();
    let lines = INSPECT.success(&[&model, &file, "--out", &out]);
    assert!(lines.contains("It looked at 2 texts of "), "{lines}");

    std::fs::write(&file, "\n\n").unwrap();
    assert!(INSPECT.failure(&[&model, &file]).contains("no text in it"));
    std::fs::write(&file, [0xff, 0xd8, 0xff, 0xe0]).unwrap();
    let error = INSPECT.failure(&[&model, &file]);
    assert!(error.contains("text.txt"), "{error}");
    let missing = at(&root, "missing.txt");
    assert!(INSPECT.failure(&[&model, &missing]).contains("missing.txt"));
    let empty = at(&root, "empty");
    std::fs::create_dir(&empty).unwrap();
    assert!(INSPECT.failure(&[&model, &empty]).contains("no file that ends in txt"));
}

#[test]
fn what_is_no_model_is_named() {
    let root = tempfile::tempdir().unwrap();
    let folder = at(&root, "folder");
    let error = INSPECT.failure(&[&folder]);
    assert!(error.contains("config.json") || error.contains("no folder"), "{error}");
    std::fs::create_dir(&folder).unwrap();
    let write = |json: &str| std::fs::write(Path::new(&folder).join("config.json"), json).unwrap();
    write(r#"{"model_type": "llama"}"#);
    let error = INSPECT.failure(&[&folder]);
    assert!(error.contains(r#"`model_type` is "llama""#) && error.contains(r#""gpt2""#), "{error}");
    write(r#"{"architecture": "swin_large_patch4_window7_224"}"#);
    let error = INSPECT.failure(&[&folder]);
    assert!(error.contains("one of") && error.contains("swin_tiny_patch4_window7_224"), "{error}");
    write(r#"{"architecture": "swin_tiny_patch4_window7_224", "model_args": {"embed_dim": 32}}"#);
    assert!(INSPECT.failure(&[&folder]).contains("`model_args.embed_dim` is 32"));
}
