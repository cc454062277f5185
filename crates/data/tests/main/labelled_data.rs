use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use conditioned_data::{Error, LabelledData, LabelledSource, Metric, Task, Texts};
use serde_json::json;
use tempfile::TempDir;

const HEADER: &str = "index\tsentence1\tsentence2\tlabel\n";

/// An official file of RTE.
fn write_rte(path: &Path, rows: usize) {
    let label = |i: usize| if i.is_multiple_of(2) { "entailment" } else { "not_entailment" };
    let rows = (0..rows).map(|i| format!("{i}\tText {i}.\tOther {i}.\t{}\n", label(i)));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, format!("{HEADER}{}", rows.collect::<String>())).unwrap();
}

fn write(path: &Path, text: &str) -> PathBuf {
    fs::write(path, text).unwrap();
    path.into()
}

fn generated() -> LabelledSource {
    LabelledSource::Generated { first: 10, train: 100, dev: 30 }
}

fn texts(texts: &Texts) -> BTreeSet<String> {
    let text = |row: &conditioned_data::Text| format!("{} {:?}", row.text, row.second);
    texts.rows().iter().map(text).collect()
}

#[test]
fn tasks_of_glue_are_found_with_and_without_training_file() {
    let root = TempDir::new().unwrap();
    write_rte(&root.path().join("RTE/dev.tsv"), 200);
    write_rte(&root.path().join("unrelated/dev.tsv"), 3);
    let [split] = &LabelledData::find_glue(root.path()).unwrap()[..] else { panic!("one task") };
    assert_eq!((&*split.name, split.task()), ("rte (split of its dev set)", Some(Task::Rte)));
    let loaded = split.load(false).unwrap();
    assert_eq!(loaded.train.len() + loaded.dev[0].1.len(), 200);
    assert_eq!(loaded.train.len(), split.train_len);
    assert!(texts(&loaded.train).is_disjoint(&texts(&loaded.dev[0].1)));

    write_rte(&root.path().join("RTE/train.tsv"), 50);
    fs::create_dir(root.path().join("sst2")).unwrap();
    let rows = "sentence\tlabel\na fine film \t1\na \"dull one \t0\n";
    write(&root.path().join("sst2/dev.tsv"), rows);
    write(&root.path().join("sst2/train.tsv"), rows);
    let found = LabelledData::find_glue(root.path()).unwrap();
    let names: Vec<&str> = found.iter().map(|data| &*data.name).collect();
    assert_eq!(names, ["sst2", "rte"], "in the order of the usual table");
    assert_eq!((found[1].train_len, found[1].classes.len()), (50, 2));
    assert_eq!(found[1].load(false).unwrap().dev[0].1.len(), 200);
}

#[test]
fn a_folder_without_tasks_is_named() {
    let root = TempDir::new().unwrap();
    let fail = |folder: &Path| {
        let error = LabelledData::find_glue(folder).unwrap_err().to_string();
        assert!(error.starts_with(folder.to_str().unwrap()), "{error}");
        error
    };
    assert!(fail(&root.path().join("absent")).contains("no such folder"));
    assert!(fail(root.path()).contains("no folder of a task of GLUE (mnli, sst2"));
    write_rte(&root.path().join("rte/train.tsv"), 5);
    let error = LabelledData::find_glue(root.path()).unwrap_err().to_string();
    assert!(error.contains("no dev.tsv"), "{error}");
    write_rte(&root.path().join("R-T-E/dev.tsv"), 5);
    assert!(fail(root.path()).contains("several folders of task rte"));
}

#[test]
fn the_part_of_a_search_is_held_out_of_the_training_texts() {
    let all = LabelledData::new(generated(), None, 0.0).unwrap().load(false).unwrap();
    let data = LabelledData::new(generated(), Some(60), 0.25).unwrap();
    assert_eq!((data.train_rows(false), data.train_rows(true)), (60, 45));
    let (table, search) = (data.load(false).unwrap(), data.load(true).unwrap());
    let [(name, tune)] = &search.dev[..] else { panic!("one set") };
    assert_eq!((*name, search.train.len(), tune.len()), ("tune", 45, 15));
    let (train, tune) = (texts(&search.train), texts(tune));
    assert!(train.is_disjoint(&tune));
    assert_eq!(&train | &tune, texts(&table.train));
    assert!(texts(&table.train).is_subset(&texts(&all.train)));
    assert!(texts(&table.train).is_disjoint(&texts(&all.dev[0].1)));
    assert_eq!(table.dev, all.dev, "a table reports on all of its dev set");
    let again = LabelledData::new(generated(), Some(60), 0.25).unwrap().load(true).unwrap();
    assert_eq!((again.train, again.dev), (search.train, search.dev));
    // A smaller part is the beginning of a larger one.
    let fewer = LabelledData::new(generated(), Some(20), 0.25).unwrap().load(false).unwrap();
    assert_eq!(fewer.train.rows(), &table.train.rows()[..20]);
    for (first, tune) in [(60, 0.0), (60, 0.001), (1, 0.5)] {
        let data = LabelledData::new(generated(), Some(first), tune).unwrap();
        let error = data.load(true).unwrap_err().to_string();
        assert!(error.contains("leaves no text to train or to tune on"), "{error}");
    }
}

#[test]
fn equal_is_what_has_equal_content() {
    let root = TempDir::new().unwrap();
    let rows = "text,label\na,yes\nb,no\nc,yes\n";
    let data = |folder: &str, train: &str, dev: &str, first| {
        let folder = root.path().join(folder);
        fs::create_dir_all(&folder).unwrap();
        let train = write(&folder.join("train.csv"), train);
        let dev = write(&folder.join("dev.csv"), dev);
        let source = LabelledSource::Files { train, dev, scores: false };
        LabelledData::new(source, first, 0.0).unwrap()
    };
    let here = data("here", rows, rows, None);
    assert_eq!(here, data("there", rows, rows, None));
    assert_ne!(here, data("there", rows, rows, Some(2)));
    assert_ne!(here, data("there", rows, "text,label\na,no\n", None));
    assert_ne!(here, data("there", "text,label\na,yes\nb,no\n", rows, None));
    assert_eq!(here.metrics(), [Metric::Accuracy, Metric::F1, Metric::Matthews]);
    here.load(false).unwrap();
    data("here", "text,label\na,no\nb,no\nc,yes\n", rows, None);
    let error = here.load(false).unwrap_err();
    assert!(matches!(error, Error::Changed { .. }));
    let wanted = "train: the texts are not those that this run was planned with";
    assert!(error.to_string().contains(wanted), "{error}");
}

#[test]
fn files_of_two_kinds_are_refused() {
    let root = TempDir::new().unwrap();
    let train = write(&root.path().join("train.csv"), "text,text2,label\na,b,yes\nc,d,no\n");
    let dev = write(&root.path().join("dev.csv"), "text,label\na,yes\n");
    let source = LabelledSource::Files { train, dev, scores: false };
    let error = LabelledData::new(source, None, 0.0).unwrap_err().to_string();
    assert!(error.contains("train.csv") && error.contains("dev.csv single texts"), "{error}");
    assert!(error.contains("holds pairs") && error.contains("they must be of one kind"), "{error}");
    let scores = "text,label\na,0.5\nb,2\n";
    let [train, dev] =
        ["train", "dev"].map(|name| write(&root.path().join(format!("{name}.csv")), scores));
    let source = LabelledSource::Files { train, dev, scores: true };
    let data = LabelledData::new(source, None, 0.0).unwrap();
    assert_eq!((data.task(), data.classes.len()), (None, 0));
    assert_eq!(data.metrics(), [Metric::Pearson, Metric::Spearman]);
}

#[test]
fn what_was_recorded_before_is_still_the_same() {
    let recorded = json!({
        "source": {"generated": {"first": 0, "train": 40, "dev": 20}},
        "name": "generated pairs",
        "hash": "c59a65af891ee6f75d59182fc4a4b738e3f9a805e6b6e7ff0ddcdcc99af22b11",
        "classes": ["entailment", "not_entailment"],
        "first": null,
        "tune": 0.0,
        "train_len": 40,
        "skipped": 0
    });
    let data: LabelledData = serde_json::from_value(recorded.clone()).unwrap();
    data.load(false).unwrap();
    assert_eq!(serde_json::to_value(&data).unwrap(), recorded);
}
