//! A hub on loopback: it lists repositories, and serves their files, large ones by a redirect.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use serde_json::{Value, json};

pub(super) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A request, as far as the tests look at it.
#[derive(Debug, Clone)]
pub(super) struct Request {
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
    let blob = [format!("blob {}\0", content.len()).as_bytes(), content].concat();
    hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, &blob).as_ref())
}

impl Repository {
    pub(super) fn listing(&self) -> Value {
        let siblings = self.files.iter().map(|(path, content)| {
            let (size, hash) = (content.len(), hash(content));
            let mut sibling = json!({"rfilename": path, "size": size, "blobId": hash});
            if size > 100 {
                let pointer = "f".repeat(40);
                sibling["blobId"] = pointer.into();
                sibling["lfs"] = json!({"sha256": hash, "size": size, "pointerSize": 134});
            }
            sibling
        });
        let siblings = siblings.collect::<Vec<_>>();
        json!({"id": self.id, "sha": COMMIT, "private": false, "siblings": siblings})
    }

    fn answer(&self, request: &Request) -> Answer {
        let (path, _) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let id = self.id;
        let api = ["datasets", "models"].map(|kind| format!("/api/{kind}/{id}/revision/"));
        if let Some(revision) = api.iter().find_map(|api| path.strip_prefix(api)) {
            return match revision {
                "main" | COMMIT | "refs%2Fconvert%2Fparquet" => {
                    Answer::new(200, self.listing().to_string())
                }
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
}

/// The bytes that the request asks for.
fn slice(content: &[u8], request: &Request) -> Answer {
    let start = request.range.as_ref().map(|range| {
        range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse::<usize>().unwrap()
    });
    let etag = format!("\"{}\"", hash(content));
    let (last, size) = (content.len().saturating_sub(1), content.len());
    match start {
        None => Answer::new(200, content),
        Some(start) if start >= size => Answer::new(416, ""),
        Some(start) => Answer::new(206, &content[start..])
            .with("content-range", format!("bytes {start}-{last}/{size}")),
    }
    .with("etag", etag)
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
                    send(stream, fault.unwrap_or_else(|| repository.answer(&request)));
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
    let path = first.strip_prefix("GET ")?.split(' ').next()?.to_string();
    let mut request = Request { path, host: String::new(), token: None, range: None };
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
