//! The bugs: which invariant each breaks, and what has to notice it.

/// What has to go red.
#[derive(Debug, Clone, Copy)]
pub enum Notices {
    /// A test of a package: the name of its target (the package's own for unit tests) and of the test.
    Test(&'static str, &'static str, &'static str),
    /// A pass level of a drill, by how it begins, with so many clients.
    Drill(&'static str, &'static str, &'static str),
    /// The simulation, built with the bug's feature.
    Sim,
}

/// A bug.
#[derive(Debug, Clone, Copy)]
pub struct Planted {
    /// As the sources ask for it.
    pub bug: &'static str,
    /// Which invariant of docs/guarantees.md it breaks.
    pub invariant: &'static str,
    /// What has to notice.
    pub notices: Notices,
}

const fn test(
    invariant: &'static str,
    bug: &'static str,
    package: &'static str,
    target: &'static str,
    name: &'static str,
) -> Planted {
    Planted { bug, invariant, notices: Notices::Test(package, target, name) }
}

const fn drill(
    invariant: &'static str,
    bug: &'static str,
    drill: &'static str,
    clients: &'static str,
    level: &'static str,
) -> Planted {
    Planted { bug, invariant, notices: Notices::Drill(drill, clients, level) }
}

const fn sim(invariant: &'static str, bug: &'static str) -> Planted {
    Planted { bug, invariant, notices: Notices::Sim }
}

/// Every bug.
#[rustfmt::skip]
pub const PLANTED: &[Planted] = &[
    test("static stability", "isolation-closes-everything", "client", "weather",
        "a_standard_resource_goes_on_until_the_grants_hard_expiry_and_no_longer"),
    test("static stability", "failed-renewal-drops-the-grant", "agent", "agent",
        "renewal_goes_on_trying_while_no_controller_is_there_and_the_old_grant_holds"),
    test("static stability", "start-asks-database", "controller", "controller",
        "a_controller_boots_from_its_disk_copy_when_the_database_is_gone_and_stays_right_about_strikes"),
    test("authorization", "expired-document-believed", "trust", "forgery",
        "a_grant_is_valid_to_the_millisecond_and_no_longer"),
    test("authorization", "controller-speaks-for-another", "trust", "forgery", "a_controller_speaks_for_itself_alone"),
    test("authorization", "widest-resource-decides", "policy", "decide",
        "the_most_specific_address_decides_even_when_a_wider_one_would_allow"),
    test("authorization", "source-of-packet-unchecked", "connector", "connector",
        "a_packet_from_a_source_that_is_not_the_devices_goes_nowhere"),
    test("authorization", "any-protocol-will-do", "policy", "decide",
        "a_resource_has_the_protocols_that_it_names_and_no_other"),
    test("authorization", "suffix-without-a-dot", "policy", "policy",
        "a_wildcard_has_the_names_below_it_and_neither_itself_nor_its_neighbours"),
    test("authorization", "a-binding-is-a-permission", "connector", "connector",
        "a_binding_opens_nothing_that_policy_does_not"),
    test("authorization", "anybody-answers-a-datagram", "connector", "connector",
        "an_answer_from_anybody_else_does_not_come_in"),
    test("authorization", "passages-outlive-their-policy", "connector", "connector",
        "core::tests::passages::a_policy_that_is_withdrawn_cuts_the_flow"),
    test("authorization", "datagrams-outlive-their-policy", "connector", "connector",
        "a_policy_that_ends_ends_running_conversations"),
    test("static stability", "silence-is-patience", "client", "client",
        "core::tests::failover::a_connector_that_falls_silent_is_left_by_the_next_connection_within_three_seconds"),
    test("static stability", "silence-is-death", "client", "client",
        "core::tests::failover::a_target_that_is_slow_is_no_dead_connector"),
    test("names", "told-once-for-ever", "client", "client",
        "core::tests::packets::a_tunnel_that_is_opened_anew_is_told_anew"),
    test("no I/O on registration", "registration-waits-for-a-controller", "client", "weather",
        "controllers_dead_and_a_pop_dead_as_well_stop_no_standard_resource"),
    test("proof travels", "stays-at-its-pop", "client", "weather",
        "a_flow_through_a_pop_that_goes_dark_goes_on_by_the_next"),
    test("bounded work", "organization-without-budget", "pop", "pop",
        "one_organization_cannot_ask_for_more_introductions_than_its_share"),
    test("no echo", "slice-for-every-beacon", "agent", "agent", "a_beacon_with_a_newer_version_fetches_the_slice_once"),
    test("no echo", "slice-asked-for-without-pause", "agent", "agent",
        "failing_to_get_a_slice_backs_off_however_often_beacons_come"),
    test("monotone knowledge", "older-bundle-believed", "trust", "forgery", "an_older_bundle_never_replaces_a_newer_one"),
    test("monotone knowledge", "older-slice-taken", "agent", "agent", "a_lower_slice_is_refused_and_the_one_held_stays"),
    test("monotone knowledge", "older-snapshot-served", "controller", "controller",
        "what_is_older_other_or_suddenly_small_is_not_taken"),
    test("error ≠ empty ≠ deny", "snapshot-not-judged", "controller", "controller",
        "every_bad_snapshot_is_refused_with_its_reason_by_the_builder"),
    test("error ≠ empty ≠ deny", "shrink-unguarded", "controller", "controller",
        "a_large_shrink_needs_a_word_and_many_small_changes_do_not"),
    test("error ≠ empty ≠ deny", "read-error-is-empty", "store", "conformance",
        "a_fault_at_every_read_of_the_builder_is_an_error_and_never_a_smaller_answer"),
    test("error ≠ empty ≠ deny", "generation-before-lost", "state", "state", "the_generation_before_is_kept"),
    test("class isolation", "one-queue", "pop", "pop", "packets_are_told_apart_by_what_they_show"),
    test("honest health", "always-fresh", "agent", "agent",
        "freshness_goes_from_fresh_to_isolated_and_back_and_each_step_is_told_once"),
    test("honest health", "stale-is-unready", "tidegate", "tidegate", "a_stale_control_plane_makes_nothing_unready"),
    test("no panic", "unknown-message-panics", "pop", "pop", "no_message_of_a_peer_panics_the_pop"),
    test("no panic", "crash-forgotten", "controller", "controller",
        "a_version_that_ended_the_process_twice_is_not_tried_again_and_the_one_before_is_used"),
    test("bounded resources", "queue-without-end", "pop", "pop",
        "every_queue_is_bounded_and_a_full_one_keeps_what_is_worth_more"),
    test("bounded resources", "sessions-without-end", "session", "pair", "a_full_acceptor_says_so"),
    test("bounded resources", "spool-without-end", "connector", "connector", "a_full_spool_drops_and_counts"),
    test("no metastability", "everybody-retries-at-once", "agent", "agent", "delays_stay_in_their_bounds_and_differ"),
    test("no metastability", "forgets-its-reset-key", "session", "pair",
        "a_restarted_pop_tells_its_sessions_at_their_next_packet"),
    test("anti-amplification", "short-request-answered", "pop", "pop", "a_request_shorter_than_its_answer_gets_silence"),
    test("anti-amplification", "unproven-source-admitted", "session", "pair",
        "spoofed_initials_leave_nothing_behind_and_get_less_than_they_sent"),
    test("revocation", "struck-device-let-in", "connector", "connector", "a_struck_device_or_owner_is_not_let_in"),
    test("revocation", "strike-spares-who-is-in", "connector", "connector",
        "a_strike_ends_the_running_session_and_the_client_learns_it_at_once"),
    test("revocation", "struck-agent-registers", "session", "pair",
        "a_struck_device_loses_its_session_and_gets_no_other"),
    test("revocation", "strike-acknowledged-before-it-is-written", "pop", "pop",
        "a_strike_that_could_not_be_written_is_enforced_but_never_acknowledged"),
    test("revocation", "heads-of-beacons-unread", "agent", "trust",
        "a_strike_that_did_not_come_is_learnt_from_the_head_of_the_next_beacon"),
    test("revocation", "strike-not-spread", "controller", "controller",
        "a_controller_attaches_to_its_pop_a_strike_becomes_durable_there_and_outlives_the_controller_s_disk"),
    test("revocation", "issues-before-the-union", "controller", "controller",
        "nothing_is_issued_before_the_union_of_every_pop_that_answers_was_taken"),
    test("time", "one-controller-sets-the-time", "agent", "agent",
        "one_controller_that_steps_again_and_again_leads_by_five_minutes_and_no_more"),
    test("time", "session-outlives-its-lease", "connector", "connector",
        "nothing_passes_a_second_after_the_hard_expiry_and_everything_a_second_before"),
    test("time", "isolation-closes-nothing", "client", "weather",
        "a_strict_resource_takes_no_new_flow_seventy_seconds_after_isolation_and_carries_none_after_the_grace"),
    test("time", "fenced-clock-signs", "controller", "controller",
        "a_clock_that_jumps_while_running_signs_nothing_and_downtime_is_no_jump"),
    test("time", "key-is-used-before-it-is-published", "controller", "controller",
        "keys_are_replaced_before_their_end_and_used_only_after_a_day"),
    test("time", "rotation-drops-the-keys-of-before", "controller", "controller",
        "keys_that_somebody_replaces_sign_when_told_to_and_those_of_before_stay_named"),
    test("hostile PoP", "anybody-answers", "pop", "pop", "a_connector_cannot_answer_for_another"),
    test("hostile PoP", "any-pop-will-do", "session", "pair", "the_pop_that_answers_must_be_the_pop_that_was_dialled"),
    test("goodput", "oldest-first-when-behind", "pop", "pop",
        "a_queue_that_is_behind_serves_the_newest_and_drops_what_has_been_asked_again"),
    test("tenant isolation", "introduction-crosses-organizations", "pop", "pop",
        "a_connector_of_another_organization_is_refused"),
    test("tenant isolation", "token-crosses-organizations", "controller", "controller",
        "nothing_of_another_organization_is_seen_or_changed"),
    test("tenant isolation", "other-organizations-grant", "connector", "connector",
        "every_forgery_of_an_introduction_is_refused_with_its_reason"),
    test("time", "pop-follows-its-clock-anywhere", "pop", "pop",
        "a_clock_that_is_off_by_ten_years_expires_nobody_while_a_controller_has_signed_the_time"),
    test("hostile PoP", "a-beacon-is-as-old-as-its-arrival", "hostile", "hostile",
        "beacons_ten_minutes_late_isolate_and_close_strict_resources_and_lengthen_no_lease"),
    test("hostile PoP", "always-fresh", "hostile", "hostile",
        "beacons_said_again_and_beacons_invented_make_nobody_fresh"),
    test("hostile PoP", "withheld-strikes-are-not-missed", "hostile", "hostile",
        "a_connector_that_only_hostile_pops_reach_says_that_it_is_stale_and_ends_with_the_lease"),
    test("hostile PoP", "a-first-strike-is-not-missed", "hostile", "hostile",
        "a_connector_that_only_hostile_pops_reach_says_that_it_is_stale_and_ends_with_the_lease"),
    test("hostile PoP", "the-last-list-of-strikes-counts", "hostile", "hostile",
        "strikes_of_the_past_said_again_give_nothing_back"),
    test("hostile PoP", "strikes-need-no-signature", "hostile", "hostile",
        "strikes_that_no_controller_signed_strike_nobody"),
    test("hostile PoP", "any-certificate-at-any-end", "hostile", "hostile",
        "a_pop_that_shows_another_certificate_is_no_pop"),
    test("hostile PoP", "any-root-is-believed", "hostile", "hostile",
        "a_trust_chain_of_a_pops_own_is_not_believed"),
    test("hostile PoP", "an-open-needs-no-signature", "hostile", "hostile",
        "a_grant_that_one_connector_saw_opens_nothing_at_another"),
    test("bounded work", "agents-say-what-they-like", "hostile", "hostile",
        "an_agent_that_speaks_as_another_role_is_shown_the_door"),
    test("anti-amplification", "one-token-key-for-all", "hostile", "hostile",
        "an_address_token_of_another_pop_another_address_or_another_time_opens_nothing"),
    test("anti-amplification", "tokens-for-ever", "hostile", "hostile",
        "an_address_token_of_another_pop_another_address_or_another_time_opens_nothing"),
    test("bounded work", "patience-without-end", "hostile", "hostile",
        "who_floods_frames_is_slowed_then_closed_with_a_code_and_then_kept_away"),
    test("bounded work", "no-budget-for-frames", "hostile", "hostile",
        "who_floods_frames_is_slowed_then_closed_with_a_code_and_then_kept_away"),
    test("bounded work", "registers-as-often-as-it-likes", "hostile", "hostile",
        "who_comes_back_all_the_time_is_closed_with_a_code"),
    test("tenant isolation", "other-organizations-grant", "hostile", "hostile",
        "a_device_of_another_organization_that_a_pop_leads_in_is_refused"),
    test("authorization", "a-connector-believes-the-client", "hostile", "hostile",
        "who_asks_for_every_port_and_for_what_is_forbidden_gets_none_of_it"),
    test("bounded resources", "a-device-takes-every-flow", "connector", "connector",
        "one_device_has_half_of_the_flows_at_the_most_through_however_many_tunnels"),
    test("tenant isolation", "introduction-crosses-organizations", "hostile", "hostile",
        "no_introduction_channel_packet_or_answer_crosses_organizations"),
    test("tenant isolation", "anybody-answers", "hostile", "hostile",
        "no_introduction_channel_packet_or_answer_crosses_organizations"),
    test("tenant isolation", "anybody-closes-channels", "hostile", "hostile",
        "no_introduction_channel_packet_or_answer_crosses_organizations"),
    test("tenant isolation", "tells-of-other-organizations-connectors", "hostile", "hostile",
        "no_introduction_channel_packet_or_answer_crosses_organizations"),
    test("bounded work", "bursts-into-silence", "tunnel", "direct",
        "an_idle_tunnel_sends_at_most_three_packets_in_any_minute_and_side"),
    test("static stability", "addresses-do-not-race", "agent", "eyeballs",
        "when_the_first_address_is_dead_the_other_family_is_taken_a_quarter_of_a_second_later"),
    test("static stability", "one-family-after-the-other", "agent", "eyeballs",
        "a_family_with_many_dead_addresses_does_not_keep_the_other_one_waiting"),
    test("bounded work", "a-late-session-stays", "agent", "eyeballs",
        "two_families_that_race_never_open_two_sessions"),
    sim("no echo", "echo-on-change"),
    sim("no metastability", "no-hysteresis"),
    sim("bounded work", "probe-loopback"),
    sim("hostile PoP", "unvalidated-relay-move"),
    sim("bounded work", "peer-says-where-it-is"),
    sim("bounded work", "budget-of-a-key"),
    sim("no metastability", "never-better"),
    drill("static stability", "renewal-asks-database", "database-brownout", "60", "re-authentications"),
    drill("static stability", "start-asks-database", "cold-cache", "60", "from the start of the controller"),
    drill("class isolation", "one-queue", "holepunch-surge", "1500", "registrations of clients that are not broken"),
    test("machine given back", "changed-before-it-is-written-down", "machine", "machine",
        "a_file_is_not_touched_when_the_journal_cannot_be_written"),
    test("machine given back", "puts-back-over-others", "machine", "machine",
        "what_somebody_else_wrote_meanwhile_is_noticed_and_stays"),
    test("machine given back", "takes-the-lan", "machine", "machine",
        "a_network_that_the_machine_is_on_stays_and_is_said"),
    test("machine given back", "the-tunnel-through-itself", "machine", "machine",
        "a_pop_inside_a_range_stays_outside_the_tunnel_and_the_rest_goes_in"),
    drill("database load", "renewal-writes-a-row", "reconnect-storm", "60", "database statements caused"),
    drill("no metastability", "forgets-its-reset-key", "reconnect-storm", "60", "everybody is registered again"),
    drill("proof travels", "stays-at-its-pop", "black-hole-relay", "60", "running connections answer again"),
    drill("error ≠ empty ≠ deny", "snapshot-not-judged", "poison-snapshot", "60", "poisoned snapshots that were taken"),
    drill("monotone knowledge", "rotation-drops-the-keys-of-before", "key-rotation", "60", "failed verifications"),
    drill("time", "fenced-clock-signs", "clock-jump", "60", "signed by a controller whose clock jumped"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_invariant_of_the_weather_has_a_bug_and_no_bug_is_there_twice_for_the_same_test() {
        let there: BTreeSet<&str> = PLANTED.iter().map(|planted| planted.invariant).collect();
        for invariant in [
            "static stability",
            "authorization",
            "no I/O on registration",
            "proof travels",
            "database load",
            "bounded work",
            "no echo",
            "monotone knowledge",
            "error ≠ empty ≠ deny",
            "class isolation",
            "honest health",
            "no panic",
            "bounded resources",
            "no metastability",
            "anti-amplification",
            "revocation",
            "time",
            "hostile PoP",
            "goodput",
            "tenant isolation",
        ] {
            assert!(there.contains(invariant), "{invariant}");
        }
        let rows: BTreeSet<String> =
            PLANTED.iter().map(|planted| format!("{} {:?}", planted.bug, planted.notices)).collect();
        assert_eq!(rows.len(), PLANTED.len());
    }
}
