//! `tidegate admin why`: whether somebody reaches something, check by check, as the console's page explains it.

use super::{get, in_query};
use crate::output::{CommandResult, Format, Outcome};
use enrol::ApiClient;
use serde_json::Value;

/// Asks for the connectors' own decision. The exit code is that of `tidegate why`: 0 they reach it, 4 they do not.
pub(super) async fn why(
    api: &ApiClient,
    who: &str,
    to: &str,
    on: Option<&str>,
    format: Format,
) -> CommandResult {
    let mut path = format!("/api/v1/access/explanation?who={}&to={}", in_query(who), in_query(to));
    if let Some(on) = on {
        path.push_str(&format!("&on={}", in_query(on)));
    }
    let answer = get(api, &path).await?;
    format.print(&answer, || text(&answer));
    Ok(if answer["allowed"] == true { Outcome::Done } else { Outcome::Denied })
}

fn text(answer: &Value) -> String {
    let word = |name: &str| answer[name].as_str().unwrap_or_default();
    let reaches = if answer["allowed"] == true { "reaches" } else { "does not reach" };
    let mut text = format!("{} {reaches} {} on {}.", word("name"), word("to"), word("on"));
    for check in answer["checks"].as_array().into_iter().flatten() {
        let of = |name: &str| check[name].as_str().unwrap_or_default();
        let mark = match of("outcome") {
            "held" => "ok ",
            "failed" => "NO ",
            _ => "?  ",
        };
        text.push_str(&format!("\n  {mark} {}: {}", of("by"), of("what")));
        if !of("detail").is_empty() {
            text.push_str(&format!(" ({})", of("detail")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_check_is_a_line_that_says_who_makes_it_and_how_it_came_out() {
        let answer = json!({
            "allowed": false, "name": "Ada", "to": "db", "on": "5432",
            "checks": [
                {"by": "controller", "what": "the device is active", "outcome": "held", "detail": ""},
                {"by": "every connector", "what": "a policy allows it", "outcome": "failed", "detail": "no policy names db"},
                {"by": "PoPs", "what": "a session", "outcome": "unknown", "detail": ""},
            ],
        });
        assert_eq!(
            text(&answer),
            "Ada does not reach db on 5432.\n  ok  controller: the device is active\n  NO  every connector: a policy allows it \
             (no policy names db)\n  ?   PoPs: a session"
        );
    }
}
