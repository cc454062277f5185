//! The small parts of the engine, each by itself.

#![allow(clippy::unwrap_used)]

mod search {
    use anyhow::Result;
    use experiments::arm::Arm;
    use experiments::search::{Grid, PUBLISHED_STD, Search, Start, Trial, Tuned};

    const GRID: Grid =
        Grid { learning_rates: &[3e-3], embeddings: &[(1.0, PUBLISHED_STD), (10.0, 0.02)] };

    /// The search of `pooled` over two settings, from (loss, score) by seed.
    fn choose(points: [&[(Option<f64>, Option<f64>)]; 2], scored: bool) -> Result<Search> {
        let settings = GRID.settings(Arm::Pooled, true);
        let trials = settings.iter().zip(points).flat_map(|(&setting, results)| {
            (0..).zip(results).map(move |(seed, &(loss, score))| Trial {
                row: "gpt2".to_string(),
                arm: Arm::Pooled,
                strength: Some(1.0),
                setting,
                seed,
                loss,
                score: scored.then_some(score),
            })
        });
        let grid = |_: &str, arm| GRID.settings(arm, true);
        let tuned = Tuned::choose("smoke", ("text", "hash"), trials.collect(), grid)?;
        Ok(tuned.best("gpt2", Arm::Pooled)?.clone())
    }

    #[test]
    fn the_lower_mean_loss_wins_and_a_run_that_diverged_is_the_worst() {
        let settings = GRID.settings(Arm::Pooled, true);
        let loss = |loss: f64| (Some(loss), None);
        let search = choose([&[loss(2.0), loss(3.0)], &[loss(2.8), loss(2.1)]], false).unwrap();
        assert_eq!((search.published, search.tuned), (settings[0], settings[1]));
        assert_eq!(search.starts().len(), 2);
        let search = choose([&[loss(9.0), loss(9.0)], &[loss(0.1), (None, None)]], false).unwrap();
        assert_eq!(search.starts(), [(Start::Published, settings[0], true)]);
    }

    #[test]
    fn the_higher_mean_score_wins_and_loss_decides_ties() {
        let settings = GRID.settings(Arm::Pooled, true);
        let point = |loss, score| (Some(loss), Some(score));
        let low = [point(0.1, 80.0), point(0.1, 90.0)];
        let search = choose([&low, &[point(0.9, 88.0), point(0.9, 84.0)]], true).unwrap();
        assert_eq!(search.tuned, settings[1]);
        let search = choose([&low, &[point(0.2, 85.0), point(0.1, 85.0)]], true).unwrap();
        assert_eq!(search.tuned, settings[0]);
    }

    #[test]
    fn an_arm_must_not_be_searched_less_than_another() {
        let loss = |loss: f64| (Some(loss), None);
        let error = choose([&[loss(2.0), loss(3.0)], &[loss(2.8)]], false).unwrap_err();
        assert!(format!("{error:#}").contains("gpt2 pooled: lr0.003-x10-std0.02"), "{error:#}");
    }

    #[test]
    fn init_finds_its_own_deviation() {
        let grid = Grid { learning_rates: &[1.0, 2.0], embeddings: &[(1.0, 0.02), (1.0, 0.3)] };
        let settings = grid.settings(Arm::Init, true);
        assert_eq!(settings.len(), 2);
        assert!(settings.iter().all(|setting| setting.embedding_std.is_none()));
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
        assert!(open("cpu").is_ok());
        for (name, expected) in [
            ("tpu", "unknown device `tpu`"),
            ("cuda:x", "`x` is not a GPU number"),
            #[cfg(not(feature = "cuda"))]
            ("cuda:0", "built without CUDA"),
            #[cfg(not(feature = "metal"))]
            ("metal", "built without it"),
        ] {
            let message = format!("{:#}", open(name).unwrap_err());
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
        let local = Checkpoint::of_stage(&snapshot).unwrap();
        assert_eq!(local.name(), "0123abc");
        let fetched = local.clone().of_hub(Some("someone/small-bert"));
        assert_eq!(fetched.name(), "someone/small-bert");
        assert_eq!(fetched, local);
    }
}
