//! The engine behind all tables, by the real binaries: what every table must do alike.

#![allow(clippy::unwrap_used)]

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

use support::{Binary, LONGEST, lines, results, stderr, text, untrained};

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
fn another_strength_is_another_table() {
    let root = tempfile::tempdir().unwrap();
    for (binary, arm, row) in
        [(TABLE1, "per-sequence", ["--models", "vit"]), (TABLE5, "pooled", ["--models", "gpt2"])]
    {
        let both = root.path().join(arm);
        for t in ["0.3", "1"] {
            let (out, set) = (both.join(t), format!("strength={t}"));
            let own = ["--preset", "smoke", "--arms", arm, "--seeds", "1", "--set", &set];
            let rate = ["--set", "learning_rate=1e-3", "--out", out.to_str().unwrap()];
            binary.success(&[&own[..], &row, &rate].concat());
        }
        let error = binary.failure(&["report", "--out", both.to_str().unwrap()]);
        assert!(error.contains("another learning rate, embedding table, strength"), "{error}");
    }
}

#[test]
fn seeds_at_other_rates_are_another_table() {
    let root = tempfile::tempdir().unwrap();
    let out = at(&root, "out");
    let own = ["--preset", "smoke", "--models", "vit", "--arms", "baseline", "--seeds", "2"];
    for (shard, rate) in [("0/2", "learning_rate=1e-3"), ("1/2", "learning_rate=5e-2")] {
        TABLE1.success(&[&own[..], &["--set", rate, "--shard", shard, "--out", &out]].concat());
    }
    let error = TABLE1.failure(&["report", "--out", &out]);
    assert!(error.contains("another learning rate"), "{error}");
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
fn a_finished_run_without_its_record_is_named() {
    let root = tempfile::tempdir().unwrap();
    let out = at(&root, "out");
    let run = [&ONE[..], &["--arms", "baseline", "--out", &out]].concat();
    TABLE1.success(&run);
    let folder = Path::new(&out).join("vit/baseline-published/seed100");
    std::fs::remove_file(folder.join("metrics.jsonl")).unwrap();
    let error = TABLE1.failure(&["report", "--out", &out]);
    assert!(error.contains("the record of this finished run is gone; restore it"), "{error}");
    // Another configuration does not take its place.
    let before = text(&folder.join("run.json"));
    let error = TABLE1.failure(&[&run[..], &["--set", "epochs=7"]].concat());
    assert!(error.contains("another configuration"), "{error}");
    assert_eq!(text(&folder.join("run.json")), before);
}

/// A worker trains the configuration that it finds in its folder.
#[test]
fn a_run_that_another_command_has_claimed_is_no_result() {
    let root = tempfile::tempdir().unwrap();
    let out = at(&root, "out");
    let run = ["--preset", "smoke", "--models", "vit", "--seeds", "1", "--threads", "1"];
    let arms = ["--arms", "baseline,per-sequence", "--out", &out];
    let slow = ["--set", "learning_rate=1e-3", "--set", "epochs=40"];
    let mut first = TABLE1.command(&[&run[..], &arms, &slow].concat());
    let first = first.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let [baseline, other] = ["baseline", "per-sequence"]
        .map(|arm| root.path().join(format!("out/vit/{arm}-set/seed100")));
    let limit = std::time::Instant::now() + LONGEST;
    while !baseline.join("metrics.jsonl").exists() {
        assert!(std::time::Instant::now() < limit, "not begun");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    // As another command claims it before it is begun.
    let claimed = other.join("run.json");
    let mut config = Folder::new(&other).config().unwrap();
    config.job.fit.schedule.peak = 0.05;
    std::fs::write(&claimed, serde_json::to_string(&config).unwrap()).unwrap();
    let output = first.wait_with_output().unwrap();
    let error = stderr(&output);
    assert!(!output.status.success() && error.contains("another command has put"), "{error}");
}

#[test]
fn only_one_table_is_made_of_a_folder_and_each_cell_once() {
    let root = tempfile::tempdir().unwrap();
    // A model that is named twice is trained once.
    let out = at(&root, "out");
    let twice = ["--preset", "smoke", "--models", "vit,vit", "--arms", "baseline", "--seeds", "1"];
    TABLE1.success(&[&twice[..], &["--out", &out]].concat());
    // The records of another table, and of two presets, are no table.
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let copy = root.path().join("copy");
    std::fs::create_dir(&copy).unwrap();
    let file = copy.join("results.csv");
    let copy = copy.to_str().unwrap();
    std::fs::copy(here.join("table5_tinystories/results/short/results.csv"), &file).unwrap();
    let error = TABLE1.failure(&["report", "--out", copy]);
    assert!(error.contains("not one table of table1-imagenet"), "{error}");
    let [short, mnist] = ["short", "mnist-4k"]
        .map(|preset| text(&here.join(format!("table1_imagenet/results/{preset}/results.csv"))));
    let both = short.clone() + mnist.split_once('\n').unwrap().1;
    std::fs::write(&file, both).unwrap();
    let error = TABLE1.failure(&["report", "--out", copy]);
    assert!(error.contains("twice") || error.contains("not one table"), "{error}");
    assert_eq!(std::fs::read_dir(copy).unwrap().count(), 1, "nothing was written");
    // Settings of another table are told.
    let other = here.join("table5_tinystories/tuned/smoke.json");
    let tuned = ["plan", "--preset", "smoke", "--tuned", other.to_str().unwrap()];
    for command in ["plan", "tune"] {
        let error = TABLE1.failure(&[&[command], &tuned[1..]].concat());
        assert!(error.contains("settings of gpt2"), "{error}");
    }
}

#[test]
fn an_interrupted_folder_of_runs_can_be_moved() {
    let root = tempfile::tempdir().unwrap();
    let (out, moved) = (root.path().join("out"), root.path().join("moved"));
    let own = ["--preset", "smoke", "--arms", "pooled", "--seeds", "1", "--set", "steps=300"];
    let arguments = |out: &Path| {
        let out = ["--threads", "1", "--out", out.to_str().unwrap()];
        own.iter().chain(&out).map(ToString::to_string).collect::<Vec<_>>()
    };
    let mut child =
        TABLE5.command(&[]).args(arguments(&out)).stderr(Stdio::null()).spawn().unwrap();
    let run = out.join("gpt2/pooled-published/seed100");
    let limit = std::time::Instant::now() + support::LONGEST;
    while !support::has_checkpoint(&run) {
        assert!(std::time::Instant::now() < limit, "no checkpoint after two minutes");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let lock = std::fs::File::open(run.join("lock")).unwrap();
    lock.lock().unwrap();
    drop(lock);
    std::fs::rename(&out, &moved).unwrap();
    let arguments = arguments(&moved);
    TABLE5.success(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn an_exported_model_does_not_get_in_the_way_of_runs() {
    let root = tempfile::tempdir().unwrap();
    let out = at(&root, "out");
    let run = [&ONE[..], &["--arms", "baseline", "--out", &out]].concat();
    let table = TABLE1.success(&run);
    let cell = format!("{out}/vit/baseline-published/seed100");
    for inside in [cell.clone(), format!("{cell}/model")] {
        let error = TABLE1.failure(&["export", "--run", &cell, "--out", &inside]);
        assert!(error.contains("in the folder of a run"), "{error}");
    }
    // Beside the runs it is welcome.
    TABLE1.success(&["export", "--run", &cell, "--out", &format!("{out}/vit/model")]);
    assert_eq!(TABLE1.success(&["report", "--out", &out]), table);
    // The page has the table, what the run was configured as, and asks for nothing.
    let page = std::fs::read_to_string(format!("{out}/report.html")).unwrap();
    for part in
        ["<td>ViT</td>", "learning curves", "&#34;cell&#34;", "rustc", "The search of preset smoke"]
    {
        assert!(page.to_lowercase().contains(&part.to_lowercase()), "{part}");
    }
    // The records for TensorBoard: a file a run, the same bytes again.
    let file =
        format!("{out}/tensorboard/vit/baseline-published/seed100/events.out.tfevents.report");
    let board = || {
        let printed = TABLE1.success(&["report", "--out", &out, "--tensorboard"]);
        assert!(printed.contains(&format!("tensorboard --logdir {out}/tensorboard")), "{printed}");
        std::fs::read(&file).unwrap()
    };
    let first = board();
    let holds = |tag: &str| first.windows(tag.len()).any(|bytes| bytes == tag.as_bytes());
    assert!(holds("training/loss") && holds("evaluation/tune_accuracy"));
    assert_eq!(board(), first);
    assert_eq!(TABLE1.success(&run), table);
}

#[test]
fn a_run_of_the_old_layout_is_told_so() {
    let root = tempfile::tempdir().unwrap();
    let old = root.path().join("out/vit/baseline-published/seed100");
    std::fs::create_dir_all(&old).unwrap();
    std::fs::write(old.join("config.json"), "{\"version\": \"0.1.0\"}").unwrap();
    for file in ["metrics.jsonl", "lock"] {
        std::fs::write(old.join(file), "").unwrap();
    }
    let out = at(&root, "out");
    let run = [&ONE[..], &["--arms", "baseline", "--out", &out]].concat();
    for arguments in [&["report", "--out", &out][..], &run] {
        let error = TABLE1.failure(arguments);
        assert!(error.contains("another version") && error.contains("another layout"), "{error}");
    }
    // Nothing was written into it.
    assert_eq!(std::fs::read_dir(&old).unwrap().count(), 3);
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

/// Every committed table is the one of its committed results, in its folder and in its README.
#[test]
fn committed_tables_are_those_of_the_committed_results() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seen = 0;
    for (binary, folder) in [
        (TABLE1, "table1_imagenet"),
        (TABLE2, "table2_coco"),
        (TABLE3, "table3_lra"),
        (TABLE4, "table4_glue"),
        (TABLE5, "table5_tinystories"),
        (FIGURE, "figure_conditioning"),
    ] {
        for results in here.join(folder).join("results").read_dir().unwrap() {
            let results = results.unwrap().path();
            let copy = tempfile::tempdir().unwrap();
            for file in ["results.csv", "timings.csv"] {
                std::fs::copy(results.join(file), copy.path().join(file)).unwrap();
            }
            let (readme, insert) =
                (here.join(folder).join("README.md"), copy.path().join("README.md"));
            std::fs::copy(&readme, &insert).unwrap();
            let (out, insert) = (copy.path().to_str().unwrap(), insert.to_str().unwrap());
            binary.success(&["report", "--out", out, "--insert", insert]);
            let remedy =
                format!("run: report --out {} --insert {}", results.display(), readme.display());
            for file in ["results.csv", "table.md", "table.tex"] {
                let (new, old) = (text(&copy.path().join(file)), text(&results.join(file)));
                assert!(
                    new == old,
                    "{}/{file} is not that of its results; {remedy}",
                    results.display()
                );
            }
            assert!(text(Path::new(insert)) == text(&readme), "{}: {remedy}", readme.display());
            seen += 1;
        }
    }
    assert!(seen >= 8, "{seen} tables");
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
