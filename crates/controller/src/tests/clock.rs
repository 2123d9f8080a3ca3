//! A controller whose clock cannot be believed signs nothing, and is there all the same.

use super::{World, outage::Laptop};
use crate::{clock, control};
use std::time::Duration;
use wire::{ControlReply, Renew};

#[tokio::test]
async fn a_clock_that_jumps_stops_every_signature_and_set_right_it_signs_again() {
    let world = World::new().await;
    let f = world.furnish().await;
    let laptop = Laptop::enrol(&world, &f.user).await;
    let core = &world.controller.core;
    let beacon = || control::beacon(core, &core.snapshot(), None);
    assert!(beacon().is_ok());
    clock::later(Duration::from_secs(59));
    assert!(beacon().is_ok());
    clock::later(Duration::from_secs(61));
    assert!(beacon().is_err(), "agents become stale and say so");
    let reply = laptop.ask(&world, Renew { certificate: true }).await;
    assert!(matches!(reply, ControlReply::Refused(ref refused) if refused.retry_after_ms > 0), "{reply:?}");
    let refused = core.strikes.strike(&core.signer, laptop.id.parse().unwrap(), 1, |_| {}).unwrap_err();
    assert!(refused.to_string().contains("the clock jumped"), "{refused}");
    let status = world.get("/status").await.ok();
    assert!(status["not_signing"].as_str().unwrap().contains("the clock jumped by 61 s"), "{status}");
    clock::later(Duration::ZERO);
    // What was signed in the meantime, within the tolerance, is no reason to stop.
    assert!(beacon().is_ok());
    laptop.gets_a_grant(&world).await;
}

#[tokio::test]
async fn a_controller_that_starts_with_a_clock_behind_its_line_or_without_one_serves_reads_and_signs_nothing()
{
    let world = World::new().await;
    world.furnish().await;
    let directory = world.stop().await;
    let floor = directory.path().join("controller/floor");
    let ahead = clock::wall().plus(Duration::from_secs(24 * 3600)).as_millis().to_string();
    let mut directory = Some(directory);
    for (line, said) in [(ahead.as_bytes(), "is 86"), (b"", "cannot be read"), (b"soon", "cannot be read")] {
        std::fs::write(&floor, line).unwrap();
        let world = World::in_directory(directory.take().unwrap()).await;
        assert_eq!(world.get("/sites").await.ok()["items"].as_array().unwrap().len(), 1);
        let status = world.get("/status").await.ok();
        let why = status["not_signing"].as_str().unwrap();
        assert!(why.contains(said) && why.contains("date +%s000 > "), "{why}");
        directory = Some(world.stop().await);
    }
    // It goes on running, and ends when it is told to.
    let controller = crate::Controller::start(World::options(directory.as_ref().unwrap())).await.unwrap().0;
    controller.run(tokio::time::sleep(Duration::from_millis(300))).await.unwrap();
    // Downtime is no jump: the line of a year ago is no obstacle.
    let year = clock::wall().minus(Duration::from_secs(365 * 24 * 3600)).as_millis().to_string();
    std::fs::write(&floor, year).unwrap();
    let world = World::in_directory(directory.take().unwrap()).await;
    assert!(world.get("/status").await.ok()["not_signing"].is_null());
}
