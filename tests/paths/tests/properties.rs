//! The properties over the seeds of CI. A failing seed prints the line that replays it.

use sim::scenarios::SCENARIOS;

fn check(name: &str, seeds: std::ops::Range<u64>) {
    let (_, scenario) = SCENARIOS.iter().find(|(known, _)| *known == name).expect("a scenario");
    for seed in seeds {
        if let Err(why) = scenario(seed) {
            panic!("{why}\nreplay: cargo xtask sim --scenario {name} --seed {seed}");
        }
    }
}

#[test]
fn the_path_of_the_table_is_found_between_any_two_networks_and_kept() {
    check("table", 0..300);
}

#[test]
fn an_hour_in_a_steady_network_moves_nothing() {
    check("steady", 0..40);
}

#[test]
fn loss_makes_few_moves_and_packets_get_through() {
    check("lossy", 0..24);
}

#[test]
fn of_two_ways_that_are_alike_one_is_taken_and_kept() {
    check("two-ways", 0..12);
}

#[test]
fn on_one_lan_the_interfaces_meet() {
    check("one-lan", 0..60);
}

#[test]
fn a_roam_leaves_a_gap_of_three_seconds_at_most_and_ends_on_the_expected_path() {
    check("roam", 0..30);
}

#[test]
fn the_roam_of_one_client_concerns_its_own_tunnel_alone() {
    check("roam-of-one", 0..30);
}

#[test]
fn a_router_that_forgets_its_mappings_interrupts_for_three_seconds_at_most() {
    check("reboot", 0..40);
}

#[test]
fn mappings_of_twenty_seconds_leave_a_tunnel_that_answers() {
    check("expiry", 0..20);
}

#[test]
fn an_address_that_changes_each_second_leaves_the_relay_and_few_attempts() {
    check("restless", 0..20);
}

#[test]
fn a_path_that_works_one_way_only_is_left() {
    check("one-way", 0..30);
}

#[test]
fn a_nat_with_a_port_for_each_packet_is_relayed() {
    check("port-per-packet", 0..20);
}

#[test]
fn a_restart_of_the_pop_is_not_felt_on_a_direct_path() {
    check("pop-restart", 0..60);
}

#[test]
fn a_machine_that_slept_for_an_hour_comes_back() {
    check("suspend", 0..20);
}

#[test]
fn an_idle_tunnel_sends_one_packet_in_twenty_seconds_at_most() {
    check("idle", 0..40);
}

#[test]
fn the_same_seed_decides_the_same() {
    check("trace", 0..20);
}
