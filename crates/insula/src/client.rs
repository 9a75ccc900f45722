//! The command line's way to the admin API: where the server is, who calls,
//! and problems as errors.

use std::path::{Path, PathBuf};
use std::time::Duration;

use insula_api::{Operation, Page, ProblemBody};
use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::args::Connection;

/// How long one stream of events may be; then it is begun again where it was.
const EVENTS_AT_MOST: Duration = Duration::from_secs(24 * 3600);

/// The most items of a page.
const PAGE: usize = 1_000;

/// What `.insula/client.toml` holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientFile {
    /// The server.
    pub url: String,
    /// An operator's token.
    pub token: String,
}

/// Why a command failed.
#[derive(Debug, Error)]
pub enum Failure {
    /// The server refused.
    #[error("{}: {}", .0.code, .0.detail)]
    Problem(Box<ProblemBody>),
    /// Anything else: no server, a file, an answer that is none.
    #[error("{code}: {detail}")]
    Local {
        /// A code like the server's.
        code: &'static str,
        /// What is wrong, and what to do.
        detail: String,
    },
    /// What was asked for was answered, and the answer is a no: printed already.
    #[error("")]
    Told,
    /// A tenant's isolation was breached: printed already.
    #[error("")]
    Breached,
    /// It was not, but not all of it was tried: printed already.
    #[error("")]
    Untried,
    /// It was interrupted, and what goes on without it is printed already.
    #[error("")]
    Interrupted,
}

impl Failure {
    /// A failure on this side.
    pub fn local(code: &'static str, detail: impl Into<String>) -> Self {
        Self::Local { code, detail: detail.into() }
    }
}

/// A server and a token.
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: String,
}

impl Client {
    /// Finds the server and the token: flags, environment, then the file.
    pub fn find(connection: &Connection) -> Result<Self, Failure> {
        let file = if connection.url.is_some() && connection.token.is_some() { None } else { find_file()? };
        let (file_url, file_token) = file.map_or((None, None), |file| (Some(file.url), Some(file.token)));
        // A token is never sent to a server that it was not made for.
        let token = match (&connection.token, &connection.url) {
            (Some(token), _) => Some(token.clone()),
            (None, Some(url)) if file_url.as_deref() != Some(url.as_str()) => None,
            (None, _) => file_token,
        };
        let base = connection.url.clone().or(file_url).ok_or_else(|| {
            Failure::local(
                "no_server",
                "No server is known. Start one with `insula up` and work in the same folder, or give --url and --token.",
            )
        })?;
        let token = token.ok_or_else(|| {
            Failure::local("no_token", "No operator's token is known: give --token, or set INSULA_TOKEN.")
        })?;
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(120))
            .connect_timeout(Duration::from_secs(5))
            .user_agent(concat!("insula/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Failure::local("client", error.to_string()))?;
        Ok(Self { http, base: base.trim_end_matches('/').to_owned(), token })
    }

    /// Reads.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.call(Method::GET, path, None::<&()>, &[]).await
    }

    /// Sends a body and reads the answer.
    pub async fn send<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &B,
    ) -> Result<T, Failure> {
        self.call(method, path, Some(body), &[]).await
    }

    /// Sends without a body and reads the answer.
    pub async fn order<T: DeserializeOwned>(&self, method: Method, path: &str) -> Result<T, Failure> {
        self.call(method, path, None::<&()>, &[]).await
    }

    /// All items of a list, page by page.
    pub async fn list<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, Failure> {
        self.list_from(path, None, usize::MAX).await
    }

    /// The items of a list behind a cursor, page by page, at most so many.
    pub async fn list_from<T: DeserializeOwned>(
        &self,
        path: &str,
        mut cursor: Option<String>,
        most: usize,
    ) -> Result<Vec<T>, Failure> {
        let mut items = Vec::new();
        loop {
            let joint = if path.contains('?') { '&' } else { '?' };
            // A cursor may be a name of something, with whatever names have in them.
            let next = cursor.map_or(String::new(), |cursor: String| format!("&cursor={}", segment(&cursor)));
            let limit = PAGE.min(most - items.len());
            let page: Page<T> = self.get(&format!("{path}{joint}limit={limit}{next}")).await?;
            items.extend(page.items);
            cursor = page.next_cursor;
            if cursor.is_none() || items.len() >= most {
                items.truncate(most);
                return Ok(items);
            }
        }
    }

    /// An operation, when it has gone on from `progress` or the wait is over.
    pub async fn operation(
        &self,
        id: &str,
        progress: Option<u64>,
    ) -> Result<(Operation, Option<u64>), Failure> {
        let since = progress.map_or(String::new(), |progress| format!("&progress={progress}"));
        let response = self
            .http
            .get(format!("{}/v1/operations/{id}?wait=20{since}", self.base))
            .bearer_auth(&self.token)
            .send()
            .await
            .map_err(|error| self.unreachable(&error))?;
        let progress = response
            .headers()
            .get("insula-progress")
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.parse().ok());
        Ok((read(response).await?, progress))
    }

    /// One call, with further headers.
    pub async fn call<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
        headers: &[(&'static str, &str)],
    ) -> Result<T, Failure> {
        let mut request = self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(body);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        read(response).await
    }

    /// Whether the credential is a tenant's own key.
    pub fn is_tenant(&self) -> bool {
        self.token.starts_with("isk_")
    }

    /// Sends bytes of a media type, with further headers, and reads the answer.
    pub async fn send_bytes<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, Vec<u8>)>,
        headers: &[(&'static str, String)],
    ) -> Result<T, Failure> {
        let mut request = self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token);
        if let Some((media_type, bytes)) = body {
            request = request.header("content-type", media_type).body(bytes);
        }
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        read(response).await
    }

    /// Begins an answer that is read as it comes.
    pub async fn content(&self, path: &str) -> Result<reqwest::Response, Failure> {
        let request = self.http.get(format!("{}{path}", self.base)).bearer_auth(&self.token);
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() { Ok(response) } else { Err(refusal(response).await) }
    }

    /// Begins a stream of server-sent events behind the last one that is known.
    pub async fn events(&self, path: &str, last_id: Option<&str>) -> Result<reqwest::Response, Failure> {
        let mut request = self
            .http
            .get(format!("{}{path}", self.base))
            .bearer_auth(&self.token)
            .header("accept", "text/event-stream")
            .timeout(EVENTS_AT_MOST);
        if let Some(id) = last_id {
            request = request.header("last-event-id", id);
        }
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() { Ok(response) } else { Err(refusal(response).await) }
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        if error.is_builder() {
            return Failure::local(
                "invalid_request",
                format!("This cannot be sent to {}: {error}", self.base),
            );
        }
        let why = if error.is_timeout() { "does not answer in time" } else { "cannot be reached" };
        Failure::local(
            "unreachable",
            format!("The server at {} {why}. Is it running? `insula up` starts one.", self.base),
        )
    }
}

async fn read<T: DeserializeOwned>(response: reqwest::Response) -> Result<T, Failure> {
    let status = response.status();
    let bytes = response
        .bytes()
        .await
        .map_err(|error| Failure::local("unreachable", format!("The answer broke off: {error}.")))?;
    if status.is_success() {
        let bytes: &[u8] = if status == StatusCode::NO_CONTENT { b"null" } else { &bytes };
        return serde_json::from_slice(bytes).map_err(|error| {
            Failure::local("unexpected_answer", format!("The answer is not as it should be: {error}."))
        });
    }
    Err(problem(status, &bytes))
}

async fn refusal(response: reqwest::Response) -> Failure {
    let status = response.status();
    problem(status, &response.bytes().await.unwrap_or_default())
}

fn problem(status: StatusCode, bytes: &[u8]) -> Failure {
    match serde_json::from_slice::<ProblemBody>(bytes) {
        Ok(problem) => Failure::Problem(Box::new(problem)),
        Err(_) => Failure::local("unexpected_answer", format!("The server answered {status}. Is it Insula?")),
    }
}

/// `.insula/client.toml` of this folder or of one above.
fn find_file() -> Result<Option<ClientFile>, Failure> {
    let Ok(folder) = std::env::current_dir() else { return Ok(None) };
    let found: Option<PathBuf> =
        folder.ancestors().map(|folder| folder.join(".insula/client.toml")).find(|path| path.is_file());
    found.map(|path| read_file(&path)).transpose()
}

fn read_file(path: &Path) -> Result<ClientFile, Failure> {
    let wrong = |why: String| Failure::local("client_file", format!("{}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    toml::from_str(&text).map_err(|error| wrong(error.message().to_owned()))
}

/// A part of a path, so that whatever was typed stays one part.
pub fn segment(text: &str) -> String {
    insula_control::percent(text)
}

/// A query of the values that are there.
pub fn query(pairs: &[(&str, &Option<String>)]) -> String {
    let given: Vec<_> = pairs
        .iter()
        .filter_map(|(name, value)| value.as_ref().map(|value| format!("{name}={}", segment(value))))
        .collect();
    if given.is_empty() { String::new() } else { format!("?{}", given.join("&")) }
}
