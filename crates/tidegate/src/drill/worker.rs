//! `tidegate load-worker`: one process full of clients, told what to do by lines of JSON.

use crate::{
    cli::LoadWorkerArgs,
    output::{CommandResult, Failure, Outcome, print_line},
    process,
};
use load::{Fleet, Order};
use serde_json::json;
use std::{
    io::BufRead as _,
    sync::mpsc::{self, TryRecvError},
    time::{Duration, Instant},
};

/// How often a worker says what it saw.
pub const REPORT_EVERY: Duration = Duration::from_millis(250);
const TURN: Duration = Duration::from_millis(20);

/// Runs until its input ends.
pub fn run(args: &LoadWorkerArgs) -> CommandResult {
    // Each client has a socket.
    process::raise_descriptor_limit();
    let target =
        args.target.parse().map_err(|error| Failure::new(Outcome::Usage, anyhow::Error::new(error)))?;
    let mut fleet = Fleet::open(&args.states, args.from..args.to, target, args.seed)?;
    let (sender, orders) = mpsc::channel::<Order>();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            match serde_json::from_str(&line) {
                Ok(order) => {
                    if sender.send(order).is_err() {
                        return;
                    }
                }
                Err(error) => tracing::error!(%error, "expected an order as one line of JSON"),
            }
        }
    });
    print_line(&json!({"event": "ready", "role": "load-worker"}).to_string());
    let mut report_at = process::now() + REPORT_EVERY;
    loop {
        loop {
            match orders.try_recv() {
                Ok(order) => fleet.order(order),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    fleet.order(Order::Stop);
                    return Ok(Outcome::Done);
                }
            }
        }
        let left: Duration = report_at.saturating_duration_since(process::now());
        fleet.turn(left.min(TURN))?;
        let now: Instant = process::now();
        if now >= report_at {
            report_at = (report_at + REPORT_EVERY).max(now);
            print_line(&serde_json::to_string(&fleet.report())?);
        }
    }
}
