//! Sets of images of the hub, online and then offline.

use super::*;
use crate::image_parquet::{images, metadata, read, write};

const COLUMNS: [&str; 2] = ["image", "label"];

/// A parquet file of `count` images of each of two classes.
fn parquet(count: u8) -> Vec<u8> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.parquet");
    write(&path, COLUMNS, Some(metadata(COLUMNS, &["cat", "dog"])), &images(2, count));
    fs::read(path).unwrap()
}

fn set(train: &'static str, test: &'static str) -> Repository {
    let files = vec![
        ("README.md", b"Cats and dogs.\n".to_vec()),
        (train, parquet(10)),
        (test, parquet(3)),
        ("extra/other.parquet", parquet(1)),
    ];
    Repository { id: ID, files }
}

/// A set whose `main` has its README alone: the parquet files are on the branch that the hub makes.
pub(super) fn converted(repository: Repository) -> Server {
    const MAIN: &str = "1111111111111111111111111111111111111111";
    let (id, files) = (repository.id, vec![("README.md", Vec::new())]);
    let own = Repository { id, files }.tree().to_string();
    Server::new(repository, move |request| {
        let answer = |text: String| Some(Answer::new(200, text));
        if request.path.ends_with("/revision/main") {
            return answer(serde_json::json!({ "id": id, "sha": MAIN }).to_string());
        }
        request.path.contains(&format!("/tree/{MAIN}")).then(|| answer(own.clone()))?
    })
}

#[test]
fn images_are_fetched_and_read_again_offline() {
    let own = set("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet");
    let made = set("default/train/0000.parquet", "default/test/0000.parquet");
    for (server, folder) in [(Server::new(own, |_| None), "data"), (converted(made), "default")] {
        let cache = TempDir::new().unwrap();
        message(offline(&cache).images(ID), &["data set owner/name", "HF_HUB_OFFLINE is set"]);
        let path = hub(&server, &cache).images(ID).unwrap();
        assert!(path.ends_with(format!("snapshots/{COMMIT}/{folder}")), "{}", path.display());
        assert!(!path.join("../extra").exists());
        let (data, splits) = read(&path);
        assert_eq!((&*data.name, &data.classes[..]), (ID, &["cat".to_string(), "dog".into()][..]));
        assert_eq!((splits.train.len(), splits.tune.len(), splits.test.len()), (15, 5, 6));
        drop(server);
        assert_eq!(offline(&cache).images(ID).unwrap(), path);
        assert_eq!(data.load().unwrap().train, splits.train);
    }
}

#[test]
fn sets_without_one_configuration_of_images_say_so() {
    let cache = TempDir::new().unwrap();
    let server = named(&["a/train-0.parquet", "b/train/0000.parquet", "b/test/0000.parquet"]);
    let two = ["data set owner/name", "training files of 2 configurations (a, b)"];
    message(hub(&server, &cache).images(ID), &two);
    let server = named(&["data/test-0.parquet", "data/train-0.bin"]);
    let none = ["no parquet files to train on; it has: data/test-0.parquet, data/train-0.bin"];
    message(hub(&server, &cache).images(ID), &none);
    // The hub makes none of what only some may see.
    let files = vec![("images.zip", Vec::new())];
    let server = Server::new(Repository { id: ID, files }, |request| {
        let gone = request.path.contains("revision/refs");
        gone.then(|| Answer::new(404, "{}").with("x-error-code", "RevisionNotFound"))
    });
    let words = ["no parquet files to train on", "the hub makes", "refs/convert/parquet"];
    message(hub(&server, &cache).images(ID), &words);
    let server = refusing("/api/", 401, "RepoNotFound");
    message(hub(&server, &cache).images(ID), &["check the id"]);
    assert_eq!(server.requests().len(), 1);
}
