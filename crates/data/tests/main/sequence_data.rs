use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use conditioned_data::{
    ListOps, Pathfinder, SequenceData, SequenceSet, SequenceSource, SequenceSplits,
};
use tempfile::TempDir;

fn listops(seed: u64, [train, tune, test]: [usize; 3]) -> SequenceSource {
    SequenceSource::ListOps { config: ListOps::short(), seed, train, tune, test }
}

/// Lists of two to five digits, which take no time; with more than 20,000 of them files are kept.
fn many() -> SequenceSource {
    let config = ListOps { max_depth: 2, max_args: 5, min_length: 3, max_length: 8 };
    SequenceSource::ListOps { config, seed: 1, train: 20_000, tune: 100, test: 50 }
}

fn sequences(set: &SequenceSet) -> Vec<Vec<u16>> {
    (0..set.len()).map(|i| set.sequence(i).unwrap().to_vec()).collect()
}

#[test]
fn a_set_checks_what_it_is_made_of() {
    let new = |vocabulary, classes, tokens: &[u16], ends: &[usize], labels: &[u32]| {
        let set = SequenceSet::new(
            "demo",
            vocabulary,
            classes,
            tokens.to_vec(),
            ends.to_vec(),
            labels.to_vec(),
        );
        set.map(|_| ()).map_err(|e| e.to_string())
    };
    let (tokens, ends) = ([1, 2, 3, 4, 5], [2, 5]);
    assert_eq!(new(6, 2, &tokens, &ends, &[0, 1]), Ok(()));
    assert_eq!(new(6, 2, &[], &[], &[]), Ok(()));
    for (result, problem) in [
        (
            new(5, 2, &tokens, &ends, &[0, 1]),
            "id 5 at token 2 of sequence 1; tokens have ids 1 to 4",
        ),
        (new(6, 2, &[1, 0, 3, 4, 5], &ends, &[0, 1]), "id 0 at token 1 of sequence 0"),
        (new(6, 2, &tokens, &[2, 2, 5], &[0, 1, 1]), "sequence 1 is empty"),
        (new(6, 2, &tokens, &[3, 2], &[0, 1]), "sequence 1 is empty"),
        (new(6, 2, &tokens, &[2, 4], &[0, 1]), "ends at token 4 of 5"),
        (new(6, 2, &tokens, &ends, &[0, 2]), "label 2 of sequence 1 is out of range for 2 classes"),
        (new(6, 2, &tokens, &ends, &[0]), "2 sequences and 1 labels"),
        (new(1, 2, &[], &[], &[]), "a vocabulary of 1 ids"),
        (new(65_537, 2, &[], &[], &[]), "a vocabulary of 65537 ids"),
    ] {
        let error = result.unwrap_err();
        assert!(error.contains("\"demo\"") && error.contains(problem), "{error}");
    }
    assert_eq!(new(65_536, 1, &[u16::MAX], &[1], &[0]), Ok(()));
    let pairs = SequenceSet::of_pairs("demo", 5, 2, tokens.to_vec(), ends.to_vec(), vec![0]);
    let error = pairs.unwrap_err().to_string();
    assert!(error.contains("id 5 at token 2 of the second sequence of pair 0"), "{error}");
    let pairs = SequenceSet::of_pairs("demo", 6, 2, tokens.to_vec(), ends.to_vec(), vec![0, 1]);
    let error = pairs.unwrap_err().to_string();
    assert!(error.contains("2 sequences and 2 labels; give one label a pair"), "{error}");
}

#[test]
fn a_set_hands_out_its_rows() {
    let tokens: Vec<u16> = (1..=12).collect();
    let single =
        SequenceSet::new("demo", 20, 3, tokens.clone(), vec![1, 6, 9, 12], vec![0, 2, 1, 1]);
    let single = single.unwrap();
    assert_eq!((single.len(), single.longest(), single.pairs()), (4, 5, false));
    assert_eq!((single.sequence(1), single.pair(1)), (Some(&tokens[1..6]), None));
    assert_eq!((single.sequence(4), single.label(4)), (None, None));
    let some = single.subset(&[2, 0, 2]).unwrap();
    assert_eq!(sequences(&some), [&tokens[6..9], &tokens[..1], &tokens[6..9]]);
    assert_eq!((some.labels(), some.longest()), (&[1, 0, 1][..], 3));
    assert_eq!(single.take(4).unwrap(), single);
    for error in [single.subset(&[0, 4]).unwrap_err(), single.take(5).unwrap_err()] {
        assert!(error.to_string().contains("index 4 is past the end of 4 rows"), "{error}");
    }

    let pairs = SequenceSet::of_pairs("demo", 20, 3, tokens.clone(), vec![1, 6, 9, 12], vec![0, 2]);
    let pairs = pairs.unwrap();
    assert_eq!((pairs.len(), pairs.longest(), pairs.pairs()), (2, 5, true));
    assert_eq!(pairs.pair(1), Some((&tokens[6..9], &tokens[9..])));
    assert_eq!(
        (pairs.sequence(1), pairs.pair(2), pairs.sequence(2)),
        (Some(&tokens[6..9]), None, None)
    );
    let some = pairs.subset(&[1]).unwrap();
    assert_eq!((some.pair(0), some.label(0)), (pairs.pair(1), Some(2)));
}

#[test]
fn the_hash_is_that_of_the_content() {
    let make = |name: &str,
                vocabulary,
                classes,
                tokens: [u16; 4],
                ends: [usize; 2],
                labels: [u32; 2]| {
        let set =
            SequenceSet::new(name, vocabulary, classes, tokens.into(), ends.into(), labels.into());
        set.unwrap().hash()
    };
    let base = make("a", 9, 3, [1, 2, 3, 4], [2, 4], [0, 1]);
    assert_eq!(base, make("b", 9, 3, [1, 2, 3, 4], [2, 4], [0, 1]));
    let others = [
        make("a", 8, 3, [1, 2, 3, 4], [2, 4], [0, 1]),
        make("a", 9, 2, [1, 2, 3, 4], [2, 4], [0, 1]),
        make("a", 9, 3, [1, 2, 3, 5], [2, 4], [0, 1]),
        make("a", 9, 3, [1, 2, 3, 4], [1, 4], [0, 1]),
        make("a", 9, 3, [1, 2, 3, 4], [2, 4], [1, 0]),
        base,
    ];
    assert_eq!(others.iter().collect::<HashSet<_>>().len(), others.len());
    let pair = |pairs| {
        let new = if pairs { SequenceSet::of_pairs } else { SequenceSet::new };
        new("a", 9, 3, vec![1, 2], if pairs { vec![1, 2] } else { vec![2] }, vec![0])
            .unwrap()
            .hash()
    };
    assert_ne!(pair(true), pair(false));
}

#[test]
fn generated_parts_are_disjoint_and_follow_one_another() {
    let data = SequenceData::new(listops(3, [200, 30, 40]), None).unwrap();
    assert_eq!(data.name, "generated ListOps (depth 5, 5 arguments, 31 to 127 tokens)");
    assert_eq!((data.vocabulary, data.classes, data.pairs), (16, 10, false));
    assert_eq!((data.train_len, data.tune_len, data.test_len), (200, 30, 40));
    let SequenceSplits { train, tune, test } = data.load().unwrap();
    let all = [&train, &tune, &test].map(sequences).concat();
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), 270);
    assert_eq!(all, sequences(&ListOps::short().sequences(3, 0..270).unwrap()));
    assert_eq!(data.longest, all.iter().map(Vec::len).max().unwrap());
}

#[test]
fn json_tells_which_and_a_change_is_found() {
    let data = SequenceData::new(listops(3, [20, 5, 5]), None).unwrap();
    let json = serde_json::to_value(&data).unwrap();
    assert_eq!(json["source"]["list-ops"]["config"]["max_depth"], 5);
    let again: SequenceData = serde_json::from_value(json.clone()).unwrap();
    assert_eq!(again, data);
    assert_eq!(again.load().unwrap(), data.load().unwrap());
    assert_ne!(data, SequenceData::new(listops(4, [20, 5, 5]), None).unwrap());
    assert_ne!(data, SequenceData::new(listops(3, [20, 5, 6]), None).unwrap());
    let mut other = json.clone();
    other["source"]["list-ops"]["seed"] = 4.into();
    let other: SequenceData = serde_json::from_value(other).unwrap();
    let error = other.load().unwrap_err().to_string();
    assert!(
        error.contains("the sequences are not those that this run was planned with"),
        "{error}"
    );
    let mut unknown = json;
    unknown["seed"] = 4.into();
    assert!(serde_json::from_value::<SequenceData>(unknown).is_err());
}

#[test]
fn a_part_without_a_sequence_is_refused() {
    for (sizes, part) in
        [([0, 1, 1], "train"), ([1, 0, 1], "choose settings"), ([1, 1, 0], "report")]
    {
        let error = SequenceData::new(listops(0, sizes), None).unwrap_err().to_string();
        assert!(error.contains(&format!("no sequence to {part} on")), "{error}");
    }
    let error = SequenceData::new(listops(0, [usize::MAX, 1, 1]), None).unwrap_err().to_string();
    assert!(error.contains("expected fewer sequences"), "{error}");
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        walkdir::WalkDir::new(folder).into_iter().map(|entry| entry.unwrap().into_path()).collect();
    files.retain(|path| path.is_file());
    files.sort();
    files
}

#[test]
fn many_sequences_are_kept_in_files_and_a_generation_goes_on() {
    let cache = TempDir::new().unwrap();
    let data = SequenceData::new(many(), Some(cache.path())).unwrap();
    let whole = files(cache.path());
    let names: Vec<_> =
        whole.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    let expected = [
        "test-00000",
        "train-00000",
        "train-00001",
        "train-00002",
        "train-00003",
        "train-00004",
        "tune-00000",
    ];
    assert_eq!(names, expected.map(|name| format!("{name}.safetensors")));
    // As in memory, from where some came twice at first.
    let memory = SequenceData::new(many(), None).unwrap();
    assert_eq!((&data, data.longest), (&memory, memory.longest));
    let loaded = data.load().unwrap();
    let all = [&loaded.train, &loaded.tune, &loaded.test].map(sequences).concat();
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), 20_150);

    // Killed after three files, one of them out of order: those stay as they are, the others are made as before.
    let bytes: Vec<Vec<u8>> = whole.iter().map(|path| fs::read(path).unwrap()).collect();
    for i in [0, 3, 4, 5] {
        fs::remove_file(&whole[i]).unwrap();
    }
    let written = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
    let before = [1, 2, 6].map(|i: usize| written(&whole[i]));
    assert_eq!(data.load().unwrap(), loaded);
    assert_eq!([1, 2, 6].map(|i: usize| written(&whole[i])), before);
    for (path, bytes) in whole.iter().zip(&bytes) {
        assert!(fs::read(path).unwrap() == *bytes, "{}", path.display());
    }

    // Few sequences, and other settings, have nothing to do with these files.
    SequenceData::new(listops(0, [20, 5, 5]), Some(cache.path())).unwrap();
    assert_eq!(files(cache.path()), whole);

    // Damage is found, whether all files are there or not.
    fs::write(&whole[2], &bytes[2][..bytes[2].len() - 2]).unwrap();
    let fail = || data.load().unwrap_err().to_string();
    let named =
        |error: &str| error.contains(whole[2].to_str().unwrap()) && error.contains("truncated");
    assert!(
        named(&fail()) && fail().contains("remove the file, and it is generated again"),
        "{}",
        fail()
    );
    fs::remove_file(&whole[3]).unwrap();
    assert!(named(&fail()), "{}", fail());
    fs::write(&whole[2], &bytes[1]).unwrap();
    assert!(fail().contains("holds sequences 0 to 4096 of"), "{}", fail());
    fs::remove_file(&whole[2]).unwrap();
    assert_eq!(data.load().unwrap(), loaded);
}

/// Small images come twice when they are many; none of one part is in another.
#[test]
fn no_generated_image_comes_twice() {
    let config = Pathfinder::small();
    let drawn = config.images(0, 0..3000).unwrap();
    let distinct = |rows: &[&[u8]]| rows.iter().collect::<HashSet<_>>().len();
    let rows: Vec<&[u8]> = (0..3000).filter_map(|i| drawn.image(i)).collect();
    assert!(distinct(&rows) < 3000, "nothing to draw again");
    let source = SequenceSource::Pathfinder { config, seed: 0, train: 2000, tune: 400, test: 600 };
    let data = SequenceData::new(source, None).unwrap();
    assert_eq!((data.vocabulary, data.classes, data.longest), (257, 2, 196));
    let splits = data.load().unwrap();
    let sets = [&splits.train, &splits.tune, &splits.test];
    let all = sets.iter().flat_map(|set| (0..set.len()).filter_map(|i| set.sequence(i)));
    let all: Vec<&[u16]> = all.collect();
    assert_eq!(all.len(), 3000);
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), 3000);
}
