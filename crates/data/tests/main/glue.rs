use std::fs;
use std::path::Path;

use conditioned_data::{Metric, Task};
use tempfile::TempDir;

/// Header and rows of the official files, with what makes each of them peculiar.
fn official(task: Task) -> (&'static str, &'static str) {
    match task {
        Task::Cola => ("", "gj04\t1\t\tThey drank.\ngj04\t0\t*\tThey drank \"the.\r\n"),
        Task::Sst2 => ("sentence\tlabel\n", "a fine film \t1\na \"dull one \t0\n"),
        Task::Mrpc => (
            "\u{feff}Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n",
            "1\t7\t8\tHe said \"no.\tNo, he said.\r\n0\t9\t10\tA\tB\r\n",
        ),
        Task::StsB => (
            "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n",
            "0\tnews\tx\t2012\t1\tn\tn\tA plane.\tAn air plane.\t5.000\n1\tnews\tx\t2012\t2\tn\tn\tA\tB\t0.25\n",
        ),
        Task::Qqp => (
            "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n",
            "1\t2\t3\tWhy?\tWhy so?\t1\n4\t5\t6\tHow\nis it?\tWhat?\t0\n7\t8\t9\tWho?\t\t0\n",
        ),
        Task::Mnli => (
            "index\tpromptID\tgenre\tsentence1\tsentence2\tlabel1\tgold_label\n",
            "0\t1\tf\tIt rains.\tIt is dry.\tneutral\tcontradiction\n1\t2\tf\tA\tB\tneutral\t-\n\
             2\t3\tf\tA\tC\tneutral\tneutral\n3\t4\tf\tA\tD\tneutral\tentailment\n",
        ),
        Task::Qnli => (
            "index\tquestion\tsentence\tlabel\n",
            "0\tWho?\tHe.\tentailment\n1\tWho?\tIt.\tnot_entailment\n2\tWhen?\tThen.\tentailment\n",
        ),
        Task::Rte => (
            "index\tsentence1\tsentence2\tlabel\n",
            "0\tA \"b.\tB.\tnot_entailment\n1\tC.\tD.\tentailment\n",
        ),
    }
}

fn folder_of(task: Task) -> &'static str {
    match task {
        Task::Cola => "CoLA",
        Task::Sst2 => "SST-2",
        Task::Mrpc => "MRPC",
        Task::StsB => "STS-B",
        Task::Qqp => "QQP",
        Task::Mnli => "MNLI",
        Task::Qnli => "QNLI",
        Task::Rte => "RTE",
    }
}

/// Writes all files of a task.
fn write(folder: &Path, task: Task) {
    fs::create_dir_all(folder).unwrap();
    let (header, rows) = official(task);
    let dev = task.dev_names().iter().map(|&set| match set {
        "dev" => "dev.tsv".to_string(),
        set => format!("dev_{set}.tsv"),
    });
    for file in dev.chain(["train.tsv".into()]) {
        fs::write(folder.join(file), format!("{header}{rows}")).unwrap();
    }
}

#[test]
fn every_task_is_read_with_its_quirks() {
    for task in Task::ALL {
        let root = TempDir::new().unwrap();
        let inner = root.path().join(folder_of(task));
        write(&inner, task);
        for folder in [root.path(), inner.as_path()] {
            let splits = task.read(folder).unwrap();
            let names: Vec<&str> = splits.dev.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, task.dev_names());
            assert_eq!(splits.train.name(), format!("{task} train"));
            assert_eq!(splits.dev[0].1.rows(), splits.train.rows());
            assert_eq!(splits.train.labels(), &task.labels());
            let row = |i: usize| {
                let row = &splits.train.rows()[i];
                (row.text.as_str(), row.second.as_deref(), row.label)
            };
            let (rows, skipped) = (splits.train.len(), splits.skipped);
            match task {
                Task::Cola => {
                    assert_eq!(row(0), ("They drank.", None, 1.0));
                    assert_eq!(row(1), ("They drank \"the.", None, 0.0));
                    assert_eq!((rows, skipped), (2, 0));
                }
                Task::Sst2 => assert_eq!(row(0), ("a fine film", None, 1.0)),
                Task::Mrpc => {
                    assert_eq!(row(0), ("He said \"no.", Some("No, he said."), 1.0));
                    assert_eq!(row(1), ("A", Some("B"), 0.0));
                }
                Task::StsB => {
                    assert_eq!(row(0), ("A plane.", Some("An air plane."), 5.0));
                    assert_eq!(row(1), ("A", Some("B"), 0.25));
                }
                Task::Qqp => {
                    assert_eq!(row(0), ("Why?", Some("Why so?"), 1.0));
                    assert_eq!(row(1), ("Who?", Some(""), 0.0));
                    // Two lines that are no row, in training and in dev file.
                    assert_eq!((rows, skipped), (2, 4));
                }
                Task::Mnli => {
                    let labels: Vec<f32> = splits.train.rows().iter().map(|r| r.label).collect();
                    assert_eq!(labels, [2.0, 1.0, 0.0]);
                    assert_eq!((rows, skipped), (3, 3));
                }
                Task::Qnli => assert_eq!(row(1), ("Who?", Some("It."), 1.0)),
                Task::Rte => assert_eq!(row(0), ("A \"b.", Some("B."), 1.0)),
            }
        }
    }
}

#[test]
fn names_are_read_and_refused() {
    for task in Task::ALL {
        assert_eq!(task.name().parse::<Task>().unwrap(), task);
        assert_eq!(folder_of(task).parse::<Task>().unwrap(), task);
        assert_eq!(task.to_string(), task.name());
        assert!(!task.metrics().is_empty());
    }
    let message = "wnli".parse::<Task>().unwrap_err().to_string();
    assert!(message.contains("task = wnli: expected one of mnli, sst2, stsb, rte"), "{message}");
    assert_eq!(Task::Qqp.metrics(), [Metric::Accuracy, Metric::F1]);
    assert_eq!(Task::Mnli.labels().outputs(), 3);
}

#[test]
fn files_that_do_not_fit_are_named() {
    let root = TempDir::new().unwrap();
    let fail = |task: Task| {
        let message = task.read(root.path()).unwrap_err().to_string();
        assert!(message.contains(root.path().to_str().unwrap()), "{message}");
        message
    };
    let message = fail(Task::Rte);
    assert!(message.contains("no dev.tsv and no validation-*.parquet here, in RTE or in rte"));
    assert!(fail(Task::Mnli).contains("no dev_matched.tsv and no validation_matched-*.parquet"));
    write(root.path(), Task::Rte);
    assert!(fail(Task::Qnli).contains("line 1: no column \"question\", found index, sentence1"));
    assert!(fail(Task::Cola).contains("line 1: label \"sentence1\" is not one of unacceptable"));
    fs::write(root.path().join("train.tsv"), "index\tsentence1\tsentence2\tlabel\n0\ta\tb\n")
        .unwrap();
    assert!(fail(Task::Rte).contains("line 2: 3 fields where 4 are expected"));
    fs::write(root.path().join("train.tsv"), "index\tsentence1\tsentence2\tlabel\n").unwrap();
    assert!(fail(Task::Rte).contains("no labelled row"));
    fs::remove_file(root.path().join("train.tsv")).unwrap();
    let message = fail(Task::Rte);
    assert!(message.contains("the train file of RTE is missing") && message.contains("split_dev"));
}

#[test]
fn a_dev_set_is_split_by_its_questions() {
    let root = TempDir::new().unwrap();
    let rows = (0..600).map(|i| format!("{i}\tQuestion {}?\tAnswer {i}.\tentailment\n", i / 3));
    let content = format!("index\tquestion\tsentence\tlabel\n{}", rows.collect::<String>());
    fs::write(root.path().join("dev.tsv"), content).unwrap();
    assert!(Task::Qnli.read(root.path()).is_err());
    let splits = Task::Qnli.split_dev(root.path(), 0.25).unwrap();
    let (train, dev) = (&splits.train, &splits.dev[0].1);
    assert_eq!(train.name(), "qnli train, split of dev");
    assert_eq!(dev.name(), "qnli dev, split of dev");
    assert_eq!(train.len() + dev.len(), 600);
    // Binomial over 200 questions: four deviations of 6.1 questions.
    assert!(dev.len().abs_diff(150) < 75, "{}", dev.len());
    assert!(train.rows().iter().all(|t| dev.rows().iter().all(|d| t.text != d.text)));
    let again = Task::Qnli.split_dev(root.path(), 0.25).unwrap();
    assert_eq!((&again.train, &again.dev), (train, &splits.dev));
    for share in [0.0, 1.0, 2.0, f64::NAN] {
        assert!(Task::Qnli.split_dev(root.path(), share).is_err());
    }
}

#[cfg(not(feature = "parquet"))]
#[test]
fn parquet_asks_for_its_feature() {
    let root = TempDir::new().unwrap();
    fs::write(root.path().join("validation-00000-of-00001.parquet"), "PAR1").unwrap();
    fs::write(root.path().join("train-00000-of-00001.parquet"), "PAR1").unwrap();
    let message = Task::Rte.read(root.path()).unwrap_err().to_string();
    assert!(message.contains("feature `parquet`"), "{message}");
}
