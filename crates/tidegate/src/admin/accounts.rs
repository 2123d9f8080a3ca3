//! `tidegate admin invite` and `end-sessions`: how a person gets into their account, and out of it everywhere.

use super::{Kind, refused, resolve};
use crate::output::{CommandResult, Format, Outcome, note};
use enrol::ApiClient;
use serde_json::{Value, json};

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

/// Ends the person's sessions in every browser.
pub(super) async fn end_sessions(api: &ApiClient, person: &str, format: Format) -> CommandResult {
    let user = resolve(api, Kind::Users, person).await?;
    let _: Value = api.post("/api/v1/ended-web-sessions", &json!({"user": user})).await.map_err(refused)?;
    format.print(&json!({"user": user, "ended": true}), || {
        format!("{person} is signed out everywhere. What their devices reach goes on; end that with: tidegate admin strike {user}")
    });
    Ok(Outcome::Done)
}
