//! The small parts of the engine, each by itself.

#![allow(clippy::unwrap_used)]

mod search {
    use anyhow::Result;
    use experiments::arm::{Arm, Method, Optimizer};
    use experiments::recipe::Shared;
    use experiments::search::{Block, Effort, Found, Search, Start, Trial, Tuned};
    use experiments::settings::{Grid, Setting};

    const GRID: Grid = Grid::new(&[3e-3, 6e-3], &[(1.0, 0.02), (1.0, 0.1)]);
    const EFFORT: Effort = Effort { seeds: 2, budget: 100 };

    /// What a run gives: loss, and a score where there is one.
    type Outcome = (Option<f64>, Option<Option<f64>>);

    /// A run of a search.
    type Run = (Setting, u64);

    /// The search of `arm` where a run of a setting and a seed gives `outcome`; the rounds that it took.
    fn search(
        arm: Arm,
        effort: Effort,
        outcome: impl Fn(Setting, u64) -> Outcome,
    ) -> Result<(Search, usize)> {
        let (search, _, rounds) = search_on(arm, effort, outcome, Vec::new(), |_| true)?;
        Ok((search, rounds))
    }

    /// The same where some `runs` are there before it, and a round ends after those that it `takes`, if it takes
    /// any; with all runs at its end.
    fn search_on(
        arm: Arm,
        effort: Effort,
        outcome: impl Fn(Setting, u64) -> Outcome,
        mut runs: Vec<Run>,
        takes: impl Fn(&Run) -> bool,
    ) -> Result<(Search, Vec<Run>, usize)> {
        let shared = Shared { strength: None, ..Shared::default() };
        let axes = |_: &str, arm| GRID.axes(arm, &shared, true);
        let mut rounds = 0;
        loop {
            let trial = |&(setting, seed): &Run| {
                let (loss, score) = outcome(setting, seed);
                let row = "gpt2".to_string();
                Trial { row, arm, strength: None, setting, seed, loss, score }
            };
            let found = Found::new(runs.iter().map(trial).collect())?;
            let missing = found.missing("gpt2", arm, &axes("gpt2", arm), effort);
            if missing.is_empty() {
                let tuned = Tuned::choose("smoke", ("text", "hash"), found, effort, |row, arm| {
                    Ok(axes(row, arm))
                })?;
                return Ok((tuned.best("gpt2", arm)?.clone(), runs, rounds));
            }
            assert!(missing.iter().all(|run| !runs.contains(run)), "a run twice");
            let taken: Vec<Run> = missing.iter().copied().filter(&takes).collect();
            runs.extend(if taken.is_empty() { missing } else { taken });
            rounds += 1;
        }
    }

    /// A bowl in the logarithms whose bottom lies at these numbers.
    fn bowl(rate: f64, std: f64, strength: f64) -> impl Fn(Setting) -> f64 {
        move |setting| {
            let distance = |value: f64, bottom: f64| (value / bottom).ln().powi(2);
            let t = setting.strength.map_or(0.0, |t| distance(t, strength));
            let table = distance(setting.embedding_std.unwrap_or(std), std);
            2.0 + distance(setting.learning_rate, rate) + 0.3 * table + 0.2 * t
        }
    }

    #[test]
    fn a_search_goes_on_until_the_best_lies_inside() {
        // Far outside of where it begins: 64 times the largest rate, 625 times the deviation, 27 times t.
        let loss = bowl(0.384, 62.5, 8.0);
        let (search, _) =
            search(Arm::POOLED, Effort { budget: 1000, ..EFFORT }, |s, _| (Some(loss(s)), None))
                .unwrap();
        assert_eq!(search.tuned.learning_rate, 0.384);
        assert_eq!((search.tuned.embedding_std, search.tuned.strength), (Some(62.5), Some(11.1)));
        assert_eq!(
            (search.published.learning_rate, search.published.embedding_std),
            (0.384, Some(0.02))
        );
        assert_eq!((search.edges(Block::Tuned), search.starts().len()), (Vec::<&str>::new(), 2));
        assert_eq!(search.result(search.tuned).unwrap().0, 2);
    }

    #[test]
    fn an_interrupted_or_sharded_search_is_the_one_that_was_not() {
        // Seeds differ, so that a round decides otherwise where it knows of another.
        let loss = bowl(0.05, 0.9, 1.0);
        let of_seed = |s: Setting, seed: u64| {
            let noise = (seed as f64 + s.learning_rate * 7e3 + loss(s) * 1e3).sin();
            (Some(loss(s) + 0.4 * noise), None)
        };
        let effort = Effort { seeds: 3, budget: 40 };
        let names = |runs: &[Run]| {
            let mut names: Vec<String> =
                runs.iter().map(|(setting, seed)| format!("{setting} {seed}")).collect();
            names.sort();
            names
        };
        let of = |given, part: usize| {
            let takes = |run: &Run| (run.0.to_string().len() + run.1 as usize) % 3 >= part;
            search_on(Arm::POOLED, effort, of_seed, given, takes).unwrap()
        };
        let (whole, runs, rounds) = of(Vec::new(), 0);
        assert!(rounds > 3, "{rounds}");
        for part in 0..3 {
            for subset in 0..8 {
                let mut given: Vec<Run> = runs.clone();
                let mut at = 0;
                given.retain(|_| {
                    at += 1;
                    (at * at + subset) % (subset + 2) == 0
                });
                given.reverse();
                let (again, all, _) = of(given, part);
                assert_eq!((names(&all), &again), (names(&runs), &whole), "{part} {subset}");
            }
        }
    }

    #[test]
    fn a_scale_without_effect_is_not_walked_down() {
        let flat = |_: Setting, _| (Some(1.0), None);
        let (search, rounds) = search(Arm::POOLED, EFFORT, flat).unwrap();
        // The grid, what is beside its first setting, and the seeds of the best.
        assert_eq!((search.tuned.learning_rate, rounds), (3e-3, 3));
        assert_eq!(search.tuned, search.published);
    }

    #[test]
    fn the_budget_ends_a_search_and_the_edge_is_named() {
        let effort = Effort { budget: 12, ..EFFORT };
        let falling = |s: Setting, _| (Some(-s.learning_rate), None);
        let (search, _) = search(Arm::BASELINE, effort, falling).unwrap();
        assert_eq!(search.edges(Block::Tuned), ["learning rate"]);
        // A round and the seeds of the best may go beyond it.
        assert!((12..30).contains(&search.runs()), "{}", search.runs());
    }

    #[test]
    fn a_lucky_seed_does_not_win_and_a_run_that_diverged_is_the_worst() {
        let lucky = |s: Setting, seed: u64| {
            let far = (s.learning_rate / 3e-3).ln().abs() + (s.embedding_lr_scale - 1.0).abs();
            let std = s.embedding_std.unwrap();
            let luck = if std == 0.1 && seed == 0 { 0.5 } else { -0.5 };
            let loss = 2.0 + far + (std - 0.02).abs() - luck * f64::from(u8::from(std == 0.1));
            (if s.learning_rate > 1e-2 { None } else { Some(loss) }, None)
        };
        let (search, _) = search(Arm::BASELINE, EFFORT, lucky).unwrap();
        assert_eq!(search.starts().len(), 1, "{:?}", search.tuned);
        assert_eq!(search.starts()[0].0, Start::Published);
    }

    #[test]
    fn the_higher_mean_score_wins_and_loss_decides_ties() {
        let outcome = |s: Setting, _| {
            let best = s.learning_rate == 6e-3 && s.embedding_lr_scale == 1.0;
            let score = if best { 90.0 } else { 80.0 };
            let loss = if s.embedding_std == Some(0.1) { 0.2 } else { 0.1 };
            (Some(loss), Some(Some(score)))
        };
        let (search, _) = search(Arm::BASELINE, EFFORT, outcome).unwrap();
        assert_eq!(search.tuned, Setting::published(6e-3));
    }

    #[test]
    fn every_arm_is_searched_alike() {
        let loss = bowl(6e-3, 0.1, 0.3);
        let runs = |arm| search(arm, EFFORT, |s, _| (Some(loss(s)), None)).unwrap();
        let (baseline, rounds) = runs(Arm::BASELINE);
        let (muon, of_muon) = runs(Arm::MUON);
        assert_eq!((baseline.runs(), rounds), (muon.runs(), of_muon));
        assert!(rounds > 1);
    }

    #[test]
    fn the_data_of_an_arm_are_those_of_the_file_that_it_comes_from() {
        let loss = bowl(6e-3, 0.1, 0.3);
        let (search, _) = search(Arm::BASELINE, EFFORT, |s, _| (Some(loss(s)), None)).unwrap();
        let settings = |data: &str, hash: &str, rows: &[&str], arms: &[&str]| {
            let arms: serde_json::Map<_, _> =
                arms.iter().map(|arm| (arm.to_string(), serde_json::json!(search))).collect();
            let rows = rows.iter().map(|row| (row.to_string(), arms.clone().into()));
            let rows: serde_json::Map<_, _> = rows.collect();
            serde_json::json!({ "preset": "smoke", "data": data, "data_hash": hash, "rows": rows })
                .to_string()
        };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tuned.json");
        std::fs::write(&file, settings("mnist", "b; c", &["swin"], &["muon"])).unwrap();
        let recorded = settings("digits", "a", &["vit", "swin"], &["baseline", "muon"]);
        let known = ["vit", "swin"].map(str::to_string);
        let tuned = Tuned::open(Some(&recorded), Some(&file), "smoke", &known).unwrap();
        let other = |row, arm| ["a", "c"].map(|hash| tuned.other_data(row, arm, hash));
        assert_eq!(other("vit", Arm::MUON), [None, Some("digits")]);
        assert_eq!(other("swin", Arm::MUON), [Some("mnist"), None]);
        // An arm that the file has not is the recorded one.
        assert_eq!(other("swin", Arm::BASELINE), [None, Some("digits")]);
        // Put together, the searches keep their data, in two steps as in one.
        let none = Tuned::open(None, None, "smoke", &known).unwrap();
        let first = none.with(&tuned, &[("swin", Arm::MUON)].into());
        let kept = folder.path().join("settings.json");
        std::fs::write(&kept, serde_json::to_string(&first).unwrap()).unwrap();
        let first = Tuned::open(None, Some(&kept), "smoke", &known).unwrap();
        let both = first.with(&tuned, &[("vit", Arm::BASELINE)].into());
        let both = serde_json::to_value(both).unwrap();
        assert_eq!(
            (&both["data"], &both["data_hash"]),
            (&"mnist; digits".into(), &"b; c; a".into())
        );
        let error = Tuned::open(None, Some(&file), "smoke", &known[..1]).unwrap_err().to_string();
        assert!(error.contains("tuned.json: settings of swin, this table has vit"), "{error}");
    }

    #[test]
    fn an_incomplete_search_is_refused() {
        let trial = Trial {
            row: "gpt2".to_string(),
            arm: Arm::POOLED,
            strength: Some(1.0),
            setting: Setting::published(3e-3),
            seed: 0,
            loss: Some(1.0),
            score: None,
        };
        let axes = |_: &str, arm| Ok(GRID.axes(arm, &Shared::default(), true));
        let found = Found::new(vec![trial]).unwrap();
        let error = Tuned::choose("smoke", ("text", "hash"), found, EFFORT, axes).unwrap_err();
        let error = format!("{error:#}");
        assert!(
            error.contains("gpt2 pooled: lr0.003-x1-std0.1: not searched with seed 0"),
            "{error}"
        );
    }

    #[test]
    fn the_name_of_an_arm_says_optimiser_and_method() {
        for arm in Arm::all() {
            assert_eq!(arm.name().parse(), Ok(arm));
        }
        let arm: Arm = "muon+pooled-current".parse().unwrap();
        assert_eq!((arm.optimizer, arm.method), (Optimizer::Muon, Method::PooledCurrent));
        assert_eq!("muon".parse(), Ok(Arm::MUON));
        for wrong in ["muonpooled", "muon+", "muon+muon", "Muon", ""] {
            let error = wrong.parse::<Arm>().unwrap_err();
            assert!(error.contains("known: baseline, init"), "{error}");
        }
    }
}

mod overrides {
    use serde::{Deserialize, Serialize};

    use experiments::overrides::apply;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        epochs: usize,
        clip: Option<f64>,
        name: String,
    }

    fn set(pairs: &[&str]) -> Result<Config, String> {
        let config = Config { epochs: 3, clip: None, name: "a".into() };
        let pairs: Vec<String> = pairs.iter().map(ToString::to_string).collect();
        apply(config, &pairs).map_err(|e| e.to_string())
    }

    #[test]
    fn values_are_typed_by_the_configuration() {
        let config = set(&["epochs=7", "clip=0.5", "name=b"]).unwrap();
        assert_eq!(config, Config { epochs: 7, clip: Some(0.5), name: "b".into() });
        assert_eq!(set(&["clip=1", "clip=null"]).unwrap().clip, None);
    }

    #[test]
    fn errors_name_the_pair() {
        assert!(set(&["epoch=7"]).unwrap_err().contains("unknown key `epoch`; known: "));
        assert!(set(&["epochs=many"]).unwrap_err().contains("--set epochs=many"));
        assert!(set(&["epochs"]).unwrap_err().contains("expected key=value"));
    }
}

mod device {
    use experiments::device::open;

    #[test]
    fn names_that_cannot_be_opened_say_why() {
        assert!(open("cpu", 0).is_ok());
        for (name, expected) in [
            ("tpu", "unknown device `tpu`"),
            ("cuda:x", "`x` is not a GPU number"),
            #[cfg(not(feature = "cuda"))]
            ("cuda:0", "built without CUDA"),
            #[cfg(not(feature = "metal"))]
            ("metal", "built without it"),
        ] {
            let message = format!("{:#}", open(name, 0).unwrap_err());
            assert!(message.contains(expected), "{name}: {message}");
        }
    }
}

mod checkpoint {
    use experiments::checkpoint::Checkpoint;

    #[test]
    fn a_checkpoint_of_the_hub_has_the_name_under_which_others_find_it() {
        let folder = tempfile::tempdir().unwrap();
        let snapshot = folder.path().join("0123abc");
        std::fs::create_dir(&snapshot).unwrap();
        let model = snapshot.join("model.safetensors");
        std::fs::write(&model, "weights").unwrap();
        let local = Checkpoint::of_stage(&snapshot).unwrap();
        assert_eq!(local.name(), "0123abc");
        let fetched = local.clone().of_hub(Some("someone/small-bert"));
        assert_eq!(fetched.name(), "someone/small-bert");
        assert_eq!(fetched, local);
        // What is not read may come and go, what is read may not.
        for other in ["pytorch_model.bin", "training_args.bin", "other.safetensors"] {
            std::fs::write(snapshot.join(other), "others").unwrap();
        }
        local.check().unwrap();
        std::fs::write(&model, "Weights").unwrap();
        let error = local.check().unwrap_err().to_string();
        assert!(error.contains("not those that this run was planned with"), "{error}");
    }
}

mod results {
    use experiments::results::parse;

    #[test]
    fn a_value_that_is_not_finite_is_empty_or_an_error() {
        let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let file = here.join("table1_imagenet/results/short/results.csv");
        let text = std::fs::read_to_string(file).unwrap();
        let (heads, lines) = text.split_once('\n').unwrap();
        let value = heads.split(',').position(|head| head == "value").unwrap();
        let with = |new: &str| {
            let mut line: Vec<&str> = lines.lines().next().unwrap().split(',').collect();
            line[value] = new;
            parse(&format!("{heads}\n{}\n", line.join(",")))
        };
        assert_eq!(with("").unwrap().len(), 1);
        for value in ["NaN", "inf", "-inf"] {
            let error = with(value).unwrap_err().to_string();
            assert!(error.contains("is not finite"), "{error}");
        }
    }
}
