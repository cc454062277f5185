//! The real binary `finetune` on a tiny checkpoint that is made here: results, determinism, resume,
//! models for others, errors.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use conditioned_data::{Labels, Texts, Tokenizer, entailments, premises};
use conditioned_models::Architecture;
use conditioned_models::bert::{Bert, BertConfig, BertInput};
use conditioned_models::bert_heads::BertClassifier;
use conditioned_models::conditioning::Method;
use conditioned_models::hugging_face::bert::{self, Head};
use conditioned_nn::{Mode, Store};
use support::{Binary, results, text};

const FINETUNE: Binary = Binary(env!("CARGO_BIN_EXE_finetune"));

/// A folder with a BERT, its tokenizer, and a task in files.
struct Scene {
    root: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let scene = Self { root: tempfile::tempdir().unwrap() };
        let tokenizer = Tokenizer::train_wordpiece(premises(0, 0..2000), 200).unwrap();
        let config = BertConfig {
            vocabulary: tokenizer.vocab_size(),
            context: 48,
            width: 16,
            depth: 2,
            heads: 2,
            hidden: 32,
            ..BertConfig::preset("bert-4x128").unwrap()
        };
        let store = Store::new(1, DType::F32, &Device::Cpu);
        Bert::new(&config, store.builder()).unwrap();
        bert::write(&scene.path("model"), &config, &Head::None, &store).unwrap();
        tokenizer.save(scene.path("model")).unwrap();
        scene.write("train.csv", &entailments(0, 0..96).unwrap());
        scene.write("dev.csv", &entailments(0, 1000..1040).unwrap());
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn str(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_string()
    }

    fn write(&self, name: &str, texts: &Texts) {
        let Labels::Classes(names) = texts.labels() else { panic!("classes") };
        let mut file = csv::Writer::from_path(self.path(name)).unwrap();
        file.write_record(["text", "text2", "label"]).unwrap();
        for row in texts.rows() {
            let second = row.second.as_deref().unwrap();
            file.write_record([&row.text, second, &names[row.label as usize]]).unwrap();
        }
        file.flush().unwrap();
    }

    /// The arguments that train on the files, with others after them.
    fn arguments(&self, others: &[&str]) -> Vec<String> {
        let own = [
            "--init".to_string(),
            self.str("model"),
            "--task".to_string(),
            self.str("train.csv"),
            "--dev".to_string(),
            self.str("dev.csv"),
        ];
        own.into_iter().chain(others.iter().map(ToString::to_string)).collect()
    }

    fn run(&self, out: &str, others: &[&str]) -> String {
        let out = self.str(out);
        let others = [&["--set", "max_length=48", "--set", "batch_size=16", "--out", &out], others];
        let arguments = self.arguments(&others.concat());
        FINETUNE.success(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn fails(&self, others: &[&str]) -> String {
        let out = self.str("none");
        let own = ["--set", "max_length=48", "--out", &out];
        let arguments = self.arguments(&[&own[..], others].concat());
        FINETUNE.failure(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

const ARMS: [&str; 4] = [
    "--arms",
    "baseline,pooled,per-sequence,pooled-norm-matched",
    "--set",
    "placement=before-position",
];

#[test]
fn a_table_repeats_bit_for_bit_and_its_models_leave_it() {
    let scene = Scene::new();
    let run = |out: &str, threads: &str| {
        let others = [&ARMS[..], &["--seeds", "2", "--threads", threads]].concat();
        scene.run(out, &others)
    };
    let table = run("first", "1");
    for word in [
        "train, 96 training texts",
        "accuracy",
        "f1",
        "matthews",
        "pooled-norm-matched",
        "per-sequence",
    ] {
        assert!(table.contains(word), "{word} is missing in\n{table}");
    }
    run("second", "2");
    assert_eq!(results(&scene.path("first")), results(&scene.path("second")));
    assert_eq!(run("first", "1"), table, "a second run keeps every cell");
    assert_eq!(FINETUNE.success(&["report", "--out", &scene.str("first")]), table);

    let cell = scene.path("first/bert/pooled-set/seed100");
    FINETUNE.resumes(&cell, &scene.path("killed"));

    // A plain BERT comes out of what folds, and a marked one of what does not.
    for (arm, folds) in [("baseline", true), ("pooled", true), ("per-sequence", false)] {
        let (from, to) = (scene.str(&format!("first/bert/{arm}-set/seed100")), scene.str(arm));
        FINETUNE.success(&["export", "--run", &from, "--out", &to]);
        let config = bert::read_config(Path::new(&to)).unwrap();
        assert_eq!(config.conditioning.method == Method::None, folds, "{arm}");
        let store = Store::new(0, DType::F32, &Device::Cpu);
        let model = BertClassifier::new(&config, 2, store.builder()).unwrap();
        let loaded = bert::read_weights(Path::new(&to), &store).unwrap();
        assert!(loaded.fresh.is_empty() && loaded.unused.is_empty(), "{arm}: {loaded:?}");
        assert_eq!(accuracy(&model, &to, &scene), recorded(&from), "{arm}");
        let card = text(&Path::new(&to).join("README.md"));
        assert_eq!(card.contains("conditioned-bert"), !folds, "{card}");
        assert!(text(&Path::new(&to).join("config.json")).contains("label2id"));
    }
    let case = scene.str("case.safetensors");
    FINETUNE.success(&["case", "--run", cell.to_str().unwrap(), "--batches", "8", "--out", &case]);
    let case = conditioned_nn::store::load_tensors(Path::new(&case), &Device::Cpu).unwrap();
    assert!(case.contains_key("batch7/labels") && case.contains_key("parameter/classifier.weight"));
}

/// The accuracy of a written model on the dev file, in %.
fn accuracy(model: &BertClassifier, folder: &str, scene: &Scene) -> f64 {
    let tokenizer = Tokenizer::read(folder).unwrap();
    let dev = Texts::read(scene.path("dev.csv"), None).unwrap();
    let right = dev.rows().iter().filter(|row| {
        let encoded = tokenizer.encode_pair(&row.text, row.second.as_deref(), 48).unwrap();
        let tensor = |ids: Vec<u32>| candle_core::Tensor::new(vec![ids], &Device::Cpu).unwrap();
        let input =
            BertInput { ids: tensor(encoded.ids), types: tensor(encoded.types), padding: None };
        let logits = model.logits(&input, Mode::Eval).unwrap();
        let class = logits.argmax(1).unwrap().to_vec1::<u32>().unwrap()[0];
        class as f32 == row.label
    });
    100.0 * right.count() as f64 / dev.len() as f64
}

/// The accuracy that a run recorded.
fn recorded(folder: &str) -> f64 {
    let summary: serde_json::Value =
        serde_json::from_str(&text(&Path::new(folder).join("summary.json"))).unwrap();
    summary["metrics"]["dev_accuracy"].as_f64().unwrap()
}

#[test]
fn a_sweep_reads_no_dev_text_and_cut_texts_are_counted() {
    let scene = Scene::new();
    let out = scene.str("sweep");
    let arguments = scene.arguments(&[
        "--arms",
        "baseline,pooled",
        "--set",
        "max_length=48",
        "--set",
        "epochs=1",
        "--out",
        &out,
    ]);
    let arguments: Vec<&str> =
        std::iter::once("sweep").chain(arguments.iter().map(String::as_str)).collect();
    let table = FINETUNE.success(&arguments);
    assert!(table.contains("strength=0.01") && table.contains("placement=after-norm"), "{table}");
    let summary =
        text(&scene.path("sweep/strength=0.01/bert/pooled-lr0.0001-x1-std0.02/seed0/summary.json"));
    assert!(summary.contains("tune_accuracy") && !summary.contains("dev_"), "{summary}");

    let cut = scene.run("cut", &["--arms", "baseline", "--seeds", "1", "--set", "max_length=10"]);
    assert!(cut.contains("cut: 40 of dev, 96 of train"), "{cut}");
}

#[test]
fn a_fine_tuned_encoder_can_be_probed_and_keeps_its_bits() {
    let scene = Scene::new();
    let one = ["--arms", "per-sequence", "--seeds", "1", "--set", "epochs=2"];
    for (out, every) in [("seen", "probe_every=5"), ("plain", "probe_every=null")] {
        scene.run(out, &[&one[..], &["--set", every]].concat());
    }
    let cell = |out: &str| scene.path(&format!("{out}/bert/per-sequence-set/seed100"));
    let found = support::probes(&cell("seen"), 5);
    assert!(found.len() > 2 && found[0].1.metrics.contains_key("layer2/bound_left"));
    assert!(support::probes(&cell("plain"), 5).is_empty());
    let weights = |out: &str| std::fs::read(cell(out).join("model.safetensors")).unwrap();
    assert!(weights("seen") == weights("plain"));
    assert!(scene.path("seen/bounds.svg").exists() && !scene.path("plain/bounds.svg").exists());
}

#[test]
fn scores_two_dev_sets_and_frozen_layers() {
    let scene = Scene::new();
    // Scores: the label is the number of words.
    let mut scores = String::from("text,label\n");
    for row in entailments(0, 0..64).unwrap().rows() {
        scores += &format!("{},{}\n", row.text, row.text.split(' ').count());
    }
    std::fs::write(scene.path("scores.csv"), scores).unwrap();
    let (model, file, out) = (scene.str("model"), scene.str("scores.csv"), scene.str("scores"));
    let common = ["--init", &model, "--arms", "baseline", "--seeds", "1", "--set", "max_length=48"];
    let own = ["--task", &file, "--dev", &file, "--scores", "--out", &out];
    let table = FINETUNE.success(&[&common[..], &own[..]].concat());
    assert!(table.contains("pearson") && table.contains("spearman"), "{table}");
    let (run, exported) = (scene.str("scores/bert/baseline-set/seed100"), scene.str("regression"));
    FINETUNE.success(&["export", "--run", &run, "--out", &exported]);
    assert!(text(&scene.path("regression/config.json")).contains("regression"));

    // MNLI in its official layout: label last, twelve columns, two dev sets.
    let folder = scene.path("MNLI");
    std::fs::create_dir(&folder).unwrap();
    let labels = ["entailment", "neutral", "contradiction"];
    let names = "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse \
                 sentence2_parse sentence1 sentence2 label1 gold_label";
    let header = names.split_whitespace().collect::<Vec<_>>().join("\t");
    for (name, rows) in [("train", 0..48), ("dev_matched", 48..60), ("dev_mismatched", 60..72)] {
        let mut lines = header.clone() + "\n";
        for (i, row) in entailments(0, rows).unwrap().rows().iter().enumerate() {
            let (first, second) = (&row.text, row.second.as_deref().unwrap());
            let label = labels[i % 3];
            lines += &format!("{i}{}\t{first}\t{second}\t{label}\t{label}\n", "\tx".repeat(7));
        }
        std::fs::write(folder.join(format!("{name}.tsv")), lines).unwrap();
    }
    let (data, out) = (folder.to_str().unwrap(), scene.str("mnli"));
    let own = ["--task", "mnli", "--data", data, "--out", &out, "--set", "train_rows=40"];
    let rates = ["--set", "frozen_layers=1", "--set", "layer_decay=0.5"];
    FINETUNE.success(&[&common[..], &own[..], &rates[..]].concat());
    let summary: serde_json::Value =
        serde_json::from_str(&text(&scene.path("mnli/bert/baseline-set/seed100/summary.json")))
            .unwrap();
    let metric = |name: &str| summary["metrics"][name].as_f64().unwrap();
    let mean = (metric("matched_accuracy") + metric("mismatched_accuracy")) / 2.0;
    assert!((metric("accuracy") - mean).abs() < 1e-9, "{summary}");

    // What is frozen keeps its bits, the rest moves.
    let (run, exported) = (scene.str("mnli/bert/baseline-set/seed100"), scene.str("frozen"));
    FINETUNE.success(&["export", "--run", &run, "--out", &exported]);
    let tensors = |folder: &str| {
        let path = Path::new(folder).join("model.safetensors");
        conditioned_nn::store::load_tensors(&path, &Device::Cpu).unwrap()
    };
    let (before, after) = (tensors(&model), tensors(&exported));
    for (name, old) in before {
        let new = &after[&format!("bert.{name}")];
        let values = |x: &candle_core::Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let frozen = name.starts_with("embeddings.") || name.starts_with("encoder.layer.0.");
        assert_eq!(values(&old) == values(new), frozen, "{name}");
    }
}

#[test]
fn what_cannot_be_is_one_error_that_names_it() {
    let scene = Scene::new();
    let set = |pair: &str| scene.fails(&["--set", pair]);
    let cases = [
        (set("max_length=64"), "than the position table of"),
        (set("max_length=2"), "max_length"),
        (set("frozen_layers=3"), "frozen_layers=3"),
        (set("strength=-1"), "-1"),
        (set("tune=1"), "tune=1"),
        (set("layer_decay=2"), "layer_decay=2"),
        (set("rat=1"), "unknown key `rat`"),
        (scene.fails(&["--arms", "magic"]), "invalid value 'magic'"),
        (scene.fails(&["--seeds", "0"]), "--seeds"),
        (scene.fails(&["--arms", "pooled-norm-matched"]), "takes any factor out"),
        (scene.fails(&["--data", "x"]), "--data is for the tasks of GLUE"),
        (FINETUNE.failure(&["--task", "rte"]), "--init is missing"),
        (FINETUNE.failure(&["--init", &scene.str("model")]), "--task is missing"),
        (FINETUNE.failure(&["--init", &scene.str("nowhere"), "--task", "rte"]), "nowhere"),
        (
            FINETUNE.failure(&["--init", &scene.str("model"), "--task", "rte"]),
            "--task rte: needs --data",
        ),
        (FINETUNE.failure(&["report", "--out", &scene.str("empty")]), "no such folder"),
    ];
    for (error, wanted) in cases {
        assert!(error.contains(wanted), "{wanted}: {error}");
    }
    let write = |name: &str, text: &str| std::fs::write(scene.path(name), text).unwrap();
    let dev = text(&scene.path("dev.csv"));
    for (broken, wanted) in [
        ("text,text2,label\na,b,perhaps\n", "perhaps"),
        ("text,text2\na,b\n", "label"),
        ("text,text2,label\na,entailment\n", "line 2"),
    ] {
        write("dev.csv", broken);
        let error = scene.fails(&[]);
        assert!(error.contains("dev.csv") && error.contains(wanted), "{error}");
    }
    write("dev.csv", "text,label\na,entailment\n");
    assert!(scene.fails(&[]).contains("holds pairs"), "pairs and single texts");
    write("dev.csv", &dev);
    let scores = ["--init", &scene.str("model"), "--task", "rte", "--data", "x", "--scores"];
    assert!(FINETUNE.failure(&scores).contains("--scores: is for files"));
    assert!(scene.fails(&["--skip-broken"]).contains("--skip-broken: is for images"));
    write("train.csv", "text,text2,label\na,b,same\nc,d,same\n");
    assert!(scene.fails(&[]).contains("same"), "one class");
    std::fs::remove_file(scene.path("model/tokenizer.json")).unwrap();
    write("train.csv", &dev);
    assert!(scene.fails(&["--seeds", "1"]).contains("no tokenizer here"));
}
