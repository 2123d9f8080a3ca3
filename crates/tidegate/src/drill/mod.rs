//! `tidegate drill`: real incidents, replayed on this machine with real processes, and a verdict.

mod api;
mod bad_rollout;
mod black_hole;
mod brownout;
mod clients;
#[cfg(feature = "test-clock")]
mod clock_jump;
#[cfg(feature = "test-clock")]
mod clocks;
mod cold_cache;
mod cores;
mod database;
mod hung_third_party;
mod lock_blip;
mod poison;
mod pool_exhaustion;
mod primary_loss;
mod proxy;
mod report;
mod rotation;
mod run;
mod second_site;
mod server;
mod storm;
mod surge;
mod verdict;
pub mod worker;
mod zone;

use crate::{
    cli::{DrillArgs, DrillName},
    output::{CommandResult, Failure, Format, Outcome, note, print_line},
    process,
};
use run::{Databases, Needs, Run};

#[cfg(not(feature = "test-clock"))]
const NO_CLOCKS: &str = "this build's clocks cannot be set, and no shipped one's can. From the sources: cargo build --release \
                         --package tidegate --features test-clock --target-dir target/test-clock, then \
                         target/test-clock/release/tidegate drill clock-jump";

impl DrillName {
    const fn needs(self) -> Needs {
        match self {
            Self::DatabaseBrownout => brownout::NEEDS,
            Self::HolepunchSurge => surge::NEEDS,
            Self::ReconnectStorm => storm::NEEDS,
            Self::ColdCache => cold_cache::NEEDS,
            Self::BlackHoleRelay => black_hole::NEEDS,
            Self::PoisonSnapshot => poison::NEEDS,
            Self::KeyRotation => rotation::NEEDS,
            Self::PrimaryLoss => primary_loss::NEEDS,
            Self::LockBlip => lock_blip::NEEDS,
            Self::BadRollout => bad_rollout::NEEDS,
            Self::PoolExhaustion => pool_exhaustion::NEEDS,
            Self::HungThirdParty => hung_third_party::NEEDS,
            Self::ClockJump => Needs { pops: 2, writes: api::Writes::No, databases: Databases::File },
        }
    }

    /// As it is written.
    pub const fn word(self) -> &'static str {
        match self {
            Self::DatabaseBrownout => "database-brownout",
            Self::HolepunchSurge => "holepunch-surge",
            Self::ReconnectStorm => "reconnect-storm",
            Self::ColdCache => "cold-cache",
            Self::BlackHoleRelay => "black-hole-relay",
            Self::PoisonSnapshot => "poison-snapshot",
            Self::KeyRotation => "key-rotation",
            Self::PrimaryLoss => "primary-loss",
            Self::LockBlip => "lock-blip",
            Self::BadRollout => "bad-rollout",
            Self::PoolExhaustion => "pool-exhaustion",
            Self::HungThirdParty => "hung-third-party",
            Self::ClockJump => "clock-jump",
        }
    }

    /// Where it comes from.
    pub const fn story(self) -> &'static str {
        match self {
            Self::DatabaseBrownout => {
                "A ZTNA cloud, 19 January 2022, 70 minutes: its database became slow, its API answered 500 and 502, and \
                 clients and connectors that lost their session could not authenticate again."
            }
            Self::HolepunchSurge => {
                "A tunnelled-access cloud, 14 May 2026, 3 hours: clients asked for hole punching far more often than \
                 traffic called for, the regional database drowned, and no client could register."
            }
            Self::ReconnectStorm => {
                "A mesh VPN, 20 April 2026, and a ZTNA cloud, March 2025: everybody reconnects at once after an \
                 outage, and the reconnecting is the next outage."
            }
            Self::ColdCache => {
                "A ZTNA cloud, a September release: all controllers started at once, with nothing in memory, against \
                 a database that could not serve them all."
            }
            Self::BlackHoleRelay => {
                "A ZTNA cloud, 2022: a relay went on accepting TCP and dropped every datagram; its clients stayed \
                 with it."
            }
            Self::PoisonSnapshot => {
                "A CDN, 18 November 2025: a query gave its rows twice, the file made of them was larger than what read \
                 it could take, and every machine that loaded it crashed, again and again."
            }
            Self::KeyRotation => {
                "An identity cloud, 15 March 2021, 14 hours: an automatic rotation removed a signing key that was still \
                 needed, and nothing signed with it was believed any more."
            }
            Self::PrimaryLoss => {
                "Every night of somebody who looks after PostgreSQL: the primary dies under writes, a standby takes over, \
                 and the old primary comes back."
            }
            Self::BadRollout => {
                "A ZTNA cloud, 28 May 2025: a new version misbehaved, and going back to the old one took a control plane \
                 that was down."
            }
            Self::LockBlip => {
                "A mesh VPN, 24 May 2024: a lock of the database, held for a moment while the network's map was made, and \
                 nodes were given a map with nobody in it."
            }
            Self::PoolExhaustion => {
                "A ZTNA cloud, 11 December 2023: every connection that its database gave was taken by something else, and \
                 what needed a new one had none."
            }
            Self::HungThirdParty => {
                "A ZTNA cloud, 19 August 2023: a third party that took connections and never answered held up whoever \
                 asked it, and then everybody."
            }
            Self::ClockJump => {
                "Many: a time server, a hypervisor or a dead battery says another day or decade; certificates, leases \
                 and tickets of a whole fleet end at once, or never."
            }
        }
    }
}

/// Runs one drill; exit code 0 when every pass level is reached.
pub async fn run(args: &DrillArgs, format: Format) -> CommandResult {
    #[cfg(not(feature = "test-clock"))]
    if args.drill == DrillName::ClockJump {
        return Err(Failure::say(Outcome::Usage, NO_CLOCKS));
    }
    if args.drill.needs().databases.choose(args.database).is_none() {
        return Err(Failure::say(
            Outcome::Usage,
            format_args!(
                "--database: {} does not run on that engine: leave the option away (database-brownout, cold-cache and hung-third-party run on both)",
                args.drill.word()
            ),
        ));
    }
    let dir = tempfile::Builder::new().prefix("tidegate-drill-").tempdir()?;
    #[cfg(feature = "test-clock")]
    let clocks = clocks::Clocks::give(dir.path())?;
    let start = process::now();
    let begun = tokio::select! {
        begun = Run::begin(args, args.drill.needs(), dir.path(), format) => begun,
        // Whatever was started goes with its handle.
        signal = process::shutdown() => Err(anyhow::anyhow!("ended by {signal}")),
    };
    let mut run = match begun {
        Ok(run) => run,
        Err(error) => return Err(crate::demo::with_logs(error.context("the stage was not set"), dir.path())),
    };
    let drilled = tokio::select! {
        drilled = async {
            match args.drill {
                DrillName::DatabaseBrownout => brownout::drill(&mut run).await,
                DrillName::HolepunchSurge => surge::drill(&mut run).await,
                DrillName::ReconnectStorm => storm::drill(&mut run).await,
                DrillName::ColdCache => cold_cache::drill(&mut run).await,
                DrillName::BlackHoleRelay => black_hole::drill(&mut run).await,
                DrillName::PoisonSnapshot => poison::drill(&mut run).await,
                DrillName::PrimaryLoss => primary_loss::drill(&mut run).await,
                DrillName::BadRollout => bad_rollout::drill(&mut run).await,
                DrillName::LockBlip => lock_blip::drill(&mut run).await,
                DrillName::PoolExhaustion => pool_exhaustion::drill(&mut run).await,
                DrillName::HungThirdParty => hung_third_party::drill(&mut run).await,
                #[cfg(feature = "test-clock")]
                DrillName::ClockJump => clock_jump::drill(&mut run, &clocks).await,
                DrillName::KeyRotation => {
                    let rotated = rotation::drill(&mut run).await;
                    #[cfg(feature = "test-clock")]
                    let rotated = match rotated {
                        Ok(()) => rotation::months_pass(&mut run, &clocks).await,
                        failed => failed,
                    };
                    rotated
                }
                #[cfg(not(feature = "test-clock"))]
                DrillName::ClockJump => Err(anyhow::anyhow!(NO_CLOCKS)),
            }
        } => drilled,
        signal = process::shutdown() => Err(anyhow::anyhow!("ended by {signal}")),
    };
    let outcome = run.end().await;
    if let Err(error) = drilled {
        return Err(crate::demo::with_logs(error, dir.path()));
    }
    let path =
        args.report.clone().unwrap_or_else(|| format!("tidegate-drill-{}.html", args.drill.word()).into());
    let page = report::render(args, &outcome, start.elapsed());
    std::fs::write(&path, page)?;
    let failed = outcome.levels.iter().filter(|level| !level.holds).count();
    let all = outcome.levels.len();
    match format {
        Format::Json => print_line(&report::json(args, &outcome).to_string()),
        Format::Text => {
            outcome.remarks.iter().for_each(|remark| note(remark));
            print_line(&format!("{}: {} of {all} pass levels reached", args.drill.word(), all - failed));
            note(&format!("The report with its timelines: {}", path.display()));
        }
    }
    if failed == 0 {
        Ok(Outcome::Done)
    } else {
        Err(Failure::say(Outcome::Failed, format_args!("{failed} of {all} pass levels were not reached")))
    }
}
