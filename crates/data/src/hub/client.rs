//! [`Client`]: the requests, and what a failed one means.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ureq::config::RedirectAuthHeaders;
use ureq::http::{Response, StatusCode, header};
use ureq::{Agent, Body};

use super::listing::{Entry, Listing};
use super::{Progress, Report, Repository, Settings};
use crate::{Error, Result};

/// Requests in a row that may fail.
const TRIES: u32 = 4;

/// A server that is silent for so long is gone.
const SILENCE: Duration = Duration::from_secs(30);

/// Most bytes of a listing.
const LISTING: u64 = 256 << 20;

/// What stands as it is in a part of a URL's path.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
const SLASHES: &AsciiSet = &PLAIN.remove(b'/');

pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    authorization: Option<String>,
    pause: Duration,
}

impl Client {
    pub(super) fn new(settings: &Settings) -> Self {
        // The token goes to the hub alone: large files come from another host, by a signed URL.
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .timeout_connect(Some(SILENCE))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .accept_encoding("identity")
            .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
            .build();
        Self {
            agent: config.into(),
            endpoint: settings.endpoint.trim_end_matches('/').into(),
            authorization: settings.token.as_ref().map(|token| format!("Bearer {token}")),
            pause: settings.pause,
        }
    }

    /// Asks for the files of a revision.
    pub(super) fn list(&self, repository: &Repository<'_>) -> Result<Listing> {
        let Repository { id, revision, .. } = repository;
        let revision = utf8_percent_encode(revision, PLAIN);
        let kind = repository.plural();
        let url = format!("{}/api/{kind}/{id}/revision/{revision}?blobs=true", self.endpoint);
        let mut response = self.get(&url, 0).map_err(|problem| repository.fail(problem))?;
        if response.status() != StatusCode::OK {
            return Err(repository.fail(self.refusal(repository, None, &response)));
        }
        let read = response.body_mut().with_config().limit(LISTING).read_to_string();
        read.map_err(|e| e.to_string()).and_then(|answer| Listing::parse(&answer)).map_err(|e| {
            let endpoint = &self.endpoint;
            repository.fail(format!("{endpoint} gives no list of its files ({e}); is it a hub?"))
        })
    }

    /// Fetches a file beside `blob`, going on where an earlier download broke off, and renames it.
    pub(super) fn download(
        &self,
        repository: &Repository<'_>,
        commit: &str,
        entry: &Entry,
        blob: &Path,
        report: &Report,
    ) -> Result<()> {
        let path = blob.with_extension("incomplete");
        let write_error = Error::cache(&path);
        let open = File::options().create(true).truncate(false).read(true).append(true).open(&path);
        let mut part = Part { file: open.map_err(&write_error)?, done: 0, entry, report };
        part.done = part.file.metadata().map_err(&write_error)?.len();
        if part.done > entry.size {
            part.restart().map_err(&write_error)?;
        }
        let name = utf8_percent_encode(&entry.path, SLASHES);
        let url = format!("{}/{}/resolve/{commit}/{name}", self.endpoint, repository.page());
        let mut failed = 0;
        while part.done < entry.size {
            let before = part.done;
            let get = self.get(&url, before);
            let mut response = get.map_err(|problem| part.broken_off(repository, &problem))?;
            match response.status() {
                StatusCode::PARTIAL_CONTENT if starts_at(&response, before) => {}
                // Not every server can start in the middle.
                StatusCode::OK => part.restart().map_err(&write_error)?,
                _ => {
                    let problem = self.refusal(repository, Some(entry), &response);
                    return Err(repository.fail(problem));
                }
            }
            // Whatever came is kept: only a connection that brings nothing counts.
            let problem = part.take(response.body_mut().as_reader()).map_err(&write_error)?;
            if part.done < entry.size {
                failed = if part.done > before { 0 } else { failed + 1 };
                if failed == TRIES {
                    return Err(part.broken_off(repository, &problem));
                }
                self.wait(failed);
            }
        }
        // From the start again: a part may be of an earlier process.
        let mut whole = File::open(&path).map_err(&write_error)?;
        if part.done != entry.size || !entry.matches(&mut whole).map_err(&write_error)? {
            fs::remove_file(&path).map_err(&write_error)?;
            return Err(repository.fail(format!(
                "{} came damaged: its size or hash is not the hub's; fetch it again",
                entry.path
            )));
        }
        part.file.sync_all().map_err(&write_error)?;
        fs::rename(&path, blob).map_err(Error::cache(blob))
    }

    /// Sends a request from a byte on, and again while it fails for reasons that pass.
    fn get(&self, url: &str, start: u64) -> std::result::Result<Response<Body>, String> {
        let mut failed = 0;
        loop {
            let mut request = self.agent.get(url);
            if let Some(authorization) = &self.authorization {
                request = request.header(header::AUTHORIZATION, authorization);
            }
            if start > 0 {
                request = request.header(header::RANGE, format!("bytes={start}-"));
            }
            match request.call() {
                Ok(response) if failed + 1 == TRIES || !passes(response.status()) => {
                    return Ok(response);
                }
                Err(error) if failed + 1 == TRIES => {
                    let endpoint = &self.endpoint;
                    return Err(format!(
                        "{endpoint} cannot be reached ({error}); check the network and \
                         HF_ENDPOINT, or set HF_HUB_OFFLINE=1 to use the cache alone"
                    ));
                }
                _ => self.wait(failed),
            }
            failed += 1;
        }
    }

    fn wait(&self, failed: u32) {
        thread::sleep(self.pause * 2u32.pow(failed));
    }

    /// What a status means and what to do.
    fn refusal(
        &self,
        repository: &Repository<'_>,
        entry: Option<&Entry>,
        response: &Response<Body>,
    ) -> String {
        let status = response.status();
        let code = response.headers().get("x-error-code").and_then(|code| code.to_str().ok());
        let what = entry.map_or("the repository", |entry| &entry.path);
        let page = format!("{}/{}", self.endpoint, repository.page());
        match (status.as_u16(), &self.authorization) {
            (401 | 403, None) => format!(
                "{what} is not open to all, or does not exist (HTTP {}); check the id, accept the \
                 licence at {page} where there is one, and set HF_TOKEN",
                status.as_u16()
            ),
            (401 | 403, Some(_)) => format!(
                "HF_TOKEN gives no access to {what} (HTTP {}); accept the licence at {page} where \
                 there is one, or set another token",
                status.as_u16()
            ),
            (404, _) if code == Some("RevisionNotFound") => {
                format!("no revision {} at {page}; check its name", repository.revision)
            }
            (404, _) => match entry {
                Some(entry) => format!("no file {} at {page}; check the revision", entry.path),
                None => {
                    format!("nothing at {page}; check the id, and set HF_TOKEN if it is private")
                }
            },
            (429, _) => "too many requests (HTTP 429); wait some minutes, or set HF_TOKEN".into(),
            (status, _) => {
                format!("HTTP {status} for {what} from {}; try again later", self.endpoint)
            }
        }
    }
}

/// Whether the same request may succeed later.
fn passes(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status.as_u16(), 408 | 429)
}

fn starts_at(response: &Response<Body>, start: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
    range.is_some_and(|range| range.starts_with(&format!("bytes {start}-")))
}

/// A file that is not whole yet.
struct Part<'a> {
    file: File,
    done: u64,
    entry: &'a Entry,
    report: &'a Report,
}

impl Part<'_> {
    fn restart(&mut self) -> io::Result<()> {
        self.done = 0;
        self.file.set_len(0)
    }

    /// Appends what comes, one byte too many at most, and says why it ended.
    fn take(&mut self, body: impl Read) -> io::Result<String> {
        let mut body = body.take(self.entry.size - self.done + 1);
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = match body.read(&mut buffer) {
                Ok(0) => return Ok("the connection ended".into()),
                Ok(read) => read,
                Err(error) => return Ok(error.to_string()),
            };
            self.file.write_all(&buffer[..read])?;
            self.done += read as u64;
            let Entry { path, size, .. } = self.entry;
            (self.report)(Progress { file: path, done: self.done, size: *size });
        }
    }

    fn broken_off(&self, repository: &Repository<'_>, problem: &str) -> Error {
        let Entry { path, size, .. } = self.entry;
        repository.fail(format!(
            "{path} broke off after {} of {size} bytes ({problem}); run it again to go on from there",
            self.done
        ))
    }
}
