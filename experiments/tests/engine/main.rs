//! The engine behind all tables, by the real binaries: what every table must do alike.

#![allow(clippy::unwrap_used)]

mod folders;
#[path = "../support/mod.rs"]
mod support;

use std::collections::HashMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;

use conditioned_models::Architecture;
use conditioned_models::conditioning::{ConditioningConfig, Method};
use experiments::arm::Arm;
use experiments::budget::Shares;
use experiments::run::folder::Folder;
use experiments::run::timing;
use experiments::search::Start;

use support::{Binary, lines, results, stderr, text, untrained};

const TABLE1: Binary = Binary(env!("CARGO_BIN_EXE_table1-imagenet"));
const TABLE2: Binary = Binary(env!("CARGO_BIN_EXE_table2-coco"));
const TABLE3: Binary = Binary(env!("CARGO_BIN_EXE_table3-lra"));
const TABLE4: Binary = Binary(env!("CARGO_BIN_EXE_table4-glue"));
const TABLE5: Binary = Binary(env!("CARGO_BIN_EXE_table5-tinystories"));
const FINETUNE: Binary = Binary(env!("CARGO_BIN_EXE_finetune"));
const FIGURE: Binary = Binary(env!("CARGO_BIN_EXE_figure-conditioning"));
const ANSWER: Binary = Binary(env!("CARGO_BIN_EXE_answer"));
const TOY: Binary = Binary(env!("CARGO_BIN_EXE_toy-table"));

/// The signal of a closed pipe.
const SIGPIPE: i32 = 13;

/// Losses of a short run from the same weights and batches: eight bits, 4e-3, and what training makes of it.
const BF16_LOSS: f64 = 0.05;

/// One arm of one model, in seconds.
const ONE: [&str; 6] = ["--preset", "smoke", "--models", "vit", "--seeds", "1"];

fn at(root: &tempfile::TempDir, name: &str) -> String {
    root.path().join(name).to_str().unwrap().to_string()
}

/// Mixed precision is a setting of a run: recorded, near full precision, and as repeatable.
#[test]
fn a_run_in_bf16_is_near_one_in_f32_and_resumes_to_the_same_bits() {
    let root = tempfile::tempdir().unwrap();
    let run = |name: &str, precision: &str, threads: &str| {
        let out = at(&root, name);
        let one = ["--arms", "pooled-current", "--threads", threads, "--out", &out];
        let set = ["--set", "epochs=12", "--set", precision];
        TABLE1.success(&[&ONE[..], &one, &set].concat());
        out
    };
    let full = run("full", "precision=f32", "1");
    let (mixed, again) = (run("mixed", "precision=bf16", "1"), run("again", "precision=bf16", "2"));
    assert_eq!(results(Path::new(&mixed)), results(Path::new(&again)));
    let cell = |out: &str| Path::new(out).join("vit/pooled-current-published/seed100");
    let losses = |out: &str| -> Vec<f64> {
        let record = text(&cell(out).join("metrics.jsonl"));
        let events = record.lines().map(|line| serde_json::from_str(line).unwrap());
        let steps = events.filter(|event: &serde_json::Value| event["event"] == "step");
        steps.map(|event| event["loss"].as_f64().unwrap()).collect()
    };
    let (full_losses, mixed_losses) = (losses(&full), losses(&mixed));
    assert!(!full_losses.is_empty() && full_losses != mixed_losses);
    for (full, mixed) in full_losses.iter().zip(&mixed_losses) {
        assert!((full / mixed - 1.0).abs() < BF16_LOSS, "{full} {mixed}");
    }
    let config = text(&cell(&mixed).join("run.json"));
    assert!(config.contains("\"precision\": \"bf16\""), "{config}");
    TABLE1.resumes(&cell(&mixed), &root.path().join("resumed"));
    let title = |out: &str| text(&Path::new(out).join("table.md"));
    assert!(title(&mixed).contains("trained in bf16") && !title(&full).contains("bf16"));

    let error = TABLE1.failure(&[&ONE[..], &["--set", "precision=f16"]].concat());
    assert!(error.contains("f16") && error.contains("bf16"), "{error}");
}

#[test]
fn the_table_of_contributing_goes_through_every_command() {
    let page = text(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../CONTRIBUTING.md"));
    let code = text(&Path::new(env!("CARGO_MANIFEST_DIR")).join("toy_table/main.rs"));
    assert!(code.lines().count() < 80);
    assert!(page.contains(code.trim()), "CONTRIBUTING.md does not show toy_table/main.rs");

    let root = tempfile::tempdir().unwrap();
    let (search, out) = (at(&root, "search"), at(&root, "out"));
    // Nothing was searched yet: the error says how.
    let error = TOY.failure(&["--out", &out]);
    assert!(error.contains("tune --preset small --models vit --arms baseline"), "{error}");
    TOY.success(&["tune", "--out", &search]);
    let tuned = format!("{search}/tuned.json");
    // For a longer run the learning rates alone are searched again, even where a strength is open.
    let (found, longer) = (at(&root, "found.json"), at(&root, "longer"));
    let mut file: serde_json::Value = serde_json::from_str(&text(Path::new(&tuned))).unwrap();
    let search = &mut file["rows"]["vit"]["pooled"];
    for what in ["published", "tuned"] {
        search[what]["strength"] = 0.3.into();
    }
    for point in search["points"].as_array_mut().unwrap() {
        point["setting"]["strength"] = 0.3.into();
    }
    std::fs::write(&found, file.to_string()).unwrap();
    let set = ["--set", "epochs=3", "--set", "strength=null"];
    TOY.success(&[&["tune", "--tuned", &found, "--out", &longer], &set[..]].concat());
    let settings = |file: &Path, what: &str| -> Vec<serde_json::Value> {
        let file: serde_json::Value = serde_json::from_str(&text(file)).unwrap();
        let search = &file["rows"]["vit"]["pooled"];
        let points = search["points"].as_array().unwrap().iter().map(|p| p["setting"].clone());
        let mut settings = match what {
            "points" => points.collect(),
            _ => vec![search["published"].clone(), search["tuned"].clone()],
        };
        settings.iter_mut().for_each(|s| s["learning_rate"] = serde_json::Value::Null);
        settings
    };
    let tried = settings(&Path::new(&longer).join("tuned.json"), "points");
    let found = settings(Path::new(&found), "found");
    assert!(tried.len() > 2 && tried.iter().all(|s| found.contains(s)), "{tried:?} {found:?}");
    let plan = TOY.success(&["plan", "--tuned", &tuned]);
    assert!(plan.contains("vit pooled published") && plan.contains("4 runs"), "{plan}");
    let run = ["--tuned", &tuned, "--set", "epochs=8", "--out", &out];
    let table = TOY.success(&run);
    assert!(table.contains("pooled") && table.contains("Δ to baseline"), "{table}");
    // What its search gave the arms is told by the file beside the runs.
    assert!(table.contains("was given the same"), "{table}");
    assert!(root.path().join("out/settings.json").exists());
    let cell = root.path().join("out/vit/pooled-published/seed100");
    // A run that was claimed and never begun changes nothing.
    let claimed = untrained(&cell, root.path().join("out/vit/pooled-published/seed199"));
    assert_eq!(TOY.success(&["report", "--out", &out]), table);
    std::fs::remove_dir_all(claimed).unwrap();
    TOY.resumes(&cell, &root.path().join("killed"));

    // Two shards and then the whole are the same table.
    let sharded = at(&root, "sharded");
    let shard = |i: &str| {
        let parts = [&run[..4], &["--out", &sharded, "--shard", i]].concat();
        TOY.success(&parts)
    };
    assert!(shard("0/2").is_empty() && shard("1/2").is_empty(), "a shard prints no table");
    TOY.success(&[&run[..4], &["--out", &sharded]].concat());
    assert_eq!(results(Path::new(&out)), results(Path::new(&sharded)));
}

#[test]
fn an_arm_is_a_method_and_an_optimiser() {
    let root = tempfile::tempdir().unwrap();
    let out = at(&root, "out");
    let arms = "baseline,muon,muon+pooled-current,factor,pooled-frozen,learned-map";
    let set = ["--set", "learning_rate=2e-3", "--set", "epochs=8"];
    let run = [&ONE[..], &set, &["--arms", arms, "--out", &out]].concat();
    let table = TABLE1.success(&run);
    for arm in arms.split(',') {
        assert!(table.contains(arm), "{arm}: {table}");
        let config = text(&root.path().join(format!("out/vit/{arm}-set/seed100/run.json")));
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        let muon = &config["job"]["fit"]["muon"];
        assert_eq!(muon.is_null(), !arm.starts_with("muon"), "{arm}");
        if arm.starts_with("muon") {
            let packed = muon["constants"]["packed"].as_array().unwrap();
            assert!(packed.iter().any(|packed| packed["names"] == "*.qkv.weight"), "{arm}");
        }
    }
    let lines = lines(Path::new(&out));
    let loss = |arm: &str| {
        let own =
            |line: &&HashMap<String, String>| line["arm"] == arm && line["metric"] == "test_loss";
        lines.iter().find(own).unwrap()["value"].clone()
    };
    assert_ne!(loss("baseline"), loss("muon"));
    assert_ne!(loss("muon"), loss("muon+pooled-current"));
    TABLE1.resumes(&root.path().join("out/vit/muon-set/seed100"), &root.path().join("killed"));
    let error = TABLE1.failure(&[&ONE[..], &["--arms", "muon+nothing"]].concat());
    assert!(error.contains("no arm `muon+nothing`; known: baseline, init"), "{error}");
}

/// An arm whose step takes twice as long has half the micro-batches, whatever the unit of the run.
#[test]
fn equal_time_is_counted_in_micro_batches() {
    let root = tempfile::tempdir().unwrap();
    let out = at(&root, "out");
    let set = ["--set", "epochs=4", "--set", "learning_rate=1e-3", "--out", &out];
    TOY.success(&[&["--arms", "baseline", "--seeds", "1"], &set[..]].concat());
    let baseline = Folder::new(root.path().join("out/vit/baseline-set/seed100")).config().unwrap();
    let mut muon = baseline.clone();
    muon.cell.arm = Arm::MUON;
    let quarter = (muon.job.micro_batches() / 4) as u64;
    let ramped = ConditioningConfig { ramp_steps: quarter, ..Method::factor(2.0).unwrap().into() };
    muon.job.network.set_conditioning(ramped);
    let timings = timing::read(Path::new(&out)).unwrap();
    let mut timings = [timings[0].clone(), timings[0].clone()];
    (timings[1].arm, timings[1].ms_per_step) = (Arm::MUON, 2.0 * timings[0].ms_per_step);
    // At a setting that is not its best the arm may be another.
    let mut published = muon.clone();
    published.cell.start = Start::Published;
    published.job.network.set_conditioning(Method::factor(2.0).unwrap().into());
    let runs = [baseline.clone(), published, muon.clone()];
    let shares = Shares::keep(root.path(), &timings, &runs).unwrap();
    let [timed] = &shares.at_equal_time(&[baseline.clone(), muon])[..] else { panic!("one arm") };
    assert_eq!(2 * timed.job.micro_batches(), baseline.job.micro_batches());
    // As many evaluations as the baseline has.
    assert_eq!(timed.job.micro_batches() / timed.job.fit.evaluate_every, 4);
    // A ramp is the same part of it.
    assert_eq!(2 * timed.job.network.conditioning().ramp_steps, quarter);
    // Times of two commits are not compared.
    timings[1].commit = "another".to_string();
    let elsewhere = tempfile::tempdir().unwrap();
    let shares = Shares::keep(elsewhere.path(), &timings, &runs).unwrap();
    assert!(shares.at_equal_time(&runs).is_empty());
}

#[test]
fn the_answer_lists_its_cells_and_says_what_is_missing() {
    let root = tempfile::tempdir().unwrap();
    let places = ["--out", &at(&root, "out"), "--results", &at(&root, "results")];
    let list = ANSWER.success(&places);
    assert_eq!(list.matches("not begun").count(), 10, "{list}");
    let run = |arguments: &[&str]| ANSWER.failure(&[&["run"], arguments, &places].concat());
    assert!(run(&["nothing"]).contains("no cell `nothing`; known: digits-vit"));
    assert!(run(&["mnist-vit"]).contains("mnist-vit: needs --data with mnist"));
    let here = at(&root, "");
    assert!(run(&["mnist-vit", "--data", &here]).contains("mnist is missing"));
    let error = ANSWER.failure(&[&["render", "--docs", &here], &places[..]].concat());
    assert!(error.contains("no finished cell"), "{error}");
}

#[test]
fn every_binary_plans_and_refuses_to_tune_what_is_set() {
    let root = tempfile::tempdir().unwrap();
    let out = at(&root, "out");
    for (binary, presets) in [
        (TABLE1, &["smoke", "short"][..]),
        (TABLE3, &["smoke", "short"]),
        (TABLE4, &["smoke", "short"]),
        (TABLE5, &["smoke", "short"]),
        (FIGURE, &["smoke", "short"]),
    ] {
        for preset in presets {
            let plan =
                binary.command(&["plan", "--preset", preset, "--out", &out]).output().unwrap();
            assert!(plan.status.success(), "{}", stderr(&plan));
            let text = support::stdout(&plan);
            assert!(text.contains("baseline published") && text.contains("seed"), "{text}");
            // Recorded settings are those of the grid and the strength of the preset.
            assert!(!stderr(&plan).contains("warning"), "{preset}: {}", stderr(&plan));
        }
        for key in ["learning_rate=1e-3", "embedding_lr_scale=2", "embedding_std=0.1"] {
            let error = binary.failure(&["tune", "--preset", "smoke", "--set", key, "--out", &out]);
            assert!(error.contains("fixes what `tune` searches"), "{key}: {error}");
        }
        let error =
            binary.failure(&["--preset", "smoke", "--tuned", "x", "--set", "learning_rate=1"]);
        assert!(error.contains("--tuned: the learning rate is set"), "{error}");
    }
}

#[test]
fn settings_of_another_recipe_are_told_once() {
    let warnings = |set: &[&str]| -> Vec<String> {
        let plan = ["plan", "--preset", "smoke", "--models", "vit", "--seeds", "3"];
        let arms = ["--arms", "baseline,per-sequence"];
        let output = TABLE1.command(&[&plan[..], &arms, set].concat()).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        stderr(&output)
            .lines()
            .filter(|line| line.starts_with("warning"))
            .map(str::to_string)
            .collect()
    };
    let [other] = &warnings(&["--set", "strength=0.1", "--set", "probe_every=2"])[..] else {
        panic!("one warning");
    };
    assert!(other.contains("vit per-sequence: the recorded settings were searched at strength"));
    let [other] = &warnings(&["--set", "epochs=6", "--set", "batch_size=16"])[..] else {
        panic!("one warning");
    };
    assert!(other.contains("the recipe of preset smoke, and --set changes batch_size, epochs"));
    assert!(warnings(&["--set", "epochs=6", "--set", "learning_rate=1e-3"]).is_empty());
}

#[test]
fn init_finds_its_own_scale_whatever_is_set() {
    let root = tempfile::tempdir().unwrap();
    let out = at(&root, "out");
    let set = ["--arms", "baseline,init", "--set", "embedding_std=0.5", "--out", &out];
    TABLE1.success(&[&ONE[..], &set].concat());
    for line in lines(Path::new(&out)) {
        assert_eq!(line["embedding_std"] == "0.5", line["arm"] == "baseline", "{line:?}");
        assert_eq!(line["start"], "set");
    }
    // The configuration that was saved before the first step is the one that trained.
    let saved = text(&root.path().join("out/vit/init-set/seed100/run.json"));
    let saved: serde_json::Value = serde_json::from_str(&saved).unwrap();
    let std = saved["job"]["network"]["vit"]["table_std"].as_f64().unwrap();
    let line = lines(Path::new(&out)).into_iter().find(|line| line["arm"] == "init").unwrap();
    assert_eq!(line["embedding_std"].parse::<f64>().unwrap(), std);
}

#[test]
fn a_step_has_the_tokens_of_all_its_micro_batches() {
    let root = tempfile::tempdir().unwrap();
    let numbers = |accumulate: usize| -> [f64; 2] {
        let (out, set) = (at(&root, &accumulate.to_string()), format!("accumulate={accumulate}"));
        let own = ["--preset", "smoke", "--arms", "baseline", "--seeds", "1", "--out", &out];
        TABLE5.success(&[&own[..], &["--set", &set, "--set", "learning_rate=1e-3"]].concat());
        let lines = lines(Path::new(&out));
        ["step_tokens", "timed_steps"].map(|metric| {
            let line = lines.iter().find(|line| line["metric"] == metric).unwrap();
            line["value"].parse().unwrap()
        })
    };
    let ([tokens, steps], [more_tokens, same_steps]) = (numbers(1), numbers(3));
    assert_eq!((3.0 * tokens, steps), (more_tokens, same_steps));
}

#[test]
fn what_no_run_can_have_is_refused_before_anything_is_written() {
    let root = tempfile::tempdir().unwrap();
    let out = at(&root, "out");
    for epochs in ["18000000000000000000", "900000000"] {
        let set = format!("epochs={epochs}");
        let more = ["--preset", "smoke", "--models", "vit", "--set", &set, "--out", &out];
        for command in ["plan", "run"] {
            let error = TABLE1.failure(&[&[command], &more[..]].concat());
            assert!(error.contains("more than a run can have"), "{error}");
        }
    }
    assert!(!Path::new(&out).exists());
}

#[test]
fn sizes_of_generated_data_are_refused_with_files() {
    let root = tempfile::tempdir().unwrap();
    let (files, out) = (at(&root, "files"), at(&root, "out"));
    std::fs::create_dir_all(Path::new(&files).join("listops-1000")).unwrap();
    for (binary, given, set) in [
        (TABLE2, &["--preset", "nuclei", "--data", &files][..], "train_images=5"),
        (TABLE3, &["--lra", &files, "--models", "listops"], "tune_rows=5"),
        (TABLE4, &["--preset", "paper", "--corpus", &files, "--data", &files], "task_rows=5"),
        (TABLE5, &["--data", &files], "stories=5"),
    ] {
        let error = binary.failure(&[given, &["--set", set, "--out", &out]].concat());
        assert!(error.contains(&format!("--set {set}: is for generated data")), "{error}");
    }
    // A row that is generated takes them, and of the others it is said that they do not.
    let both = ["plan", "--models", "image,pathfinder", "--set", "tune_rows=5", "--out", &out];
    let plan = { TABLE3.command(&[&both[..], &["--preset", "short"]].concat()) }.output().unwrap();
    let error = stderr(&plan);
    assert!(plan.status.success(), "{error}");
    assert!(error.contains("row image: --set tune_rows=5 is for generated data"), "{error}");
    assert!(!error.contains("row pathfinder"), "{error}");
}

#[test]
fn a_closed_pipe_ends_a_command_quietly() {
    let root = tempfile::tempdir().unwrap();
    let out = at(&root, "out");
    TABLE1.success(&[&ONE[..], &["--arms", "baseline", "--out", &out]].concat());
    for arguments in [&["report", "--out", &out][..], &["plan", "--preset", "smoke"]] {
        let mut command = TABLE1.command(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.signal(), Some(SIGPIPE), "{arguments:?}: {}", stderr(&output));
        assert_eq!(stderr(&output), "");
    }
}

#[test]
fn events_are_lines_or_json_and_every_run_keeps_its_log() {
    let root = tempfile::tempdir().unwrap();
    let arguments = |out: &str, more: &[&str]| {
        let own = [&ONE[..], &["--arms", "baseline", "--out", out]].concat();
        let output = TABLE1.command(&[&own, more].concat()).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        stderr(&output)
    };
    let human = arguments(&at(&root, "human"), &[]);
    assert!(human.contains("1 run: "), "{human}");
    assert!(human.contains("[1/1] vit baseline published seed 100 in "), "{human}");
    assert!(human.lines().all(|line| !line.starts_with('{')), "{human}");

    let json = arguments(&at(&root, "json"), &["--log-format", "json"]);
    let events: Vec<serde_json::Value> =
        json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(events.len() >= 2 && events.iter().all(|e| e["timestamp"].is_string()), "{json}");
    let in_cell = events.iter().find(|e| e["span"]["cell"] == "vit baseline published seed 100");
    assert!(in_cell.unwrap()["spans"][0]["table"] == "table1-imagenet", "{json}");

    let log = text(&root.path().join("human/vit/baseline-published/seed100/log.jsonl"));
    for message in ["training begins", "finished"] {
        assert!(log.contains(message), "{message} is missing in {log}");
    }
    let mut quiet = TABLE1.command(&["report", "--out", &at(&root, "human")]);
    let output = quiet.env("RUST_LOG", "off").output().unwrap();
    assert!(output.status.success() && stderr(&output).is_empty());
}

#[test]
fn the_siblings_train_in_every_table_that_they_fit() {
    let root = tempfile::tempdir().unwrap();
    let siblings = "spectral-conditioning,weight-conditioning,preconditioned-attention";
    let rate = ["--seeds", "1", "--set", "learning_rate=1e-3", "--set", "spectral_lambda=0.1"];
    for (binary, name, arms) in [
        (TABLE1, "t1", format!("baseline,token-graying,{siblings}")),
        (TABLE3, "t3", format!("baseline,token-graying,{siblings}")),
        (TABLE4, "t4", format!("baseline,token-graying,{siblings}")),
        (TABLE5, "t5", format!("baseline,{siblings}")),
    ] {
        let out = at(&root, name);
        let arguments =
            [&["--preset", "smoke", "--arms", &arms, "--out", &out][..], &rate].concat();
        binary.success(&arguments);
        let lines = lines(Path::new(&out));
        let loss = |arm: &str| {
            let is = |line: &&std::collections::HashMap<String, String>| {
                line["arm"] == arm && line["metric"] == "test_loss"
            };
            lines.iter().find(is).unwrap_or_else(|| panic!("{name}: no {arm}"))["value"].clone()
        };
        for arm in arms.split(',').skip(1) {
            assert_ne!(loss(arm), loss("baseline"), "{name}: {arm} does nothing");
        }
    }
    let error = TABLE5.failure(&["--preset", "smoke", "--arms", "token-graying"]);
    assert!(error.contains("not causal"), "{error}");
}

#[test]
fn finetune_has_the_commands_of_all() {
    for command in ["run", "plan", "tune", "sweep", "report", "export"] {
        for binary in [TABLE1, TABLE3, TABLE4, TABLE5, FINETUNE] {
            let help = binary.success(&[command, "--help"]);
            let options = ["--models", "--arms", "--seeds", "--set", "--tuned", "--shard", "--out"];
            let takes = !["report", "export"].contains(&command);
            assert!(options.iter().all(|o| help.contains(o) || !takes), "{command}: {help}");
        }
    }
}
