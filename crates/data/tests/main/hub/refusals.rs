//! What a hub refuses, and what is refused here.

use super::*;

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
