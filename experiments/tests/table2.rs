//! The real binaries of table 2 and `detect`: the smoke table, determinism, resume, files of one's own, what runs leave,
//! errors.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;

use conditioned_data::{
    Category, CocoSet, Detection, DetectionKind, Examples, read_detections, score_detections,
};
use support::{Binary, lines, results, text};

const TABLE2: Binary = Binary(env!("CARGO_BIN_EXE_table2-coco"));
const INSPECT: Binary = Binary(env!("CARGO_BIN_EXE_inspect"));
const DETECT: Binary = Binary(env!("CARGO_BIN_EXE_detect"));

/// One step a batch for two epochs, at a rate that need not be searched.
const FEW: [&str; 4] = ["--preset", "smoke", "--set", "learning_rate=1e-3"];

fn run(out: &Path, more: &[&str]) -> String {
    TABLE2.success(&[&FEW[..], &["--out", out.to_str().unwrap()], more].concat())
}

#[test]
fn the_smoke_table_is_complete_and_repeats_bit_for_bit() {
    let root = tempfile::tempdir().unwrap();
    let (first, second) = (root.path().join("first"), root.path().join("second"));
    let table = run(&first, &["--threads", "1"]);
    for word in ["stand-in for COCO", "box AP", "mask AP", "44.9", "41.4"] {
        assert!(table.contains(word), "{word} is missing in\n{table}");
    }
    let lines = lines(&first);
    for row in ["xcit-s", "xcit-m"] {
        for arm in ["baseline", "per-sequence", "pooled-current"] {
            for metric in ["test_box_ap", "test_mask_ap50", "kappa_sequence_conditioned"] {
                let cells = lines.iter().filter(|line| {
                    line["row"] == row && line["arm"] == arm && line["metric"] == metric
                });
                assert_eq!(cells.count(), 2, "{row} {arm} {metric}");
            }
        }
    }
    run(&second, &["--threads", "2"]);
    assert_eq!(results(&first), results(&second), "one and two cells side by side");
    assert_eq!(TABLE2.success(&["report", "--out", first.to_str().unwrap()]), table);
    TABLE2.resumes(&first.join("xcit-s/pooled-current-set/seed100"), &root.path().join("resumed"));
}

/// Two training images and one to report on, with one object each, as COCO describes them.
fn write_set(folder: &Path, box_of_last: &str) {
    fs::create_dir_all(folder.join("images")).unwrap();
    let (mut images, mut annotations) = (Vec::new(), Vec::new());
    for (i, (split, size)) in
        [("train", [40u32, 64]), ("train", [64, 48]), ("val", [50, 50])].into_iter().enumerate()
    {
        let [height, width] = size;
        let file = folder.join(format!("images/{i}.png"));
        let picture = image::RgbImage::from_fn(width, height, |x, y| {
            image::Rgb([(x * 4) as u8, (y * 4) as u8, if (10..30).contains(&x) { 200 } else { 0 }])
        });
        picture.save(file).unwrap();
        images.push(format!(
            r#"{{"id":{i},"file_name":"{i}.png","height":{height},"width":{width},"split":"{split}"}}"#
        ));
        let corners = if i == 2 { box_of_last } else { "[10,5,20,20]" };
        annotations.push(format!(
            r#"{{"id":{i},"image_id":{i},"category_id":7,"bbox":{corners},"area":400,"iscrowd":0,
            "segmentation":[[10,5,30,5,30,25,10,25]]}}"#
        ));
    }
    let json = format!(
        r#"{{"images":[{}],"annotations":[{}],"categories":[{{"id":7,"name":"cell"}}]}}"#,
        images.join(","),
        annotations.join(",")
    );
    fs::write(folder.join("coco.json"), json).unwrap();
}

#[test]
fn images_of_ones_own_train_and_broken_annotations_are_named() {
    let root = tempfile::tempdir().unwrap();
    let (data, out) = (root.path().join("cells"), root.path().join("out"));
    write_set(&data, "[10,5,20,20]");
    let own = |data: &str, out: &str| {
        let small =
            ["published=false", "epochs=1", "evaluations=1", "tune_images=1", "batch_size=1"];
        let mut arguments = vec!["--data", data, "--out", out, "--models", "xcit-s"];
        arguments.extend(["--arms", "baseline,pooled-current", "--seeds", "1"]);
        for setting in ["model=xcit-64-tiny"].iter().chain(&small) {
            arguments.extend(["--set", setting]);
        }
        arguments.into_iter().map(str::to_string).collect::<Vec<_>>()
    };
    let arguments = own(data.to_str().unwrap(), out.to_str().unwrap());
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let table = TABLE2.success(&arguments);
    assert!(table.contains("Table 2 on cells") && !table.contains("stand-in"), "{table}");
    let run = |arm: &str| out.join(format!("xcit-s/{arm}-set/seed100"));
    for arm in ["baseline", "pooled-current"] {
        what_a_run_leaves_is_what_it_reports(&data, &run(arm));
    }
    let run = run("pooled-current");
    let page = text(&out.join("report.html"));
    assert_eq!(page.matches("data:image/png;base64,").count(), 2, "a sheet for each arm");
    detections_are_drawn_and_written(&data, &run, &root.path().join("found"));
    let error = INSPECT.failure(&[run.to_str().unwrap()]);
    assert!(error.contains("a detector, which `inspect` cannot look into"), "{error}");

    let (broken, elsewhere) = (root.path().join("broken"), root.path().join("elsewhere"));
    write_set(&broken, "[10,5,200,20]");
    let arguments = own(broken.to_str().unwrap(), elsewhere.to_str().unwrap());
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let error = TABLE2.failure(&arguments);
    assert!(error.contains("coco.json") && error.contains("annotation 2"), "{error}");
    let error = TABLE2.failure(&["--preset", "paper", "--out", elsewhere.to_str().unwrap()]);
    assert!(error.contains("--data DIR"), "{error}");
    let error = TABLE2.failure(&["--preset", "short", "--set", "probe_every=5"]);
    assert!(error.contains("a detector has no probes"), "{error}");
}

/// The results in the folder of a run give the AP of its summary, and its sheet is a picture.
fn what_a_run_leaves_is_what_it_reports(data: &Path, run: &Path) {
    // The weights that are kept find the same, to the bit.
    let (found, image) = (run.join("found"), data.join("images/2.png"));
    let [model, out, image] = [run, &found, &image].map(|path| path.to_str().unwrap());
    DETECT.success(&["--model", model, "--out", out, image]);
    let category = [Category { id: 7, name: "cell".into() }];
    let boxes = |folder: &Path| -> Vec<_> {
        let found = read_detections(&folder.join("boxes.json"), &category).unwrap();
        found.into_iter().map(|found| (found.score, found.bbox)).collect()
    };
    assert!(!boxes(run).is_empty());
    assert_eq!(boxes(run), boxes(&found));
    let test =
        CocoSet::read(&data.join("coco.json"), &data.join("images"), Some("val"), false).unwrap();
    let (id, objects) = test.objects(0).unwrap();
    let summary: serde_json::Value =
        serde_json::from_str(&text(&run.join("summary.json"))).unwrap();
    for (file, name, kind) in [
        ("boxes.json", "test_box_ap", DetectionKind::Boxes),
        ("masks.json", "test_mask_ap", DetectionKind::Masks),
    ] {
        let found = read_detections(&run.join(file), test.categories()).unwrap();
        let scores = score_detections(&[(id, &*objects)], 1, &found, kind).unwrap();
        assert_eq!(
            summary["metrics"][name].as_f64().unwrap(),
            100.0 * scores.ap.unwrap(),
            "{name}"
        );
    }
    // One tuning image of 64 pixels at most, twice.
    let sheet = image::open(run.join("pictures.png")).unwrap();
    assert!(sheet.width() > 2 * 192 && sheet.height() > 192, "{sheet:?}");
}

/// `detect` draws images of any size, and its results are those of COCO, with the ids that it lists.
fn detections_are_drawn_and_written(data: &Path, run: &Path, out: &Path) {
    let wide = data.join("wide.png");
    image::RgbImage::from_pixel(900, 9, image::Rgb([90, 0, 0])).save(&wide).unwrap();
    let first = data.join("images/0.png");
    let [run, out, wide, first] = [run, out, &wide, &first].map(|path| path.to_str().unwrap());
    let printed = DETECT.success(&["--model", run, "--out", out, "--score", "0.06", first, wide]);
    assert!(printed.contains("0.png: ") && printed.contains("wide.png: "), "{printed}");
    let out = Path::new(out);
    let drawn = image::open(out.join("0.png")).unwrap();
    assert_eq!((drawn.width(), drawn.height()), (8 * 64, 8 * 40), "8 times as large");
    assert_eq!(image::open(out.join("wide.png")).unwrap().width(), 900);
    let list: serde_json::Value = serde_json::from_str(&text(&out.join("images.json"))).unwrap();
    assert_eq!((&list["images"][1]["id"], &list["images"][1]["height"]), (&2.into(), &9.into()));
    let category = [Category { id: 7, name: "cell".into() }];
    assert_eq!(list["categories"][0]["id"], 7);
    let boxes: Vec<Detection> = read_detections(&out.join("boxes.json"), &category).unwrap();
    let masks = read_detections(&out.join("masks.json"), &category).unwrap();
    assert_eq!(boxes.len(), masks.len());
    for found in &boxes {
        let [x, y, w, h] = found.bbox;
        let [width, height] = [[64.0, 40.0], [900.0, 9.0]][found.image as usize - 1];
        assert!(x >= 0.0 && y >= 0.0 && x + w <= width + 1e-9 && y + h <= height + 1e-9);
    }

    for (arguments, word) in [
        (vec!["--model", run, first, first], "both pictures would be 0.png"),
        (vec!["--model", run, "--out", data.to_str().unwrap(), wide], "would replace it"),
        (vec!["--model", out.to_str().unwrap(), first], "not the folder of a run"),
        (vec!["--model", run, "--score", "2", first], "--score 2"),
        (vec!["--model", run, "none.png"], "none.png"),
        (vec!["--model", run, &format!("{run}/summary.json")], "summary.json"),
    ] {
        let error = DETECT.failure(&arguments);
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn the_published_detectors_are_planned_without_data() {
    let plan = TABLE2.success(&["plan", "--preset", "paper"]);
    // XCiT's own code gives 44.4 million parameters for the smaller one.
    for word in ["xcit-s baseline", "44386560", "xcit-m per-sequence", "101152240"] {
        assert!(plan.contains(word), "{word} is missing in\n{plan}");
    }
}
