//! What must hold of paths, over a few seeds. `cargo xtask sim --seeds N` and `--hours N` run many more; a failing
//! seed prints the line that replays it.

use sim::scenarios::named;
use std::ops::Range;

/// Seeds of the scenarios that cost little, measured in November 2026: 1 to 7 ms each, 52 s of one core for all eight. Each of the
/// 52 pairs of networks that are simulated comes forty times.
const MANY: u64 = 2_080;

/// Runs a scenario over seeds, and says what does not hold of all of them.
fn holds(name: &str, seeds: u64) {
    holds_for(name, 0..seeds);
}

fn holds_for(name: &str, seeds: Range<u64>) {
    let scenario = named(name).expect("a scenario of this name");
    let wrong: Vec<String> = seeds
        .clone()
        .filter_map(|seed| scenario.check(seed).err().map(|wrong| format!("seed {seed}: {wrong}")))
        .collect();
    assert!(
        wrong.is_empty(),
        "{} of the seeds {seeds:?}: {}\n{}",
        wrong.len(),
        scenario.sentence,
        wrong.join("\n")
    );
}

#[test]
fn a_tunnel_comes_up_between_any_two_networks_and_the_expected_path_is_found_in_bounded_time() {
    holds("matrix", MANY);
}

#[test]
fn who_comes_into_its_connectors_lan_uses_it() {
    holds("homecoming", MANY);
}

#[test]
fn when_another_path_becomes_the_better_one_both_sides_take_it_in_bounded_time() {
    holds("better", MANY);
}

#[test]
fn whatever_a_translator_does_the_tunnel_carries_and_goes_straight_where_it_can() {
    holds("translators", MANY);
}

#[test]
fn a_steady_network_sees_few_path_changes_an_hour_also_at_10_and_30_percent_loss() {
    holds("steady", 24);
}

#[test]
fn an_idle_tunnel_sends_at_most_one_packet_in_20_seconds_for_a_peer() {
    holds("idle", MANY);
}

#[test]
fn one_roam_costs_few_messages_and_at_the_peers_of_who_roamed_alone() {
    holds("roam", 40);
}

#[test]
fn the_relay_carries_on_when_a_path_works_one_way_only() {
    holds("one-way", 16);
}

#[test]
fn an_address_that_changes_each_second_costs_a_bounded_number_of_messages() {
    holds("restless", MANY);
}

#[test]
fn the_relay_carries_on_behind_a_translator_that_gives_each_packet_another_port() {
    holds("port-per-packet", 16);
}

#[test]
fn after_reboots_roams_sleeps_restarts_and_losses_the_tunnel_carries_again() {
    holds("faults", 150);
}

#[test]
fn the_longest_packet_that_a_way_carries_is_found_and_a_black_hole_is_left() {
    holds("narrow", MANY);
}

#[test]
fn a_peer_that_lies_about_where_it_is_gets_budgeted_probes_sent_and_none_to_a_forbidden_address() {
    holds("hostile-peer", MANY);
}

#[test]
fn a_device_that_comes_again_with_new_keys_has_one_budget_of_probes_for_all_of_them() {
    holds("reopening-liar", 8);
}

#[test]
fn who_sends_captured_relay_frames_from_elsewhere_is_sent_no_data() {
    holds("thief", 16);
}

// Each of 36 pairs of networks with each of five faults, half a minute of processor time for either half.

#[test]
fn whole_nodes_take_the_expected_path_and_answer_requests_through_roams_and_restarts_of_the_pop() {
    holds_for("whole", 0..180);
}

#[test]
fn a_download_of_whole_nodes_takes_the_expected_path_and_survives_roams_and_restarts_of_the_pop() {
    holds_for("whole", 180..360);
}

#[test]
fn the_same_seed_makes_the_same_decisions_and_another_seed_others() {
    for scenario in sim::scenarios::ALL {
        let traces: Vec<u64> = [9, 9, 61].map(|seed| (scenario.run)(seed).trace.hash).to_vec();
        assert_eq!(traces[0], traces[1], "{}", scenario.name);
        assert_ne!(traces[0], traces[2], "{}", scenario.name);
    }
}
