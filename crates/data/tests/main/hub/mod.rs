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

/// Bytes of a request.
const PIECE: usize = 64 << 20;
const SIZE: usize = PIECE + 1000;
const ALL: usize = usize::MAX;

/// A server of a file of two pieces that sends only the first bytes of each answer with content.
fn cutting<const N: usize>(lengths: [usize; N]) -> Server {
    let repository = Repository { id: ID, files: vec![("large.bin", vec![7; SIZE])] };
    let (mut lengths, answers) = (lengths.into_iter(), repository.clone());
    Server::new(repository, move |request| {
        let is_content = request.path.starts_with("/cdn/") && !request.is_head;
        let cut = is_content.then(|| lengths.next())??;
        Some(Answer { cut: Some(cut), ..answers.answer(request) })
    })
}

fn ranges(server: &Server) -> Vec<String> {
    let is_content = |r: &Request| r.path.starts_with("/cdn/") && !r.is_head;
    let requests = server.requests().into_iter().filter(is_content);
    requests.map(|request| request.range.unwrap_or_default()).collect()
}

const FIRST: &str = "bytes=0-67108863";
const SECOND: &str = "bytes=67108864-67109863";

fn one(hub: &Hub) -> conditioned_data::Result<Vec<PathBuf>> {
    hub.dataset(ID, "main", |path| path == "data/train-0.bin")
}

fn large(hub: &Hub) -> conditioned_data::Result<Vec<PathBuf>> {
    hub.dataset(ID, "main", |path| path == "large.bin")
}

fn is_large(files: &[PathBuf]) {
    assert!(fs::read(&files[0]).unwrap() == vec![7; SIZE]);
}

#[test]
fn a_download_that_breaks_off_goes_on_from_the_last_piece() {
    let (server, cache) = (cutting([400, ALL, 0, 0, 100]), TempDir::new().unwrap());
    is_large(&large(&hub(&server, &cache)).unwrap());
    assert_eq!(ranges(&server), [FIRST, FIRST, SECOND, SECOND, SECOND, SECOND]);
}

#[test]
fn a_download_that_breaks_off_for_good_is_no_file() {
    let (server, cache) = (cutting([ALL, 400, 0, 0, 0]), TempDir::new().unwrap());
    let words =
        ["owner/name", "large.bin broke off after 67108864 of 67109864 bytes", "run it again"];
    message(large(&hub(&server, &cache)), &words);
    assert_eq!(blobs(&cache).len(), 1);
    assert!(blobs(&cache)[0].ends_with(".incomplete"));
    message(large(&offline(&cache)), &["no revision main in the cache"]);
    server.requests();
    // The next run goes on.
    is_large(&large(&hub(&server, &cache)).unwrap());
    assert_eq!(ranges(&server), [SECOND]);
    assert!(blobs(&cache).iter().all(|name| name.len() == 64));
}

#[test]
fn a_server_that_knows_no_ranges_is_understood() {
    let cache = TempDir::new().unwrap();
    let repository = Repository { id: ID, files: vec![("large.bin", vec![7; SIZE])] };
    let server = Server::new(repository, move |request| {
        request.path.starts_with("/cdn/").then(|| Answer::new(200, vec![7; SIZE]))
    });
    is_large(&large(&hub(&server, &cache)).unwrap());
}

#[test]
fn a_part_that_was_whole_or_is_not_of_the_file_does_no_harm() {
    let cache = TempDir::new().unwrap();
    let mut broken = 4;
    let server = Server::new(repository(), move |request| {
        let breaks = request.path.starts_with("/cdn/") && !request.is_head && broken > 0;
        broken -= usize::from(breaks);
        breaks.then(|| Answer { cut: Some(0), ..Answer::new(200, content("data/train-0.bin")) })
    });
    message(one(&hub(&server, &cache)), &["broke off after 0 of 1000"]);
    let folder = cache.path().join("hub/datasets--owner--name/blobs");
    let part = folder.join(&blobs(&cache)[0]);
    // Killed between the last byte and the renaming.
    fs::write(&part, content("data/train-0.bin")).unwrap();
    one(&hub(&server, &cache)).unwrap();
    assert_eq!(ranges(&server).len(), 4);
    for part_of_another in [&[1; 500][..], &[1; 2000]] {
        fs::remove_file(folder.join(&blobs(&cache)[0])).unwrap();
        fs::write(&part, part_of_another).unwrap();
        let result = one(&hub(&server, &cache));
        let files = result.or_else(|_| one(&hub(&server, &cache))).unwrap();
        assert_eq!(fs::read(&files[0]).unwrap(), content("data/train-0.bin"));
    }
}

#[test]
fn damaged_bytes_never_enter_the_cache() {
    for body in [vec![1; 1000], vec![1; 5000]] {
        let cache = TempDir::new().unwrap();
        let server = Server::new(repository(), move |request| {
            request.path.starts_with("/cdn/").then(|| Answer::new(200, body.clone()))
        });
        message(one(&hub(&server, &cache)), &["owner/name", "train-0.bin came damaged", "again"]);
        assert_eq!(blobs(&cache), [""; 0]);
    }
}

/// A server that refuses a part of its paths.
fn refusing(part: &'static str, status: u16, code: &'static str) -> Server {
    Server::new(repository(), move |request| {
        let refused = request.path.contains(part);
        refused.then(|| Answer::new(status, "{\"error\": \"no\"}").with("x-error-code", code))
    })
}

#[test]
fn refusals_say_what_to_do() {
    let cache = TempDir::new().unwrap();
    let ask = |server: &Server, token: Option<&str>| {
        let settings = settings(&server.endpoint, &cache);
        let settings = token.into_iter().fold(settings, HFClientBuilder::token);
        one(&Hub::new(settings).unwrap())
    };
    let gated = refusing("/resolve/", 401, "GatedRepo");
    let page = format!("accept the licence at {}/datasets/owner/name", gated.endpoint);
    let words = ["data set owner/name: data/train-0.bin is not open", &page, "set HF_TOKEN"];
    message(ask(&gated, None), &words);
    let gated = refusing("/resolve/", 403, "GatedRepo");
    message(ask(&gated, Some("t")), &["HF_TOKEN gives no access to data/train-0.bin (HTTP 403)"]);
    message(ask(&refusing("/api/", 401, "RepoNotFound"), None), &["check the id", "HTTP 401"]);
    message(ask(&refusing("/api/", 404, "RepoNotFound"), None), &["nothing at", "check the id"]);
    let gone = refusing("/resolve/", 404, "EntryNotFound");
    message(ask(&gone, None), &["no file data/train-0.bin", "check the revision"]);
    message(ask(&refusing("/api/", 429, ""), None), &["too many requests"]);
    let down = refusing("/api/", 503, "");
    message(ask(&down, None), &["HTTP 503", "try again later"]);
    assert_eq!(down.requests().len(), 6);
    message(hub(&good(), &cache).dataset(ID, "v9", is_data), &["no revision v9"]);
    assert!(!cache.path().join("hub").join("datasets--owner--name/snapshots").exists());
}

#[test]
fn a_server_that_comes_back_is_asked_again() {
    let (cache, mut down) = (TempDir::new().unwrap(), 2);
    let server = Server::new(repository(), move |_: &Request| {
        down -= 1;
        (down >= 0).then(|| Answer::new(500, ""))
    });
    is_whole(&hub(&server, &cache).dataset(ID, "main", is_data).unwrap());
}

#[test]
fn no_hub_at_the_address() {
    let cache = TempDir::new().unwrap();
    let nobody = Hub::new(settings("http://127.0.0.1:1", &cache)).unwrap();
    message(one(&nobody), &["127.0.0.1:1 cannot be reached", "HF_ENDPOINT", "HF_HUB_OFFLINE=1"]);
    let other = Server::new(repository(), |_| Some(Answer::new(200, "<html>")));
    message(one(&hub(&other, &cache)), &["no list of its files", "is it a hub?"]);
    let none = Hub::new(settings("no address", &cache)).map(|_| ());
    message(none, &["the hub: no client", "check HF_ENDPOINT"]);
}

#[test]
fn names_that_are_not_there_are_told_from_those_that_are() {
    let (server, cache) = (good(), TempDir::new().unwrap());
    let hub = hub(&server, &cache);
    let has = "it has: README.md, a #1 file.txt, data/train-0.bin";
    message(hub.dataset(ID, "main", |_| false), &["no file that is asked for", has]);
}

#[test]
fn nothing_leads_out_of_the_cache() {
    let cache = TempDir::new().unwrap();
    for id in ["", "a/b/c", "../a", "a/..", "a?b", "a b", "/a"] {
        message(offline(&cache).dataset(id, "main", is_data), &["not an id of the hub"]);
        message(offline(&cache).dataset(ID, &format!("{id}/.."), is_data), &["is no revision"]);
    }
    let with = |field: &'static str, value: &'static str| {
        let mut tree = repository().tree();
        tree[0][field] = value.into();
        let server = Server::new(repository(), move |request| {
            let sha = serde_json::json!({"id": ID, "sha": value}).to_string();
            match field {
                "sha" => request.path.contains("/revision/").then(|| Answer::new(200, sha)),
                _ => request.path.contains("/tree/").then(|| Answer::new(200, tree.to_string())),
            }
        });
        one(&hub(&server, &cache))
    };
    for path in ["../x", "/x", "a/../../x", "", "..\\x"] {
        message(with("path", path), &["is no path inside a repository"]);
    }
    for commit in ["../../x", "main"] {
        message(with("sha", commit), &["is no commit"]);
    }
    message(with("oid", "../x"), &["no hash of README.md"]);
    assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 0);
}

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let (server, cache) = (good(), TempDir::new().unwrap());
    fs::write(cache.path().join("hub"), "in the way").unwrap();
    let path = cache.path().join("hub");
    message(one(&hub(&server, &cache)), &["cannot write", path.to_str().unwrap(), "set HF_HOME"]);
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
