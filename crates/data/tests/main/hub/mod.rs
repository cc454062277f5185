mod server;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use conditioned_data::Task;
use conditioned_data::hub::{Hub, Settings};
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

fn settings(endpoint: &str, cache: &TempDir) -> Settings {
    let pause = Duration::from_millis(1);
    Settings { endpoint: endpoint.into(), pause, ..Settings::new(cache.path().join("hub")) }
}

fn hub(server: &Server, cache: &TempDir) -> Hub {
    Hub::new(settings(&server.endpoint, cache))
}

fn offline(cache: &TempDir) -> Hub {
    Hub::new(Settings { offline: true, ..settings("http://127.0.0.1:1", cache) })
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
    assert_eq!(paths.len(), 5);
    assert_eq!(paths[0], "/api/datasets/owner/name/revision/main?blobs=true");
    assert_eq!(paths[1], format!("/datasets/owner/name/resolve/{COMMIT}/data/train-1.bin"));
    assert_eq!(paths[2], "/cdn/data/train-1.bin?signature=x");

    // A branch may have moved, a commit has not.
    is_whole(&hub.dataset(ID, "main", is_data).unwrap());
    assert_eq!(server.requests().len(), 1);
    is_whole(&hub.dataset(ID, COMMIT, is_data).unwrap());
    assert_eq!(server.requests().len(), 0);

    let all = hub.dataset(ID, "refs/convert/parquet", |_| true).unwrap();
    assert_eq!(server.requests().len(), 3);
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
    let folder = hub(&server, &cache).model(ID, "main", &["README.md"]).unwrap();
    assert_eq!(folder, cache.path().join("hub/models--owner--name/snapshots").join(COMMIT));
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
fn the_token_goes_to_the_hub_alone() {
    let (server, cache) = (good(), TempDir::new().unwrap());
    let token = Some("secret".to_string());
    let settings = Settings { token, ..settings(&server.endpoint, &cache) };
    assert!(!format!("{settings:?}").contains("\"secret\""));
    Hub::new(settings).dataset(ID, "main", is_data).unwrap();
    for request in server.requests() {
        let expected = (!request.path.starts_with("/cdn/")).then_some("Bearer secret");
        assert_eq!(request.token.as_deref(), expected, "{}", request.path);
    }
}

#[test]
fn progress_reaches_the_size() {
    let (server, cache) = (good(), TempDir::new().unwrap());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let hub = hub(&server, &cache).on_progress(move |progress| {
        log.lock().unwrap().push((progress.file.to_string(), progress.done, progress.size));
    });
    hub.dataset(ID, "main", |path| path == "data/train-0.bin").unwrap();
    assert_eq!(seen.lock().unwrap().last(), Some(&("data/train-0.bin".into(), 1000, 1000)));
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
    // A file that was never fetched is not passed over.
    let all = offline(&cache).dataset(ID, "main", |_| true);
    message(all, &["README.md is not in the cache", remedy]);
    message(offline(&cache).dataset(ID, "other", is_data), &["revision other", remedy]);
    message(offline(&cache).model(ID, "main", &["README.md"]), &["model owner/name", remedy]);
}

#[test]
fn models_that_another_program_fetched_are_found_offline() {
    let cache = TempDir::new().unwrap();
    let folder = cache.path().join("hub/models--gpt2");
    let snapshot = folder.join("snapshots").join(COMMIT);
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(folder.join("refs")).unwrap();
    fs::write(folder.join("refs/main"), COMMIT).unwrap();
    fs::write(snapshot.join("config.json"), "{}").unwrap();
    assert_eq!(offline(&cache).model("gpt2", "main", &["config.json"]).unwrap(), snapshot);
    let both = offline(&cache).model("gpt2", "main", &["config.json", "vocab.json"]);
    message(both, &["model gpt2", "HF_HUB_OFFLINE"]);
}

/// A server that sends only the first bytes of each answer from its content hosts.
fn cutting<const N: usize>(lengths: [usize; N]) -> Server {
    let mut lengths = lengths.into_iter();
    Server::new(repository(), move |request| {
        let path = request.path.strip_prefix("/cdn/")?.split('?').next()?;
        let cut = lengths.next()?;
        let content = content(path);
        let start = request.range.as_ref().map_or(0, |range| {
            range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap()
        });
        let answer = match start {
            0 => Answer::new(200, content),
            _ => Answer::new(206, &content[start..])
                .with("content-range", format!("bytes {start}-999/1000")),
        };
        Some(Answer { cut: Some(cut), ..answer })
    })
}

fn ranges(server: &Server) -> Vec<String> {
    let requests = server.requests().into_iter().filter(|r| r.path.starts_with("/cdn/"));
    requests.map(|request| request.range.unwrap_or_default()).collect()
}

fn one(hub: &Hub) -> conditioned_data::Result<Vec<PathBuf>> {
    hub.dataset(ID, "main", |path| path == "data/train-0.bin")
}

#[test]
fn a_download_that_breaks_off_goes_on() {
    let (server, cache) = (cutting([400, 0, 0, 100]), TempDir::new().unwrap());
    let files = one(&hub(&server, &cache)).unwrap();
    assert_eq!(fs::read(&files[0]).unwrap(), content("data/train-0.bin"));
    assert_eq!(ranges(&server), ["", "bytes=400-", "bytes=400-", "bytes=400-", "bytes=500-"]);
}

#[test]
fn a_download_that_breaks_off_for_good_is_no_file() {
    let (server, cache) = (cutting([400, 0, 0, 0, 0]), TempDir::new().unwrap());
    let words =
        ["owner/name", "data/train-0.bin broke off after 400 of 1000 bytes", "run it again"];
    message(one(&hub(&server, &cache)), &words);
    assert_eq!(blobs(&cache).len(), 1);
    assert!(blobs(&cache)[0].ends_with(".incomplete"));
    message(one(&offline(&cache)), &["data/train-0.bin is not in the cache"]);
    server.requests();
    // The next run goes on.
    let files = one(&hub(&server, &cache)).unwrap();
    assert_eq!(fs::read(&files[0]).unwrap(), content("data/train-0.bin"));
    assert_eq!(ranges(&server), ["bytes=400-"]);
    assert!(blobs(&cache).iter().all(|name| name.len() == 64));
}

#[test]
fn a_server_that_starts_from_the_beginning_is_understood() {
    let cache = TempDir::new().unwrap();
    let mut cuts = [300, 1000].into_iter();
    let server = Server::new(repository(), move |request| {
        let cut = request.path.starts_with("/cdn/").then(|| cuts.next())?;
        Some(Answer { cut, ..Answer::new(200, content("data/train-0.bin")) })
    });
    let files = one(&hub(&server, &cache)).unwrap();
    assert_eq!(fs::read(&files[0]).unwrap(), content("data/train-0.bin"));
}

#[test]
fn a_part_that_was_whole_or_is_not_of_the_file_does_no_harm() {
    let (server, cache) = (cutting([0; 4]), TempDir::new().unwrap());
    message(one(&hub(&server, &cache)), &["broke off after 0 of 1000"]);
    let part = cache.path().join("hub/datasets--owner--name/blobs").join(&blobs(&cache)[0]);
    // Killed between the last byte and the renaming.
    fs::write(&part, content("data/train-0.bin")).unwrap();
    one(&hub(&server, &cache)).unwrap();
    assert_eq!(ranges(&server).len(), 4);
    for part_of_another in [&[1; 500][..], &[1; 2000]] {
        fs::remove_file(part.with_extension("")).unwrap();
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
        let token = token.map(String::from);
        one(&Hub::new(Settings { token, ..settings(&server.endpoint, &cache) }))
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
    assert_eq!(down.requests().len(), 4);
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
    let nobody = Hub::new(settings("http://127.0.0.1:1", &cache));
    message(one(&nobody), &["127.0.0.1:1 cannot be reached", "HF_ENDPOINT", "HF_HUB_OFFLINE=1"]);
    let other = Server::new(repository(), |_| Some(Answer::new(200, "<html>")));
    message(one(&hub(&other, &cache)), &["no list of its files", "is it a hub?"]);
}

#[test]
fn names_that_are_not_there_are_told_from_those_that_are() {
    let (server, cache) = (good(), TempDir::new().unwrap());
    let hub = hub(&server, &cache);
    let has = "it has: README.md, empty.txt, data/train-1.bin";
    message(hub.dataset(ID, "main", |_| false), &["none of its files is asked for", has]);
    message(hub.model(ID, "main", &["model.bin"]), &["model owner/name: no file model.bin", has]);
}

#[test]
fn nothing_leads_out_of_the_cache() {
    let cache = TempDir::new().unwrap();
    for id in ["", "a/b/c", "../a", "a/..", "a?b", "a b", "/a"] {
        message(offline(&cache).dataset(id, "main", is_data), &["not an id of the hub"]);
        message(offline(&cache).dataset(ID, &format!("{id}/.."), is_data), &["is no revision"]);
    }
    for path in ["../x", "/x", "a/../../x", "", "..\\x"] {
        let mut listing = repository().listing();
        listing["siblings"][0]["rfilename"] = path.into();
        let answer = listing.to_string();
        let server = Server::new(repository(), move |_| Some(Answer::new(200, answer.clone())));
        message(one(&hub(&server, &cache)), &["is no path inside a repository"]);
    }
    for (field, value) in [("sha", "../../x"), ("sha", "main")] {
        let mut listing = repository().listing();
        listing[field] = value.into();
        let answer = listing.to_string();
        let server = Server::new(repository(), move |_| Some(Answer::new(200, answer.clone())));
        message(one(&hub(&server, &cache)), &["is no commit"]);
    }
    let mut listing = repository().listing();
    listing["siblings"][0]["blobId"] = "../x".into();
    let answer = listing.to_string();
    let server = Server::new(repository(), move |_| Some(Answer::new(200, answer.clone())));
    message(one(&hub(&server, &cache)), &["no size and hash of README.md"]);
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

#[test]
fn settings_come_from_the_environment() {
    let home = TempDir::new().unwrap();
    let read = |variables: &'static [(&str, &str)], home: Option<&Path>| {
        let find = |name: &str| Some(variables.iter().find(|(n, _)| *n == name)?.1.to_string());
        Settings::from_variables(find, home.map(Path::to_path_buf))
    };
    let default = read(&[], Some(home.path())).unwrap();
    assert_eq!(default, Settings::new(home.path().join(".cache/huggingface/hub")));
    assert_eq!(default.endpoint, "https://huggingface.co");
    let set = [
        ("HF_HOME", "/h"),
        ("HF_TOKEN", " t\n"),
        ("HF_ENDPOINT", "http://m"),
        ("HF_HUB_OFFLINE", "1"),
    ];
    let settings = read(Box::leak(Box::new(set)), None).unwrap();
    assert_eq!((settings.cache, settings.token), ("/h/hub".into(), Some("t".into())));
    assert_eq!((settings.endpoint.as_str(), settings.offline), ("http://m", true));
    assert!(
        !read(&[("HF_HUB_OFFLINE", "0"), ("HF_TOKEN", "")], Some(home.path())).unwrap().offline
    );
    // Where a login left it.
    let folder = home.path().join(".cache/huggingface");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("token"), "kept\n").unwrap();
    assert_eq!(read(&[], Some(home.path())).unwrap().token.as_deref(), Some("kept"));
    assert!(read(&[], None).unwrap_err().to_string().contains("HF_HOME"));
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
    message(hub.glue(ID, &[Task::Cola]), &[ID, "none of its files is asked for"]);
}
