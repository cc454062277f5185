//! A hub on loopback: it lists repositories, and serves their files, large ones by a redirect.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use serde_json::{Value, json};

pub(super) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A request, as far as the tests look at it.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) is_head: bool,
    /// With the query.
    pub(super) path: String,
    pub(super) host: String,
    pub(super) token: Option<String>,
    pub(super) range: Option<String>,
}

/// An answer, of whose body perhaps only the first bytes are sent.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
    pub(super) cut: Option<usize>,
}

impl Answer {
    pub(super) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), cut: None }
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// What to answer instead of the right thing.
type Fault = dyn FnMut(&Request) -> Option<Answer> + Send;

pub(super) struct Server {
    pub(super) endpoint: String,
    requests: Arc<Mutex<Vec<Request>>>,
    over: Arc<AtomicBool>,
}

#[derive(Clone)]
pub(super) struct Repository {
    pub(super) id: &'static str,
    pub(super) files: Vec<(&'static str, Vec<u8>)>,
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Files of more than 100 bytes are large.
fn hash(content: &[u8]) -> String {
    if content.len() > 100 {
        return hex(digest(&SHA256, content).as_ref());
    }
    git_hash(content)
}

fn git_hash(content: &[u8]) -> String {
    let blob = [format!("blob {}\0", content.len()).as_bytes(), content].concat();
    hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, &blob).as_ref())
}

impl Repository {
    /// The tree of the files, as the hub lists it: of a large file git's hash is that of its pointer.
    pub(super) fn tree(&self) -> Value {
        let entries = self.files.iter().map(|(path, content)| {
            let (size, hash) = (content.len(), hash(content));
            let mut entry = json!({"type": "file", "path": path, "size": size, "oid": hash});
            if size > 100 {
                let pointer = format!(
                    "version https://git-lfs.github.com/spec/v1\noid sha256:{hash}\nsize {size}\n"
                );
                entry["lfs"] = json!({"oid": hash, "size": size, "pointerSize": pointer.len()});
                entry["oid"] = git_hash(pointer.as_bytes()).into();
            }
            entry
        });
        let folder = json!({"type": "directory", "path": "data", "size": 0, "oid": "0".repeat(40)});
        entries.chain([folder]).collect()
    }

    pub(super) fn answer(&self, request: &Request) -> Answer {
        let (path, _) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let id = self.id;
        let api = ["datasets", "models"].map(|kind| format!("/api/{kind}/{id}/"));
        if let Some(asked) = api.iter().find_map(|api| path.strip_prefix(api)) {
            return match asked.split_once('/') {
                Some(("revision", "main" | COMMIT | "refs%2Fconvert%2Fparquet")) => {
                    Answer::new(200, json!({"id": id, "sha": COMMIT}).to_string())
                }
                Some(("tree", COMMIT)) => self.page(request),
                _ => Answer::new(404, "{}").with("x-error-code", "RevisionNotFound"),
            };
        }
        let find = |path: &str| {
            let path = path.replace("%20", " ").replace("%23", "#");
            self.files.iter().find(|(name, _)| *name == path)
        };
        let pages = [format!("/datasets/{id}/"), format!("/{id}/")];
        let resolve = pages.map(|page| format!("{page}resolve/{COMMIT}/"));
        if let Some(path) = resolve.iter().find_map(|prefix| path.strip_prefix(prefix)) {
            let Some((_, content)) = find(path) else {
                return Answer::new(404, "").with("x-error-code", "EntryNotFound");
            };
            if content.len() <= 100 {
                return slice(content, request);
            }
            let port = request.host.split(':').next_back().unwrap();
            return Answer::new(302, "")
                .with("location", format!("http://localhost:{port}/cdn/{path}?signature=x"))
                .with("x-linked-size", content.len().to_string())
                .with("x-linked-etag", format!("\"{}\"", hash(content)));
        }
        match path.strip_prefix("/cdn/").and_then(find) {
            Some((_, content)) => slice(content, request),
            None => Answer::new(401, "{}").with("x-error-code", "RepoNotFound"),
        }
    }

    /// The first entry of the tree, or all others.
    fn page(&self, request: &Request) -> Answer {
        let Value::Array(mut first) = self.tree() else { unreachable!() };
        let rest = first.split_off(1);
        if request.path.contains("cursor=") {
            return Answer::new(200, Value::Array(rest).to_string());
        }
        let next = format!("<http://{}{}&cursor=1>; rel=\"next\"", request.host, request.path);
        Answer::new(200, Value::Array(first).to_string()).with("link", next)
    }
}

impl Request {
    /// The first byte that it asks for, and the one after the last.
    fn span(&self, size: usize) -> (usize, usize) {
        let Some(range) = &self.range else { return (0, size) };
        let (start, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        (start.parse().unwrap(), last.parse::<usize>().unwrap() + 1)
    }
}

/// The bytes that the request asks for.
fn slice(content: &[u8], request: &Request) -> Answer {
    let size = content.len();
    let (start, end) = request.span(size);
    match &request.range {
        None => Answer::new(200, content),
        Some(_) if start >= size => Answer::new(416, ""),
        Some(_) => Answer::new(206, &content[start..end])
            .with("content-range", format!("bytes {start}-{}/{size}", end - 1)),
    }
    .with("etag", format!("\"{}\"", hash(content)))
    .with("x-repo-commit", COMMIT)
    .with("accept-ranges", "bytes")
}

impl Server {
    /// Answers for the repository, or what `fault` says.
    pub(super) fn new(
        repository: Repository,
        fault: impl FnMut(&Request) -> Option<Answer> + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (requests, over) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let fault: Arc<Mutex<Fault>> = Arc::new(Mutex::new(fault));
        let server = Self { endpoint, requests: requests.clone(), over: over.clone() };
        thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let (fault, requests) = (fault.clone(), requests.clone());
                let repository = repository.clone();
                thread::spawn(move || {
                    let stream = stream.unwrap();
                    let Some(request) = receive(&stream) else { return };
                    requests.lock().unwrap().push(request.clone());
                    let fault = fault.lock().unwrap()(&request);
                    let mut answer = fault.unwrap_or_else(|| repository.answer(&request));
                    if request.is_head {
                        answer.cut = Some(0);
                    }
                    send(stream, answer);
                });
            }
        });
        server
    }

    /// The requests since the last call.
    pub(super) fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut *self.requests.lock().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Wakes the listener, which then goes.
        let _ = TcpStream::connect(self.endpoint.strip_prefix("http://").unwrap());
    }
}

fn receive(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let first = lines.next()?;
    let (method, rest) = first.split_once(' ')?;
    let target = rest.split(' ').next()?;
    // A proxy gets the whole address.
    let path =
        target.strip_prefix("http://").map_or(target, |rest| &rest[rest.find('/').unwrap()..]);
    let path = path.to_string();
    let is_head = method == "HEAD";
    let mut request = Request { is_head, path, host: String::new(), token: None, range: None };
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ")?;
        match name.to_lowercase().as_str() {
            "host" => request.host = value.into(),
            "authorization" => request.token = Some(value.into()),
            "range" => request.range = Some(value.into()),
            _ => {}
        }
    }
    Some(request)
}

fn send(mut stream: TcpStream, answer: Answer) {
    let length = answer.body.len();
    let mut head = format!("HTTP/1.1 {} x\r\nconnection: close\r\n", answer.status);
    head.push_str(&format!("content-length: {length}\r\n"));
    for (name, value) in answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let body = &answer.body[..answer.cut.unwrap_or(length).min(length)];
    // The client may have gone.
    let _ = stream.write_all(format!("{head}\r\n").as_bytes());
    let _ = stream.write_all(body);
}
