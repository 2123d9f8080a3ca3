//! The audit log: what the controller remembers of it outside the database, and lines that go on with what comes.

use super::World;
use serde_json::json;

#[tokio::test]
async fn what_the_controller_remembers_of_the_audit_log_is_signed_and_an_edited_file_is_said() {
    let world = World::new().await;
    world.furnish().await;
    let whole = world.get("/audit/verification").await.ok();
    assert_eq!((&whole["intact"], &whole["chains"][0]["findings"]), (&json!(true), &json!([])), "{whole}");
    let world = world.restarted().await;
    assert_eq!(world.get("/audit/verification").await.ok(), whole, "a restart is no tampering");

    let directory = world.stop().await;
    let file = directory.path().join("controller/audit.heads");
    let signed = std::fs::read_to_string(&file).unwrap();
    let mut edited = signed.clone().into_bytes();
    edited[40] ^= 1;
    std::fs::write(&file, edited).unwrap();
    let world = World::in_directory(directory).await;
    let tampered = world.get("/audit/verification").await.ok();
    assert_eq!(tampered["intact"], false, "{tampered}");
    assert!(tampered.to_string().contains("was tampered with"), "{tampered}");
    // What is changed afterwards is signed again, and does not make it forgotten.
    world.post("/groups", json!({"name": "later"})).await.made();
    let later = world.restarted().await.get("/audit/verification").await.ok();
    assert_eq!(later["intact"], false, "{later}");
    assert_eq!(later["chains"][0]["remembered"], later["chains"][0]["last"]);
}
