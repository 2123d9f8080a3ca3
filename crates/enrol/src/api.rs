//! JSON over the controller's API, with its problems as sentences.

use crate::http::{Answer, HttpError, HttpsClient, Lines, ServerUrl};
use crate::tls::ServerTrust;
use bytes::Bytes;
use http::{HeaderName, Method, StatusCode, header};
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt, path::PathBuf};

/// What the controller says when it refuses: RFC 9457, with our members.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
pub struct Problem {
    /// A URI reference that names the kind of problem.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The problem in a few words.
    #[serde(default)]
    pub title: String,
    /// The HTTP status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The problem in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Which member of the request is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Which rule it breaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// What was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<serde_json::Value>,
    /// When to come back, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
}

impl Problem {
    /// The last segment of [`Problem::kind`]: a stable word for programs.
    #[must_use]
    pub fn word(&self) -> &str {
        self.kind.as_deref().and_then(|kind| kind.rsplit(['/', ':', '#']).next()).unwrap_or_default()
    }
}

/// A text of a server for a terminal, which obeys control characters: whoever answers may be anybody.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '·' } else { c }).collect()
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = String::new();
        self.say(&mut said)?;
        f.write_str(&printable(&said))
    }
}

impl Problem {
    fn say(&self, f: &mut impl fmt::Write) -> fmt::Result {
        f.write_str(if self.title.is_empty() { "refused" } else { &self.title })?;
        if let Some(detail) = self.detail.as_deref().filter(|detail| *detail != self.title) {
            write!(f, ": {detail}")?;
        }
        if let Some(field) = &self.field {
            write!(f, " (field {field}")?;
            if let Some(rule) = &self.rule {
                write!(f, ", rule: {rule}")?;
            }
            if let Some(value) = &self.value {
                write!(f, ", got {}", value.to_string().chars().take(120).collect::<String>())?;
            }
            f.write_str(")")?;
        }
        if let Some(seconds) = self.retry_after {
            write!(f, "; try again in {seconds} s")?;
        }
        Ok(())
    }
}

/// A call to the API failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// No answer.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The controller refused.
    #[error("{problem} [{status}]")]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// What it said.
        problem: Box<Problem>,
    },
    /// The answer is not what this version expects.
    #[error("{address} answered {status} with something this version does not read: {detail}")]
    Unreadable {
        /// Who was asked.
        address: String,
        /// The HTTP status.
        status: StatusCode,
        /// What is wrong with it.
        detail: String,
    },
}

impl ApiError {
    /// The problem, when the controller refused.
    #[must_use]
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Refused { problem, .. } => Some(problem),
            _ => None,
        }
    }
}

/// A bearer token (RFC 6750). Never printed.
#[derive(Clone)]
pub struct BearerToken(String);

impl BearerToken {
    /// Wraps the text that `admin create token` printed once.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BearerToken(…)")
    }
}

/// The controller's API, over TLS with a token or over its Unix socket without.
#[derive(Debug, Clone)]
pub struct ApiClient {
    http: HttpsClient,
    token: Option<BearerToken>,
    organization: Option<String>,
    idempotency_key: Option<String>,
    if_match: Option<String>,
}

impl ApiClient {
    /// The API over the network.
    #[must_use]
    pub fn https(url: ServerUrl, trust: ServerTrust, token: Option<BearerToken>) -> Self {
        Self {
            http: HttpsClient::strict(url, trust),
            token,
            organization: None,
            idempotency_key: None,
            if_match: None,
        }
    }

    /// The API over the controller's own socket (`admin.sock`): the caller's uid is the credential.
    #[must_use]
    pub const fn unix(socket: PathBuf) -> Self {
        Self {
            http: HttpsClient::unix(socket),
            token: None,
            organization: None,
            idempotency_key: None,
            if_match: None,
        }
    }

    /// Says with each request that it is the one of this key: whatever became of it before, it is done once.
    #[must_use]
    pub fn once(mut self, key: &str) -> Self {
        self.idempotency_key = Some(key.to_owned());
        self
    }

    /// Changes an object only while it has this tag (`If-Match`, RFC 9110 section 13.1.1): of what somebody changed
    /// meanwhile nothing is overwritten, and the answer is 412.
    #[must_use]
    pub fn if_match(mut self, tag: &str) -> Self {
        self.if_match = Some(tag.to_owned());
        self
    }

    /// Asks about another organization than the caller's own, by its id.
    #[must_use]
    pub fn in_organization(mut self, id: &str) -> Self {
        self.organization = Some(id.to_owned());
        self
    }

    pub(crate) const fn over(http: HttpsClient) -> Self {
        Self { http, token: None, organization: None, idempotency_key: None, if_match: None }
    }

    /// Whom this asks, for people.
    #[must_use]
    pub fn address(&self) -> String {
        self.http.address()
    }

    /// Reads.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        self.typed(Method::GET, path, Bytes::new()).await
    }

    /// Reads an object with its tag, for [`Self::if_match`]; none where the server gives none.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn get_tagged<T: DeserializeOwned>(&self, path: &str) -> Result<(T, Option<String>), ApiError> {
        let answer = self.call(Method::GET, path, Bytes::new()).await?;
        Ok((self.decode(&answer)?, answer.etag))
    }

    /// Creates.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ApiError> {
        self.typed(Method::POST, path, json(body)?).await
    }

    /// Replaces.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ApiError> {
        self.typed(Method::PUT, path, json(body)?).await
    }

    /// Changes the values given.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn patch<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ApiError> {
        self.typed(Method::PATCH, path, json(body)?).await
    }

    /// Removes. An empty answer reads as JSON `null`.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        self.typed(Method::DELETE, path, Bytes::new()).await
    }

    /// Any call; gives the raw answer when it is a success.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn call(&self, method: Method, path: &str, body: Bytes) -> Result<Answer, ApiError> {
        let mut headers = self.headers("application/json, application/problem+json");
        if !body.is_empty() {
            headers.push((header::CONTENT_TYPE, "application/json".to_owned()));
        }
        let answer = self.http.request(method, path, &headers, body).await?;
        if answer.status.is_success() {
            return Ok(answer);
        }
        Err(ApiError::Refused { status: answer.status, problem: Box::new(problem_of(&answer)) })
    }

    /// Reads lines as they come, for as long as they come.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn lines(&self, path: &str) -> Result<Lines, ApiError> {
        let headers = self.headers("application/x-ndjson, application/problem+json");
        match self.http.open(path, &headers).await? {
            Ok(lines) => Ok(lines),
            Err(answer) => {
                Err(ApiError::Refused { status: answer.status, problem: Box::new(problem_of(&answer)) })
            }
        }
    }

    fn headers(&self, accept: &str) -> Vec<(HeaderName, String)> {
        let mut headers: Vec<(HeaderName, String)> = vec![(header::ACCEPT, accept.to_owned())];
        if let Some(BearerToken(token)) = &self.token {
            headers.push((header::AUTHORIZATION, format!("Bearer {token}")));
        }
        if let Some(key) = &self.idempotency_key {
            headers.push((HeaderName::from_static("idempotency-key"), key.clone()));
        }
        if let Some(tag) = &self.if_match {
            headers.push((header::IF_MATCH, tag.clone()));
        }
        if let Some(id) = &self.organization {
            headers.push((HeaderName::from_static("tidegate-organization"), id.clone()));
        }
        headers
    }

    async fn typed<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ApiError> {
        let answer = self.call(method, path, body).await?;
        self.decode(&answer)
    }

    pub(crate) fn decode<T: DeserializeOwned>(&self, answer: &Answer) -> Result<T, ApiError> {
        let body: &[u8] = if answer.body.is_empty() { b"null" } else { &answer.body };
        serde_json::from_slice(body).map_err(|error| ApiError::Unreadable {
            address: self.address(),
            status: answer.status,
            detail: printable(&error.to_string()),
        })
    }
}

fn json(body: &impl Serialize) -> Result<Bytes, ApiError> {
    let text = serde_json::to_vec(body).map_err(|error| HttpError::Request(error.to_string()))?;
    Ok(text.into())
}

/// A refusal's problem; a server that is not ours (a proxy in between) gives text or nothing.
fn problem_of(answer: &Answer) -> Problem {
    let mut problem = serde_json::from_slice::<Problem>(&answer.body).unwrap_or_else(|_| Problem {
        title: answer.status.canonical_reason().unwrap_or("refused").to_owned(),
        detail: std::str::from_utf8(&answer.body)
            .ok()
            .map(|text| text.trim().chars().filter(|c| !c.is_control()).take(200).collect::<String>())
            .filter(|text| !text.is_empty() && !text.starts_with('<')),
        ..Problem::default()
    });
    problem.retry_after = problem.retry_after.or(answer.retry_after);
    problem
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer {
            status: StatusCode::from_u16(status).expect("a status"),
            content_type: None,
            date: None,
            retry_after: None,
            etag: None,
            body: Bytes::copy_from_slice(body.as_bytes()),
        }
    }

    #[test]
    fn a_problem_names_field_rule_and_value() {
        let body = r#"{"type":"/problems/invalid-field","title":"Invalid field","detail":"a port is missing",
            "field":"ports[0]","rule":"1-65535","value":"0","status":422,"unknown":1}"#;
        let problem = problem_of(&answer(422, body));
        assert_eq!(problem.word(), "invalid-field");
        assert_eq!(
            problem.to_string(),
            "Invalid field: a port is missing (field ports[0], rule: 1-65535, got \"0\")"
        );
    }

    #[test]
    fn what_a_server_says_does_nothing_to_the_terminal_it_is_printed_on() {
        let hostile =
            r#"{"title":"\u001b]0;owned\u0007","detail":"\r\u009b2Kyes\n","field":"\b","value":"\u009b"}"#;
        let said = problem_of(&answer(400, hostile)).to_string();
        assert_eq!(said, "·]0;owned·: ··2Kyes· (field ·, got \"·\")");
        let client = ApiClient::unix("/nowhere".into());
        let read =
            client.decode::<policy::enrolment::DeviceCodeResult>(&answer(200, r#"{"status":"\u001b[2J"}"#));
        assert!(!read.expect_err("no such status").to_string().chars().any(char::is_control));
    }

    #[test]
    fn a_refusal_without_a_problem_document_still_reads() {
        let html = problem_of(&answer(502, "<html>no</html>"));
        assert_eq!(html.to_string(), "Bad Gateway");
        let text = problem_of(&Answer { retry_after: Some(3), ..answer(503, "busy\u{7}\n") });
        assert_eq!(text.to_string(), "Service Unavailable: busy; try again in 3 s");
    }

    #[test]
    fn a_token_is_not_printed() {
        assert!(!format!("{:?}", BearerToken::new("secret")).contains("secret"));
    }
}
