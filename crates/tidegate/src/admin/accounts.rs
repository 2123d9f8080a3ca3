//! `tidegate admin invite`, `end-sessions`, `strike` and `restore`: how a person gets into their account, out of it
//! everywhere, and how access ends and comes back.

use super::{Kind, object_text, refused, resolve, resolve_among};
use crate::output::{CommandResult, Failure, Format, Outcome, note};
use enrol::ApiClient;
use serde_json::{Value, json};
use std::path::Path;
use trust::RevokedSubject;

/// Makes a link that works once. On standard output stands the link alone, for whatever sends it.
pub(super) async fn invite(api: &ApiClient, person: &str, format: Format) -> CommandResult {
    let user = resolve(api, Kind::Users, person).await?;
    let made: Value = api.post("/api/v1/invitations", &json!({"user": user})).await.map_err(refused)?;
    let expires = made["expires"].as_str().unwrap_or_default();
    note(&format!("The link is shown once. It works once, until {expires}; whoever uses it first gets in."));
    let answer = json!({"user": user, "link": made["link"], "expires": made["expires"]});
    format.print(&answer, || made["link"].as_str().unwrap_or_default().to_owned());
    Ok(Outcome::Done)
}

/// Ends people's sessions in every browser.
pub(super) async fn end_sessions(api: &ApiClient, people: &[String], format: Format) -> CommandResult {
    let mut users = Vec::with_capacity(people.len());
    for person in people {
        users.push(resolve(api, Kind::Users, person).await?);
    }
    let bodies = users.iter().map(|user| json!({"user": user}));
    let _: Value = match &users[..] {
        [user] => api.post("/api/v1/ended-web-sessions", &json!({"user": user})).await,
        _ => api.post("/api/v1/bulk", &every("/ended-web-sessions", bodies)).await,
    }
    .map_err(refused)?;
    let answer = match &users[..] {
        [user] => json!({"user": user, "ended": true}),
        _ => json!({"users": users, "ended": true}),
    };
    format.print(&answer, || {
        let (who, are, whose) = (people.join(", "), if users.len() == 1 { "is" } else { "are" }, users.join(" "));
        format!(
            "{who} {are} signed out everywhere. What their devices reach goes on; end that with: tidegate admin strike {whose}"
        )
    });
    Ok(Outcome::Done)
}

/// Ends access: of one, or of many in one request.
pub(super) async fn strike(api: &ApiClient, subjects: &[String], format: Format) -> CommandResult {
    let mut ids = Vec::with_capacity(subjects.len());
    for named in subjects {
        ids.push(subject(api, named).await?);
    }
    if let [subject] = &ids[..] {
        let answer: Value =
            api.post("/api/v1/strikes", &json!({"subject": subject})).await.map_err(refused)?;
        format.print(&answer, || object_text(&answer));
        return Ok(Outcome::Done);
    }
    let bodies = ids.iter().map(|subject| json!({"subject": subject}));
    let answer: Value = api.post("/api/v1/bulk", &every("/strikes", bodies)).await.map_err(refused)?;
    format.print(&answer, || {
        let results = answer["results"].as_array().into_iter().flatten();
        let said = results.map(|result| object_text(&result["body"]));
        said.collect::<Vec<_>>().join("\n\n")
    });
    Ok(Outcome::Done)
}

/// Whose access it is. An id is not looked up: an access that is ended in a hurry waits for no list.
pub(super) async fn subject(api: &ApiClient, named: &str) -> Result<String, Failure> {
    if named.parse::<RevokedSubject>().is_ok() {
        return Ok(named.to_owned());
    }
    resolve_among(api, &[Kind::Devices, Kind::Users, Kind::ServiceAccounts], named).await
}

/// Whoever has lost a database looks for `restore` first. Said before any controller is asked: there may be none.
///
/// # Errors
/// It is the path of a file, and no id.
pub(super) fn is_no_file(named: &str) -> Result<(), Failure> {
    if named.parse::<RevokedSubject>().is_ok() || !Path::new(named).is_file() {
        return Ok(());
    }
    Err(Failure::say(
        Outcome::Usage,
        format_args!(
            "expected the id or name of a device, user or service account whose access comes back, got the file {named}; \
             a database is restored by: tidegate admin restore-backup {named}"
        ),
    ))
}

/// The same request with each of these bodies.
fn every(path: &str, bodies: impl Iterator<Item = Value>) -> Value {
    let operations = bodies.map(|body| json!({"method": "POST", "path": path, "body": body}));
    json!({"operations": operations.collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_to_be_restored_is_told_the_command_that_does_it() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let path = file.path().to_str().expect("text");
        let error = is_no_file(path).expect_err("refused");
        assert_eq!(error.outcome, Outcome::Usage);
        assert!(error.text().contains(&format!("tidegate admin restore-backup {path}")), "{}", error.text());
        for named in ["ada@example.com", "/nowhere/backup"] {
            assert!(is_no_file(named).is_ok(), "{named}");
        }
    }
}
