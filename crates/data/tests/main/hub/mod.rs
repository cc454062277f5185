mod candle;
mod downloads;
mod images;
mod refusals;
mod server;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use conditioned_data::Task;
use conditioned_data::hub::{HFClientBuilder, Hub};
use server::{Answer, COMMIT, Repository, Request, Server};
use tempfile::TempDir;

const ID: &str = "owner/name";

fn repository() -> Repository {
    let large = |seed: usize| (0..1000).map(|i| ((i * seed) % 251) as u8).collect::<Vec<u8>>();
    let files = vec![
        ("README.md", b"Read me.\n".to_vec()),
        ("empty.txt", Vec::new()),
        ("data/train-1.bin", large(7)),
        ("data/train-0.bin", large(3)),
        ("a #1 file.txt", b"odd".to_vec()),
    ];
    Repository { id: ID, files }
}

fn content(path: &str) -> Vec<u8> {
    repository().files.into_iter().find(|(name, _)| *name == path).unwrap().1
}

fn good() -> Server {
    Server::new(repository(), |_| None)
}

fn settings(endpoint: &str, cache: &TempDir) -> HFClientBuilder {
    HFClientBuilder::new()
        .endpoint(endpoint)
        .cache_dir(cache.path().join("hub"))
        .retry_base_delay(Duration::from_millis(1))
}

fn hub(server: &Server, cache: &TempDir) -> Hub {
    Hub::new(settings(&server.endpoint, cache)).unwrap()
}

fn offline(cache: &TempDir) -> Hub {
    Hub::offline(cache.path().join("hub"))
}

fn is_data(path: &str) -> bool {
    path.starts_with("data/")
}

fn blobs(cache: &TempDir) -> Vec<String> {
    let folder = cache.path().join("hub/datasets--owner--name/blobs");
    let names = fs::read_dir(folder).unwrap();
    names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn is_whole(files: &[PathBuf]) {
    assert_eq!(files.len(), 2);
    assert!(files[0].ends_with(format!("snapshots/{COMMIT}/data/train-0.bin")));
    assert!(files[1].ends_with(format!("snapshots/{COMMIT}/data/train-1.bin")));
    assert_eq!(fs::read(&files[0]).unwrap(), content("data/train-0.bin"));
    assert_eq!(fs::read(&files[1]).unwrap(), content("data/train-1.bin"));
}

/// One line that names the repository and these words.
fn message<T: std::fmt::Debug>(result: conditioned_data::Result<T>, words: &[&str]) {
    let message = result.unwrap_err().to_string();
    assert!(!message.contains('\n'), "{message}");
    for word in words {
        assert!(message.contains(word), "{message:?} lacks {word:?}");
    }
}

/// A file of the repository.
fn one(hub: &Hub) -> conditioned_data::Result<Vec<PathBuf>> {
    hub.dataset(ID, "main", |path| path == "data/train-0.bin")
}

/// The ranges of content that a server was asked for.
fn ranges(server: &Server) -> Vec<String> {
    let is_content = |r: &Request| r.path.starts_with("/cdn/") && !r.is_head;
    let requests = server.requests().into_iter().filter(is_content);
    requests.map(|request| request.range.unwrap_or_default()).collect()
}

/// A server that refuses a part of its paths.
fn refusing(part: &'static str, status: u16, code: &'static str) -> Server {
    Server::new(repository(), move |request| {
        let refused = request.path.contains(part);
        refused.then(|| Answer::new(status, "{\"error\": \"no\"}").with("x-error-code", code))
    })
}

#[test]
fn files_are_fetched_once() {
    let (server, cache) = (good(), TempDir::new().unwrap());
    let hub = hub(&server, &cache);
    is_whole(&hub.dataset(ID, "main", is_data).unwrap());
    let paths = server.requests().into_iter().map(|request| request.path).collect::<Vec<_>>();
    // Two for the pages of the tree; a file is asked for its head first, and both are redirected.
    assert_eq!(paths.len(), 11);
    assert_eq!(paths[0], "/api/datasets/owner/name/revision/main");
    assert_eq!(paths[1], format!("/api/datasets/owner/name/tree/{COMMIT}?recursive=true"));
    assert_eq!(paths[3], format!("/datasets/owner/name/resolve/{COMMIT}/data/train-0.bin"));
    assert_eq!(paths[6], "/cdn/data/train-0.bin?signature=x");

    // A branch may have moved, a commit has not.
    is_whole(&hub.dataset(ID, "main", is_data).unwrap());
    assert_eq!(server.requests().len(), 3);
    is_whole(&hub.dataset(ID, COMMIT, is_data).unwrap());
    assert_eq!(server.requests().len(), 2);

    let all = hub.dataset(ID, "refs/convert/parquet", |_| true).unwrap();
    assert_eq!(server.requests().len(), 7);
    let names = ["a #1 file.txt", "README.md", "empty.txt"];
    for name in names {
        let path = all.iter().find(|path| path.ends_with(name)).unwrap();
        assert_eq!(fs::read(path).unwrap(), content(name));
    }
    assert!(all.is_sorted());
}

#[test]
fn the_cache_is_laid_out_as_for_all_programs_of_the_hub() {
    let (server, cache) = (good(), TempDir::new().unwrap());
    let files = hub(&server, &cache).dataset(ID, "main", is_data).unwrap();
    let folder = cache.path().join("hub/datasets--owner--name");
    assert_eq!(fs::read_to_string(folder.join("refs/main")).unwrap(), COMMIT);
    assert!(files[0].starts_with(&folder));
    #[cfg(unix)]
    {
        let link = fs::read_link(&files[0]).unwrap();
        assert!(link.starts_with("../../../blobs"), "{}", link.display());
    }
    assert!(blobs(&cache).iter().all(|name| name.len() == 64));
}

#[test]
fn a_file_of_another_size_or_that_is_gone_is_fetched_again() {
    let (server, cache) = (good(), TempDir::new().unwrap());
    let hub = hub(&server, &cache);
    let files = hub.dataset(ID, "main", is_data).unwrap();
    fs::write(fs::canonicalize(&files[0]).unwrap(), "cut").unwrap();
    fs::remove_file(fs::canonicalize(&files[1]).unwrap()).unwrap();
    is_whole(&hub.dataset(ID, "main", is_data).unwrap());
}

#[test]
fn content_of_another_commit_or_program_is_not_fetched_again() {
    let (server, cache) = (good(), TempDir::new().unwrap());
    hub(&server, &cache).dataset(ID, "main", is_data).unwrap();
    fs::remove_dir_all(cache.path().join("hub/datasets--owner--name/snapshots")).unwrap();
    server.requests();
    is_whole(&hub(&server, &cache).dataset(ID, "main", is_data).unwrap());
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn the_token_goes_to_the_hub_alone() {
    let (server, cache) = (good(), TempDir::new().unwrap());
    let hub = Hub::new(settings(&server.endpoint, &cache).token("secret")).unwrap();
    assert!(!format!("{hub:?}").contains("secret"));
    hub.dataset(ID, "main", is_data).unwrap();
    let requests = server.requests();
    assert_eq!(requests.iter().filter(|request| request.path.starts_with("/cdn/")).count(), 4);
    for request in requests {
        let expected = (!request.path.starts_with("/cdn/")).then_some("Bearer secret");
        assert_eq!(request.token.as_deref(), expected, "{}", request.path);
    }
}

#[test]
fn offline_the_cache_must_do() {
    let (server, cache) = (good(), TempDir::new().unwrap());
    let remedy = "HF_HUB_OFFLINE is set; unset it";
    message(offline(&cache).dataset(ID, "main", is_data), &["data set owner/name", remedy]);
    hub(&server, &cache).dataset(ID, "main", is_data).unwrap();
    drop(server);
    is_whole(&offline(&cache).dataset(ID, "main", is_data).unwrap());
    is_whole(&offline(&cache).dataset(ID, COMMIT, is_data).unwrap());
    // What was ever fetched is what there is.
    is_whole(&offline(&cache).dataset(ID, "main", |_| true).unwrap());
    let absent = offline(&cache).dataset(ID, "main", |path| path == "README.md");
    message(absent, &["no file that is asked for in the cache", remedy]);
    message(offline(&cache).dataset(ID, "other", is_data), &["no revision other", remedy]);
    message(offline(&cache).model(ID, "main", &[]), &["model owner/name", remedy]);
}

#[test]
fn a_revision_is_not_at_a_commit_whose_files_are_not_here() {
    let (server, cache) = (refusing("train-1", 404, "EntryNotFound"), TempDir::new().unwrap());
    message(hub(&server, &cache).dataset(ID, "main", is_data), &["no file data/train-1.bin"]);
    message(offline(&cache).dataset(ID, "main", is_data), &["no revision main in the cache"]);
}

/// A repository as Python's huggingface_hub leaves it.
fn of_python(cache: &TempDir, name: &str, files: &[(&str, &str)]) -> PathBuf {
    let folder = cache.path().join("hub").join(name);
    let snapshot = folder.join("snapshots").join(COMMIT);
    fs::create_dir_all(folder.join("refs")).unwrap();
    fs::create_dir_all(folder.join("blobs")).unwrap();
    fs::write(folder.join("refs/main"), COMMIT).unwrap();
    for (path, content) in files {
        let path = snapshot.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let blob = folder.join("blobs").join(path.file_name().unwrap());
        fs::write(&blob, content).unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink(blob, path).unwrap();
        #[cfg(not(unix))]
        fs::copy(blob, path).unwrap();
    }
    snapshot
}

#[test]
fn what_another_program_fetched_is_found_offline() {
    let cache = TempDir::new().unwrap();
    let files = [("config.json", "{}"), ("pytorch_model.bin", "w"), ("vocab.json", "{}")];
    let snapshot = of_python(&cache, "models--gpt2", &files);
    assert_eq!(offline(&cache).model("gpt2", "main", &WEIGHTS).unwrap(), snapshot);
    let other = offline(&cache).model("gpt2", "main", &["model.safetensors"]);
    message(other, &["model gpt2", "no weights (looked for model.safetensors)", "HF_HUB_OFFLINE"]);
    let files = [("data/train-0.bin", "0"), ("data/train-1.bin", "1"), ("README.md", "")];
    let snapshot = of_python(&cache, "datasets--owner--name", &files);
    let found = offline(&cache).dataset(ID, "main", is_data).unwrap();
    assert_eq!(found, ["data/train-0.bin", "data/train-1.bin"].map(|path| snapshot.join(path)));
    // A link to nothing is no file.
    fs::remove_file(cache.path().join("hub/datasets--owner--name/blobs/train-0.bin")).unwrap();
    assert_eq!(offline(&cache).dataset(ID, "main", is_data).unwrap().len(), 1);
}

const WEIGHTS: [&str; 3] =
    ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"];

#[test]
fn of_a_model_one_kind_of_weights_is_fetched() {
    let fetched = |names: &'static [&'static str]| {
        let (server, cache) = (named(names), TempDir::new().unwrap());
        let folder = hub(&server, &cache).model(ID, "main", &WEIGHTS)?;
        assert_eq!(folder, cache.path().join("hub/models--owner--name/snapshots").join(COMMIT));
        let names = names.iter().filter(|name| folder.join(name).exists());
        conditioned_data::Result::Ok(names.copied().collect::<Vec<_>>())
    };
    let files = ["config.json", "pytorch_model.bin", "vocab.txt", "tokenizer_config.json"];
    let all = fetched(&[
        "config.json",
        "pytorch_model.bin",
        "vocab.txt",
        "tokenizer_config.json",
        "README.md",
        "flax_model.msgpack",
    ]);
    assert_eq!(all.unwrap(), files);
    let files = ["config.json", "model.safetensors", "vocab.json", "merges.txt"];
    let all = fetched(&[
        "config.json",
        "model.safetensors",
        "vocab.json",
        "merges.txt",
        "pytorch_model.bin",
        "onnx/model.safetensors",
    ]);
    assert_eq!(all.unwrap(), files);
    let files = [
        "config.json",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ];
    let all = fetched(&[
        "config.json",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "pytorch_model.bin",
        "pytorch_model-00001-of-00002.bin",
    ]);
    assert_eq!(all.unwrap(), files);
    message(fetched(&["README.md"]), &["model owner/name: no config.json; it has: README.md"]);
    message(
        fetched(&["config.json", "weights.bin"]),
        &["no weights (looked for model.safetensors, ", "it has: config.json, weights.bin"],
    );
}

#[test]
fn processes_fetch_a_file_once() {
    let (server, cache) = (good(), TempDir::new().unwrap());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| is_whole(&hub(&server, &cache).dataset(ID, "main", is_data).unwrap()));
        }
    });
    assert_eq!(ranges(&server).len(), 2);
}

/// Runs only as a process of the tests below.
#[test]
fn child() {
    let Ok(expected) = std::env::var("EXPECTED_OF_CHILD") else { return };
    tracing_subscriber::fmt().json().with_writer(std::io::stderr).init();
    let found = Hub::from_env().and_then(|hub| hub.dataset(ID, "main", |path| path == "README.md"));
    let found = found.map_or_else(|e| e.to_string(), |files| files[0].display().to_string());
    assert!(found.contains(&expected), "{found}");
}

/// Expects a file or error of a process with these variables and no others; returns its events.
fn expect(variables: &[(&str, &str)], expected: &Path) -> String {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "hub::child"]).env_clear().envs(variables.iter().copied());
    let output = child.env("EXPECTED_OF_CHILD", expected).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn progress_is_told_as_events() {
    let (server, home) = (good(), TempDir::new().unwrap());
    let home = ("HOME", home.path().to_str().unwrap());
    let events = expect(&[home, ("HF_ENDPOINT", &server.endpoint)], Path::new("README.md"));
    let event: serde_json::Value = serde_json::from_str(&events).unwrap();
    let fields = serde_json::json!({
        "message": "fetching from data set owner/name", "file": "README.md", "done": 0, "size": 9,
    });
    assert_eq!(event["fields"], fields);
}

#[test]
fn settings_come_from_the_environment() {
    let (server, home) = (good(), TempDir::new().unwrap());
    let file = Path::new("datasets--owner--name/snapshots").join(COMMIT).join("README.md");
    let home_folder = ("HOME", home.path().to_str().unwrap());
    let endpoint = ("HF_ENDPOINT", &*server.endpoint);
    let tokens = || {
        let requests = server.requests();
        assert!(!requests.is_empty());
        requests.into_iter().map(|request| request.token).collect::<Vec<_>>()
    };
    let default = home.path().join(".cache/huggingface");
    expect(&[home_folder, endpoint], &default.join("hub").join(&file));
    assert!(tokens().iter().all(Option::is_none));
    // Where a login left it.
    fs::write(default.join("token"), "kept\n").unwrap();
    expect(&[home_folder, endpoint], &default.join("hub").join(&file));
    assert!(tokens().iter().all(|token| token.as_deref() == Some("Bearer kept")));
    let token = ("HF_TOKEN", " t\n");
    let set = [home_folder, endpoint, token, ("HF_HOME", "~/other")];
    expect(&set, &home.path().join("other/hub").join(&file));
    assert!(tokens().iter().all(|token| token.as_deref() == Some("Bearer t")));
    let set = [home_folder, endpoint, ("HF_HUB_CACHE", "~/cache"), ("HF_HOME", "~/other")];
    expect(&set, &home.path().join("cache").join(&file));
    tokens();
    for on in ["1", "TRUE"] {
        let set = [home_folder, endpoint, ("HF_HUB_OFFLINE", on), ("HF_HOME", "~/other")];
        expect(&set, &home.path().join("other/hub").join(&file));
        assert_eq!(server.requests().len(), 0);
    }
    let proxy = ("HTTP_PROXY", &*server.endpoint);
    let set = [home_folder, ("HF_ENDPOINT", "http://hub.invalid"), proxy, ("HF_HOME", "~/third")];
    expect(&set, &home.path().join("third/hub").join(&file));
    assert!(server.requests().iter().all(|request| request.host == "hub.invalid"));
    let set = [home_folder, endpoint, ("SSL_CERT_FILE", "/no/such/file")];
    expect(&set, Path::new("check HF_ENDPOINT, SSL_CERT_FILE"));
}

/// A repository of empty files of these names.
fn named(names: &'static [&'static str]) -> Server {
    let files = names.iter().map(|name| (*name, Vec::new())).collect();
    Server::new(Repository { id: ID, files }, |_| None)
}

#[test]
fn a_text_is_the_training_files_of_one_configuration() {
    let cache = TempDir::new().unwrap();
    let server = named(&["data/train-0.parquet", "data/test-0.parquet", "data/train.txt"]);
    let source = hub(&server, &cache).text(ID).unwrap();
    assert_eq!(source.name(), ID);
    // Empty, and so no parquet file: the first document is the reason.
    let error = source.documents().next().unwrap().unwrap_err().to_string();
    assert!(error.contains("data/train-0.parquet"), "{error}");
    let cache = TempDir::new().unwrap();
    let server = named(&["a/train-0.parquet", "b/train-0.parquet"]);
    let result = hub(&server, &cache).text(ID).map(|source| source.name().to_string());
    message(result, &[ID, "training files of 2 configurations"]);
}

#[test]
fn tasks_of_glue_are_folders_of_one() {
    let cache = TempDir::new().unwrap();
    let server = named(&[
        "rte/train-0.parquet",
        "rte/validation-0.parquet",
        "rte/test-0.parquet",
        "ax/validation-0.parquet",
    ]);
    let hub = hub(&server, &cache);
    let folder = hub.glue(ID, &Task::ALL).unwrap();
    assert!(folder.join("rte/train-0.parquet").exists());
    assert!(!folder.join("rte/test-0.parquet").exists() && !folder.join("ax").exists());
    message(hub.glue(ID, &[Task::Cola]), &[ID, "no file that is asked for"]);
}
