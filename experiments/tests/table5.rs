//! The real binary of table 5, smoke preset: results, determinism, resume, search, errors.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use candle_core::{Device, Tensor};
use conditioned_nn::store::{load_tensors, save_tensors};
use support::{Binary, lines, results, text, untrained};

const TABLE5: Binary = Binary(env!("CARGO_BIN_EXE_table5-tinystories"));

/// The gap of a causal model: rounding in f32.
const NO_LEAK: f64 = 1e-5;

const ARMS: &str = "baseline,init,pooled,table,pooled-norm-matched,per-sequence";

fn run(out: &Path, threads: &str) -> String {
    let out = out.to_str().unwrap();
    let arms = ["--arms", ARMS, "--allow-future-leak", "--set", "strength=1"];
    TABLE5
        .success(&[&["--preset", "smoke", "--threads", threads, "--out", out], &arms[..]].concat())
}

#[test]
fn the_smoke_table_is_complete_and_repeats_bit_for_bit() {
    let root = tempfile::tempdir().unwrap();
    let (first, second) = (root.path().join("first"), root.path().join("second"));
    let table = run(&first, "1");
    for word in ["generated stories", "published", "per-sequence (sees the future)", "2.41", "2.36"]
    {
        assert!(table.contains(word), "{word} is missing in\n{table}");
    }
    for arm in ARMS.split(',') {
        assert!(lines(&first).iter().any(|line| line["arm"] == arm), "no run of {arm}");
    }
    for file in ["timings.csv", "table.md", "table.tex", "table.csv", "curves.svg", "texts.md"] {
        assert!(first.join(file).exists(), "{file}");
    }

    // The column that says it: only the arm that is not causal finds its targets inside the window.
    for line in lines(&first).iter().filter(|line| line["metric"] == "leak_gap") {
        let gap: f64 = line["value"].parse().unwrap();
        assert_eq!(gap.abs() > NO_LEAK, line["arm"] == "per-sequence", "{}: {gap}", line["arm"]);
    }

    run(&second, "2");
    assert_eq!(results(&first), results(&second), "one and two cells side by side");
    let cell = "gpt2/pooled-published/seed100";
    for file in ["metrics.jsonl", "summary.json"] {
        assert_eq!(text(&first.join(cell).join(file)), text(&second.join(cell).join(file)));
    }
    // A second run keeps every cell, a report needs no training: the same table.
    assert_eq!(run(&first, "1"), table);
    assert_eq!(TABLE5.success(&["report", "--out", first.to_str().unwrap()]), table);

    // Pooled Gram and conditioned tables live in the checkpoint or follow from it.
    for cell in ["gpt2/pooled-published/seed100", "gpt2/table-published/seed100"] {
        TABLE5.resumes(&first.join(cell), &root.path().join(cell));
    }
}

#[test]
fn a_search_records_settings_that_a_run_uses() {
    let root = tempfile::tempdir().unwrap();
    let (search, out) = (root.path().join("search"), root.path().join("out"));
    let (search, out) = (search.to_str().unwrap(), out.to_str().unwrap());
    let arguments = ["--preset", "smoke", "--arms", "baseline", "--seeds", "1"];
    TABLE5.success(&[&["tune"], &arguments[..], &["--out", search]].concat());
    let tuned = format!("{search}/tuned.json");
    let json: serde_json::Value = serde_json::from_str(&text(Path::new(&tuned))).unwrap();
    assert_eq!(json["rows"]["gpt2"]["baseline"]["published"]["embedding_std"], 0.02);
    TABLE5.success(&[&arguments[..], &["--tuned", &tuned, "--out", out]].concat());
    assert!(text(&Path::new(out).join("results.csv")).lines().count() >= 2);
    // No cell of a search has seen the test documents.
    let summary = format!("{search}/gpt2/baseline-lr0.003-x1-std0.02/seed0/summary.json");
    assert!(!text(Path::new(&summary)).contains("test_"));
}

#[test]
fn text_files_are_trained_on() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("verses.txt");
    let verses = (0..200).map(|i| format!("Roses are {}.\nViolets too.\n\n", i * i));
    std::fs::write(&file, verses.collect::<String>()).unwrap();
    let out = root.path().join("out");
    let small = ["width=16", "depth=1", "heads=2", "context=16", "steps=4", "evaluations=2"];
    let small: Vec<&str> = small.iter().flat_map(|pair| ["--set", pair]).collect();
    let few = ["prefix_windows=4", "prefix_lengths=[4,16]", "test_windows=4", "batch_size=2"];
    let few: Vec<&str> = few.iter().flat_map(|pair| ["--set", pair]).collect();
    let data = ["--preset", "prototype", "--data", file.to_str().unwrap(), "--seeds", "1"];
    let rest =
        ["--arms", "baseline", "--set", "learning_rate=1e-3", "--out", out.to_str().unwrap()];
    let error = TABLE5.failure(&[&data[..], &small[..], &few[..], &rest[..]].concat());
    assert!(error.contains("--set prompt=ROMEO:"), "{error}");
    let rest = [&rest[..], &["--set", "prompt=Roses"]].concat();
    let table = TABLE5.success(&[&data[..], &small[..], &few[..], &rest[..]].concat());
    assert!(table.contains("verses"), "{table}");
}

#[test]
fn a_model_is_exported_judged_continued_and_trained_on() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name).to_str().unwrap().to_string();
    let run = [
        "--preset",
        "smoke",
        "--arms",
        "pooled,per-sequence",
        "--allow-future-leak",
        "--seeds",
        "1",
    ];
    let fast = ["--set", "learning_rate=3e-3", "--set", "steps=3"];
    TABLE5.success(&[&run[..], &fast, &["--out", &at("out")]].concat());
    let cell = |arm: &str| format!("{}/gpt2/{arm}-set/seed100", at("out"));
    let model = at("model");
    TABLE5.success(&["export", "--run", &cell("pooled"), "--out", &model]);
    let error = TABLE5.failure(&["export", "--run", &cell("per-sequence"), "--out", &at("leaky")]);
    assert!(error.contains("cannot be folded"), "{error}");
    let error = TABLE5.failure(&["export", "--run", &at("out"), "--out", &at("leaky")]);
    assert!(error.contains("run.json"), "{error}");

    let text_file = at("text.txt");
    std::fs::write(&text_file, "Once upon a time.\n<|endoftext|>\nOne day a dog ran home.")
        .unwrap();
    let eval = ["eval", "--model", &model, "--text", &text_file];
    let marked = TABLE5.success(&["generate", "--model", &model, "--prompt", "<|endoftext|>"]);
    assert!(!marked.contains("endoftext"), "{marked}");
    let line = TABLE5.success(&eval);
    assert!(line.contains("nats per token") && line.contains("window 32, stride 16"), "{line}");
    let write = ["generate", "--model", &model, "--tokens", "5", "--prompt"];
    let story = TABLE5.success(&[&write[..], &["One day"]].concat());
    assert!(story.starts_with("One day"), "{story}");
    assert_eq!(story, TABLE5.success(&[&write[..], &["One day"]].concat()));
    let long = "a dog and a cat ".repeat(20);
    let error = TABLE5.failure(&[&write[..], &[&long]].concat());
    assert!(error.contains("longer than the context of 32"), "{error}");
    std::fs::write(at("latin.txt"), [b'a', 0xff]).unwrap();
    let error = TABLE5.failure(&["eval", "--model", &model, "--text", &at("latin.txt")]);
    assert!(error.contains("not UTF-8 at byte 1"), "{error}");

    // Training on, with and without conditioning, from the checkpoint and its tokenizer.
    let init = ["--preset", "smoke", "--init", &model, "--arms", "baseline,pooled", "--seeds", "1"];
    let error = TABLE5.failure(&[&init[..], &["--out", &at("on")]].concat());
    assert!(error.contains("--set learning_rate="), "{error}");
    let table = TABLE5.success(&[&init[..], &fast, &["--out", &at("on")]].concat());
    assert!(table.contains("as set") && table.contains("pooled"), "{table}");
    let again = format!("{}/gpt2/baseline-set/seed100", at("on"));
    TABLE5.success(&["export", "--run", &again, "--out", &at("model2")]);
    TABLE5.success(&["eval", "--model", &at("model2"), "--text", &text_file]);

    // A tokenizer of another model, and none at all.
    let wide = ["--set", "tokenizer=bpe-400"];
    let error = TABLE5.failure(&[&init[..], &fast, &wide, &["--out", &at("wide")]].concat());
    assert!(error.contains("has 300 rows: it belongs to another model"), "{error}");
    let longer = ["--set", "context=64"];
    let error = TABLE5.failure(&[&init[..], &fast, &longer, &["--out", &at("longer")]].concat());
    assert!(error.contains("longer than the position table"), "{error}");
    std::fs::remove_file(root.path().join("model/tokenizer.json")).unwrap();
    let error = TABLE5.failure(&eval);
    assert!(error.contains("no tokenizer"), "{error}");
}

#[test]
fn a_model_with_more_rows_than_tokens_is_trained_judged_and_continued() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name).to_str().unwrap().to_string();
    let small = ["--preset", "smoke", "--arms", "baseline", "--seeds", "1"];
    let fast = ["--set", "learning_rate=1e-3", "--set", "steps=3"];
    TABLE5.success(&[&small[..], &fast, &["--out", &at("out")]].concat());
    let run = format!("{}/gpt2/baseline-set/seed100", at("out"));
    TABLE5.success(&["export", "--run", &run, "--out", &at("model")]);
    // As nanoGPT pads 50,257 tokens to 50,304 rows. Here they are the likeliest of all.
    let (file, config) =
        (root.path().join("model/model.safetensors"), root.path().join("model/config.json"));
    let mut tensors = load_tensors(&file, &Device::Cpu).unwrap();
    for name in ["transformer.wte.weight", "lm_head.weight"] {
        let Some(table) = tensors.get(name) else { continue };
        let rows = (table.narrow(0, 0, 20).unwrap() * 30.0).unwrap();
        let padded = Tensor::cat(&[table, &rows], 0).unwrap();
        tensors.insert(name.to_string(), padded);
    }
    save_tensors(&file, tensors, &Default::default()).unwrap();
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("\"vocab_size\": 300", "\"vocab_size\": 320")).unwrap();

    std::fs::write(at("text.txt"), "Once upon a time a dog ran home.").unwrap();
    TABLE5.success(&["eval", "--model", &at("model"), "--text", &at("text.txt")]);
    let hot = ["--temperature", "5", "--prompt", "One day"];
    let story = TABLE5.success(&[&["generate", "--model", &at("model")], &hot[..]].concat());
    assert!(story.len() > "One day".len() + 20, "{story}");
    let (model, out) = (at("model"), at("on"));
    TABLE5.success(&[&small[..], &fast, &["--init", &model, "--out", &out]].concat());
    let text = std::fs::read_to_string(root.path().join("on/texts.md")).unwrap();
    assert!(text.contains("Once upon a time"), "{text}");
}

#[test]
fn bad_input_gets_one_clear_error() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name).to_str().unwrap().to_string();
    std::fs::create_dir(at("folder")).unwrap();
    std::fs::write(at("empty.txt"), "").unwrap();
    std::fs::write(at("latin.txt"), [b'a', 0xff, b'b', b'\n']).unwrap();
    std::fs::write(at("tiny.txt"), "One.\n\nTwo.\n\nThree.\n").unwrap();
    std::fs::write(at("line.txt"), "One.\n<|endoftext|>\nTwo.\n").unwrap();
    std::fs::write(at("equal.txt"), "One.\n\n".repeat(30)).unwrap();
    std::fs::write(at("packed.txt"), [b"\x1f\x8b\x08", &[0xff; 20][..]].concat()).unwrap();
    std::fs::write(at("half.jsonl"), "{\"text\": \"\\ud83d\"}\n").unwrap();
    std::fs::write(at("broken.jsonl"), "{\"text\": 3}\n").unwrap();
    std::fs::write(at("tokenizer.json"), "{}").unwrap();
    let play = |name: &str| format!("--preset prototype --data {}", at(name));
    let set = |pair: &str| format!("--preset smoke --set {pair}");
    let cases: &[(String, &[&str])] = &[
        (play("absent"), &["absent"]),
        (play("folder"), &["folder", "no text here"]),
        (play("empty.txt"), &["empty.txt"]),
        (play("latin.txt"), &["latin.txt", "UTF-8"]),
        (play("broken.jsonl"), &["broken.jsonl", "text"]),
        (play("tiny.txt"), &["tiny.txt: no document to", "of 3 documents"]),
        (
            play("line.txt"),
            &[
                "line.txt: one document",
                "is blank; 1 lines are \"<|endoftext|>\"",
                "--set separator=",
            ],
        ),
        (play("equal.txt"), &["equal.txt", "its 30 documents are all the same"]),
        (play("packed.txt"), &["packed.txt", "it is a gzip file: unpack it first"]),
        (play("half.jsonl"), &["half.jsonl: line 1", "half a character", "write the text again"]),
        #[cfg(not(feature = "hub"))]
        ("--preset paper --data hub:a/b".to_string(), &["hub:a/b", "--features hub"]),
        (
            "--preset prototype --data owner/stories".to_string(),
            &[
                "no file or folder owner/stories; if it is a data set of the hub, write hub:owner/stories",
            ],
        ),
        (
            "--preset smoke --arms baseline --set learning_rate=1 --init gpt2".to_string(),
            &["no folder gpt2; if it is a model of the hub, write hub:gpt2"],
        ),
        ("--preset prototype".to_string(), &["--data"]),
        (format!("--preset short --data {}", at("tiny.txt")), &["leave out the files"]),
        ("--preset huge".to_string(), &["invalid value 'huge'", "prototype"]),
        ("--arms magic".to_string(), &["invalid value 'magic'", "pooled-norm-matched"]),
        (
            "--preset smoke --arms per-sequence".to_string(),
            &["per-sequence (--allow-future-leak)", "not causal", "whole sequence", "`earlier`"],
        ),
        (set("epoch=3"), &["unknown key `epoch`", "steps"]),
        (set("steps=10"), &["steps=10", "multiple of evaluations"]),
        (set("accumulate=0"), &["--set accumulate=0"]),
        (set("width=15"), &["2 heads do not divide width 15"]),
        (set("strength=-1"), &["-1"]),
        (set("tokenizer=gpt2"), &["no tokenizer at gpt2", "bpe-V"]),
        (set("tokenizer=bpe-9"), &["9", "257"]),
        (set(&format!("tokenizer={}", at("tokenizer.json"))), &["tokenizer.json"]),
        (set("prefix_lengths=[16,33]"), &["33", "context, 32"]),
        (set("prefix_lengths=[32]"), &["at least one below the context"]),
        (set("context=100000"), &["do not fill a window of 100000"]),
        (set("prefix_windows=1000000"), &["prefix_windows=1000000", "give more text"]),
        (set("learning_rate=-1"), &["--set learning_rate=-1: must be above 0"]),
        ("--seeds 0".to_string(), &["--seeds"]),
        ("--threads 0".to_string(), &["--threads"]),
        ("--device cuda:0".to_string(), &["built without CUDA"]),
    ];
    let out = at("out");
    for (arguments, expected) in cases {
        let arguments: Vec<&str> = arguments.split(' ').chain(["--out", &out]).collect();
        let error = TABLE5.failure(&arguments);
        for part in *expected {
            assert!(error.contains(part), "{arguments:?}: {error}");
        }
    }
    let error = TABLE5.failure(&["report", "--out", &at("absent")]);
    assert!(error.contains("no such folder"), "{error}");
}

#[test]
fn tokens_that_were_changed_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    let arguments =
        ["--preset", "smoke", "--arms", "baseline", "--seeds", "1", "--out", out.to_str().unwrap()];
    TABLE5.success(&arguments);
    let cell = "gpt2/baseline-published/seed100";
    let data = out.join("data").read_dir().unwrap().next().unwrap().unwrap().path();
    let shard = data.join("tokens/000000.tokens");
    let bytes = std::fs::read(&shard).unwrap();
    std::fs::write(&shard, &bytes[..bytes.len() / 2]).unwrap();
    let folder = untrained(&out.join(cell), root.path().join("copy"));
    let error = TABLE5.failure(&["train", folder.to_str().unwrap()]);
    assert!(error.contains("000000.tokens"), "{error}");
    // The command that made it makes it again.
    TABLE5.success(&arguments);
    assert_eq!(std::fs::read(&shard).unwrap(), bytes);
}
