//! `tidegate admin provider`: who else may say who somebody is (OpenID Connect).

use super::{Kind, get, object_text, refused, resolve, status, with_tag};
use crate::output::{CommandResult, Failure, Format, Outcome, cell, table};
use clap::{Args, Subcommand, ValueEnum};
use enrol::ApiClient;
use http::StatusCode;
use serde_json::{Map, Value, json};
use std::{fs, path::PathBuf};

/// Longest file that is read: a secret, or certificates.
const MAX_FILE: u64 = 64 * 1024;

/// What `admin provider` does.
#[derive(Debug, Subcommand)]
pub enum ProviderCommand {
    /// List sign-in providers.
    List,
    /// Show one, with the redirect URI to register there.
    Show {
        /// Its name, as in its address.
        name: String,
    },
    /// Make one, or change it: what is not given stays as it is.
    #[command(
        after_help = "Example:\n  tidegate admin provider set corp --title \"Corporate account\" \\\n    \
        --issuer https://id.example.com --client-id tidegate --client-secret-file secret.txt \\\n    \
        --domain example.com --group engineering=engineers"
    )]
    Set(Box<ProviderArgs>),
    /// Remove one. Who signs in by it alone signs in no more; sessions that there are go on.
    Remove {
        /// Its name.
        name: String,
    },
}

/// What happens with people whom nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Unknown {
    /// They are not let in.
    Refuse,
    /// They become users without any right.
    Make,
}

/// What a provider is to be.
#[derive(Debug, Args)]
pub struct ProviderArgs {
    /// Its name, as in its address: 1 to 32 of a-z, 0-9 and -.
    name: String,
    /// What the button says.
    #[arg(long)]
    title: Option<String>,
    /// The issuer, exactly as the provider writes it.
    #[arg(long, value_name = "URL")]
    issuer: Option<String>,
    /// Who this installation is there.
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,
    /// A file with the client secret; it is sealed here and never shown again.
    #[arg(long, value_name = "FILE", conflicts_with = "no_client_secret")]
    client_secret_file: Option<PathBuf>,
    /// There is no client secret.
    #[arg(long)]
    no_client_secret: bool,
    /// What is asked for besides `openid`; may be given more than once.
    #[arg(long, value_name = "SCOPE")]
    scope: Vec<String>,
    /// The claim that lists groups.
    #[arg(long, value_name = "CLAIM")]
    groups_claim: Option<String>,
    /// Whoever has this value in that claim is in this group here, as in `engineering=engineers`; may be given more than
    /// once, and replaces what was mapped.
    #[arg(long, value_name = "VALUE=GROUP")]
    group: Vec<String>,
    /// A domain whose addresses it may speak for; may be given more than once, and replaces what was named.
    #[arg(long, value_name = "DOMAIN")]
    domain: Vec<String>,
    /// What happens with people whom nobody knows.
    #[arg(long, value_name = "WHAT")]
    new_users: Option<Unknown>,
    /// A file with the CAs that its server may be signed by, besides those of the machine (PEM).
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

/// Runs a command about providers.
pub(super) async fn run(api: &ApiClient, command: &ProviderCommand, format: Format) -> CommandResult {
    match command {
        ProviderCommand::List => {
            let answer = get(api, "/api/v1/oidc-providers").await?;
            format.print(&answer, || list(&answer));
        }
        ProviderCommand::Show { name } => {
            let answer = get(api, &path(name)?).await?;
            format.print(&answer, || object_text(&answer));
        }
        ProviderCommand::Set(args) => {
            let answer = set(api, args).await?;
            format.print(&answer, || object_text(&answer));
        }
        ProviderCommand::Remove { name } => {
            let _: Value = api.delete(&path(name)?).await.map_err(refused)?;
            format.print(&json!({"removed": name}), || format!("Removed {name}."));
        }
    }
    Ok(Outcome::Done)
}

/// A name goes into an address: it is looked at before it is sent anywhere.
fn path(name: &str) -> Result<String, Failure> {
    let fits = (1..=32).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if fits {
        return Ok(format!("/api/v1/oidc-providers/{name}"));
    }
    Err(Failure::say(
        Outcome::Usage,
        format_args!("expected a name of 1 to 32 of a-z, 0-9 and -, got {name:?}"),
    ))
}

fn list(answer: &Value) -> String {
    let items = answer["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let rows = items.iter().map(|item| {
        let text = |member: &str| cell(&item[member]);
        vec![text("name"), text("title"), text("issuer"), text("domains"), text("new_users")]
    });
    let heads = ["name", "title", "issuer", "domains", "new users"];
    table(&heads, &rows.collect::<Vec<_>>())
}

/// Reads the whole of it, and sends the whole of it back as it is to be: while it is as it was read.
async fn set(api: &ApiClient, args: &ProviderArgs) -> Result<Value, Failure> {
    let path = path(&args.name)?;
    let (held, tag) = match api.get_tagged::<Value>(&path).await {
        Ok((held, tag)) => (Some(held), tag),
        Err(error) if status(&error) == Some(StatusCode::NOT_FOUND) => (None, None),
        Err(error) => return Err(refused(error)),
    };
    let body = wanted(api, args, held.as_ref()).await?;
    with_tag(api, tag.as_deref()).put(&path, &body).await.map_err(refused)
}

/// What was given over what there is.
async fn wanted(api: &ApiClient, args: &ProviderArgs, held: Option<&Value>) -> Result<Value, Failure> {
    let mut body = Map::new();
    // What the API takes of what it shows.
    let kept = [
        "title",
        "issuer",
        "client_id",
        "scopes",
        "groups_claim",
        "group_map",
        "domains",
        "new_users",
        "ca_pem",
    ];
    for (held, member) in held.into_iter().flat_map(|held| kept.map(|member| (held, member))) {
        body.insert(member.to_owned(), held[member].clone());
    }
    let texts = [
        ("title", &args.title),
        ("issuer", &args.issuer),
        ("client_id", &args.client_id),
        ("groups_claim", &args.groups_claim),
    ];
    for (member, text) in texts {
        if let Some(text) = text {
            body.insert(member.to_owned(), text.as_str().into());
        }
    }
    if let Some(unknown) = args.new_users {
        let word = if unknown == Unknown::Make { "make" } else { "refuse" };
        body.insert("new_users".to_owned(), word.into());
    }
    if !args.scope.is_empty() {
        body.insert("scopes".to_owned(), json!(args.scope));
    }
    if !args.domain.is_empty() {
        body.insert("domains".to_owned(), json!(args.domain));
    }
    if !args.group.is_empty() {
        let mut groups = Map::new();
        for pair in &args.group {
            let (value, group) = pair.split_once('=').ok_or_else(|| {
                Failure::say(Outcome::Usage, format_args!("expected VALUE=GROUP, got {pair:?}"))
            })?;
            groups.insert(value.to_owned(), resolve(api, Kind::Groups, group).await?.into());
        }
        body.insert("group_map".to_owned(), groups.into());
    }
    if let Some(file) = &args.client_secret_file {
        body.insert("client_secret".to_owned(), read(file)?.trim_end_matches(['\r', '\n']).into());
    }
    if args.no_client_secret {
        body.insert("client_secret".to_owned(), "".into());
    }
    if let Some(file) = &args.ca_file {
        body.insert("ca_pem".to_owned(), read(file)?.into());
    }
    for (member, flag) in [("title", "--title"), ("issuer", "--issuer"), ("client_id", "--client-id")] {
        if !body.contains_key(member) {
            return Err(Failure::say(Outcome::Usage, format_args!("a new provider needs {flag}")));
        }
    }
    Ok(body.into())
}

fn read(file: &PathBuf) -> Result<String, Failure> {
    let shown = file.display();
    let length = fs::metadata(file).map(|about| about.len());
    match length {
        Ok(length) if length > MAX_FILE => {
            let text = format_args!("{shown} has {length} bytes; expected at most {MAX_FILE}");
            return Err(Failure::say(Outcome::Usage, text));
        }
        _ => {}
    }
    fs::read_to_string(file)
        .map_err(|error| Failure::say(Outcome::Usage, format_args!("{shown} cannot be read: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::path::Path;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::UnixListener,
    };

    #[derive(Debug, Parser)]
    struct Typed {
        #[command(flatten)]
        args: ProviderArgs,
    }

    fn is_whole(request: &[u8]) -> bool {
        let text = String::from_utf8_lossy(request).to_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        body.len() >= length.map_or(0, |length| length.parse().expect("a length"))
    }

    /// Answers one request after the other, each on its own connection, and gives them as they came.
    async fn asked(socket: &Path, answers: &[(&str, &str)]) -> Vec<String> {
        let listener = UnixListener::bind(socket).expect("binds");
        let mut requests = Vec::new();
        for (head, body) in answers {
            let (mut stream, _) = listener.accept().await.expect("asked");
            let mut request = Vec::new();
            // To its end: a connection that is closed with something unread ends in an error at the other side.
            while !is_whole(&request) {
                let mut some = [0; 4096];
                let read = stream.read(&mut some).await.expect("reads");
                assert!(read > 0, "a whole request");
                request.extend_from_slice(&some[..read]);
            }
            let answer = format!(
                "HTTP/1.1 {head}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(answer.as_bytes()).await.expect("answers");
            requests.push(String::from_utf8_lossy(&request).to_lowercase());
        }
        requests
    }

    const HELD: &str = r#"{"id": "corp", "name": "corp", "title": "Corporate", "issuer": "https://id.example.com",
        "client_id": "tidegate", "scopes": ["openid"], "groups_claim": "groups", "group_map": {}, "domains": [],
        "new_users": "refuse", "ca_pem": ""}"#;

    async fn set_against(answers: &[(&str, &str)], more: &[&str]) -> (Result<Value, Failure>, Vec<String>) {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("admin.sock");
        let typed = Typed::try_parse_from([&["set", "corp"], more].concat()).expect("parses");
        let (requests, result) = tokio::join!(asked(&socket, answers), async {
            while !socket.exists() {
                tokio::task::yield_now().await;
            }
            set(&ApiClient::unix(socket.clone()), &typed.args).await
        });
        (result, requests)
    }

    #[tokio::test]
    async fn a_provider_is_changed_as_it_was_read_and_not_when_somebody_changed_it_meanwhile() {
        let read = ("200 OK\r\netag: \"Seen.1\"", HELD);
        let (result, requests) = set_against(&[read, ("200 OK", HELD)], &["--title", "Other"]).await;
        assert!(result.is_ok());
        assert!(requests[0].starts_with("get /api/v1/oidc-providers/corp "), "{}", requests[0]);
        assert!(requests[1].starts_with("put /api/v1/oidc-providers/corp "), "{}", requests[1]);
        assert!(requests[1].contains("\r\nif-match: \"seen.1\"\r\n"), "{}", requests[1]);

        let changed =
            ("412 Precondition Failed", r#"{"title": "The object was changed meanwhile", "status": 412}"#);
        let (result, _) = set_against(&[read, changed], &["--title", "Other"]).await;
        let said = result.expect_err("refused").text();
        assert!(
            said.contains("somebody changed it meanwhile") && said.contains("run the command again"),
            "{said}"
        );
    }

    #[tokio::test]
    async fn a_provider_that_is_not_there_yet_is_made_without_a_version() {
        let none = ("404 Not Found", r#"{"title": "Not found", "status": 404}"#);
        let new = ["--title", "Corporate", "--issuer", "https://id.example.com", "--client-id", "tidegate"];
        let (result, requests) = set_against(&[none, ("200 OK", HELD)], &new).await;
        assert!(result.is_ok());
        assert!(!requests[1].contains("if-match"), "{}", requests[1]);
    }
}
