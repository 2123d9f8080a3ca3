#![expect(clippy::disallowed_methods, reason = "a test needs one moment to count from")]

use super::*;
use hickory_proto::{
    op::{Edns, Message, Query},
    rr::{Name, RData, Record, rdata::A},
};
use policy::HostName;
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr};

fn host(text: &str) -> HostName {
    text.parse().unwrap()
}

fn resolver() -> Resolver {
    let pool = Pool::new("100.97.0.0/16".parse().unwrap(), "fd7a:7467:6e61::/96".parse().unwrap()).unwrap();
    let upstreams = vec!["192.0.2.1:53".parse().unwrap(), "192.0.2.2:53".parse().unwrap()];
    let mut resolver = Resolver::new(Settings { upstreams, ..Settings::default() }, pool, [3; 32]);
    resolver.set_names(Names::new([host("db.lab.internal"), host("wiki")], [host("corp.example")]));
    resolver
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn outputs(resolver: &mut Resolver) -> Vec<Output> {
    let mut all = Vec::new();
    loop {
        match resolver.poll_output() {
            Output::Timeout(_) => return all,
            output => all.push(output),
        }
    }
}

fn ask(resolver: &mut Resolver, now: Instant, query: &Message) -> Vec<Output> {
    resolver.handle_query(now, Origin::udp(1), &query.to_vec().unwrap());
    outputs(resolver)
}

/// The one answer that came at once.
fn answered(resolver: &mut Resolver, query: &Message) -> Message {
    let outputs = ask(resolver, Instant::now(), query);
    let [Output::Reply { to, bytes }] = outputs.as_slice() else { panic!("one answer, got {outputs:?}") };
    assert_eq!(*to, Origin::udp(1));
    let answer = Message::from_vec(bytes).unwrap();
    assert_eq!(answer.metadata.id, query.metadata.id);
    answer
}

fn forwarded(outputs: &[Output]) -> (ForwardId, SocketAddr, &[u8]) {
    let [Output::Forward { id, server, bytes, .. }] = outputs else { panic!("one forward, got {outputs:?}") };
    (*id, *server, bytes)
}

/// An answer as a server would write it.
fn upstream_answer(sent: &[u8]) -> Vec<u8> {
    let asked = Message::from_vec(sent).unwrap();
    let mut answer = Message::response(asked.metadata.id, asked.metadata.op_code);
    let question = asked.queries[0].clone();
    answer.add_answer(Record::from_rdata(
        question.name().clone(),
        300,
        RData::A(A(Ipv4Addr::new(203, 0, 113, 5))),
    ));
    answer.add_query(question);
    answer.to_vec().unwrap()
}

#[test]
fn a_private_name_has_one_address_of_each_family_with_a_short_life() {
    let mut resolver = resolver();
    let four = answered(&mut resolver, &query("db.lab.internal.", RecordType::A));
    let six = answered(&mut resolver, &query("db.lab.internal.", RecordType::AAAA));
    let both = answered(&mut resolver, &query("db.lab.internal.", RecordType::ANY));
    assert_eq!((four.answers.len(), six.answers.len(), both.answers.len()), (1, 1, 2));
    assert!(four.answers[0].ttl <= 30);
    let RData::A(address) = four.answers[0].data else { panic!("an IPv4 address") };
    assert_eq!(resolver.pool().name(IpAddr::V4(address.0)), Some(&host("db.lab.internal")));
    assert_eq!(four.metadata.response_code, ResponseCode::NoError);
    assert!(four.metadata.recursion_available && four.metadata.recursion_desired);
}

#[test]
fn the_answer_repeats_the_capitals_of_the_question() {
    let answer = answered(&mut resolver(), &query("dB.LaB.iNtErNaL.", RecordType::A));
    assert_eq!(answer.queries[0].name().to_ascii(), "dB.LaB.iNtErNaL.");
    assert_eq!(answer.answers[0].name.to_ascii(), "dB.LaB.iNtErNaL.");
}

#[test]
fn no_type_of_question_about_a_private_name_leaves_the_machine() {
    let mut resolver = resolver();
    for kind in 1..=300_u16 {
        for name in ["db.lab.internal.", "a.b.corp.example.", "corp.example.", "_ldap._tcp.corp.example."] {
            let outputs = ask(&mut resolver, Instant::now(), &query(name, RecordType::from(kind)));
            assert!(
                matches!(outputs.as_slice(), [Output::Reply { .. }]),
                "type {kind} of {name}: {outputs:?}"
            );
        }
    }
}

#[test]
fn an_update_or_another_class_about_a_private_name_is_refused_here() {
    let mut update = query("db.lab.internal.", RecordType::SOA);
    update.metadata.op_code = hickory_proto::op::OpCode::Update;
    assert_eq!(answered(&mut resolver(), &update).metadata.response_code, ResponseCode::Refused);
    let mut chaos = query("db.lab.internal.", RecordType::TXT);
    chaos.queries[0].set_query_class(hickory_proto::rr::DNSClass::CH);
    assert_eq!(answered(&mut resolver(), &chaos).metadata.response_code, ResponseCode::Refused);
    let mut version = query("version.bind.", RecordType::TXT);
    version.queries[0].set_query_class(hickory_proto::rr::DNSClass::CH);
    forwarded(&ask(&mut resolver(), Instant::now(), &version));
}

#[test]
fn odd_names_below_a_wildcard_do_not_leave_the_machine() {
    let mut resolver = resolver();
    let mut message = Message::query();
    let odd = Name::from_labels([b"a b".as_slice(), b"corp", b"example"]).unwrap();
    message.add_query(Query::query(odd, RecordType::A));
    assert_eq!(answered(&mut resolver, &message).metadata.response_code, ResponseCode::NXDomain);
}

#[test]
fn a_type_that_a_private_name_does_not_have_is_answered_with_none_and_how_long_that_holds() {
    for kind in [RecordType::MX, RecordType::TXT, RecordType::HTTPS, RecordType::SRV] {
        let answer = answered(&mut resolver(), &query("db.lab.internal.", kind));
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert!(answer.answers.is_empty());
        assert_eq!(answer.authorities[0].record_type(), RecordType::SOA);
    }
}

#[test]
fn a_zone_transfer_of_a_private_name_is_refused() {
    let answer = answered(&mut resolver(), &query("db.lab.internal.", RecordType::AXFR));
    assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
}

#[test]
fn a_synthetic_address_leads_back_to_its_name_and_the_others_to_none() {
    let mut resolver = resolver();
    let four = answered(&mut resolver, &query("db.lab.internal.", RecordType::A));
    let RData::A(A(address)) = four.answers[0].data else { panic!("an IPv4 address") };
    let [a, b, c, d] = address.octets();
    let answer = answered(&mut resolver, &query(&format!("{d}.{c}.{b}.{a}.in-addr.arpa."), RecordType::PTR));
    let RData::PTR(pointer) = &answer.answers[0].data else { panic!("a pointer") };
    assert_eq!(pointer.0.to_ascii(), "db.lab.internal.");
    let none = answered(&mut resolver, &query("1.0.97.100.in-addr.arpa.", RecordType::PTR));
    assert_eq!(none.metadata.response_code, ResponseCode::NXDomain);
    let between = answered(&mut resolver, &query("97.100.in-addr.arpa.", RecordType::PTR));
    assert_eq!(between.metadata.response_code, ResponseCode::NoError);
    let foreign = ask(&mut resolver, Instant::now(), &query("1.2.0.192.in-addr.arpa.", RecordType::PTR));
    forwarded(&foreign);
}

#[test]
fn a_foreign_question_goes_to_the_first_server_untouched_but_for_its_id() {
    let mut resolver = resolver();
    let mut asked = query("WWW.example.org.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_max_payload(4096).set_dnssec_ok(true);
    asked.set_edns(edns);
    let outputs = ask(&mut resolver, Instant::now(), &asked);
    let (_, server, sent) = forwarded(&outputs);
    assert_eq!(server, "192.0.2.1:53".parse().unwrap());
    assert_eq!(&sent[2..], &asked.to_vec().unwrap()[2..]);
}

#[test]
fn its_answer_comes_back_untouched_but_for_the_id() {
    let mut resolver = resolver();
    let asked = query("www.example.org.", RecordType::A);
    let outputs = ask(&mut resolver, Instant::now(), &asked);
    let (id, _, sent) = forwarded(&outputs);
    let said = upstream_answer(sent);
    resolver.handle_upstream(id, &said);
    let outputs = outputs_of(&mut resolver);
    let [Output::Reply { bytes, .. }, Output::Done(done)] = outputs.as_slice() else { panic!("{outputs:?}") };
    assert_eq!(*done, id);
    assert_eq!(&bytes[2..], &said[2..]);
    assert_eq!(Message::from_vec(bytes).unwrap().metadata.id, asked.metadata.id);
}

fn outputs_of(resolver: &mut Resolver) -> Vec<Output> {
    outputs(resolver)
}

#[test]
fn ids_that_servers_see_say_nothing_about_each_other() {
    let mut resolver = resolver();
    let mut ids = std::collections::BTreeSet::new();
    for index in 0..200 {
        let outputs =
            ask(&mut resolver, Instant::now(), &query(&format!("n{index}.example.org."), RecordType::A));
        let (_, _, sent) = forwarded(&outputs);
        ids.insert(id_of(sent));
    }
    assert!(ids.len() > 190, "{} different ids", ids.len());
}

#[test]
fn an_answer_that_does_not_fit_ends_nothing() {
    let mut resolver = resolver();
    let outputs = ask(&mut resolver, Instant::now(), &query("www.example.org.", RecordType::A));
    let (id, _, sent) = forwarded(&outputs);
    let good = upstream_answer(sent);
    let mut other_id = good.clone();
    other_id[0] ^= 1;
    let mut other_name = good.clone();
    other_name[13] ^= 1;
    let mut a_query = good.clone();
    a_query[2] &= 0x7f;
    for forged in [&other_id, &other_name, &a_query, &good[..11].to_vec(), &sent.to_vec()] {
        resolver.handle_upstream(id, forged);
        assert_eq!(outputs_of(&mut resolver), []);
    }
    resolver.handle_upstream(id, &good);
    assert_eq!(outputs_of(&mut resolver).len(), 2);
    assert_eq!(resolver.counters().mismatched, 5);
}

#[test]
fn a_silent_server_s_question_goes_to_the_next_and_then_fails_in_time() {
    let now = Instant::now();
    let mut resolver = resolver();
    let outputs = ask(&mut resolver, now, &query("www.example.org.", RecordType::A));
    let (id, ..) = forwarded(&outputs);
    let Output::Timeout(Some(first)) = resolver.poll_output() else { panic!("a timeout") };
    assert_eq!(first.reason, TimeoutReason::Patience);
    resolver.handle_timeout(first.at);
    let outputs = outputs_of(&mut resolver);
    let (again, server, _) = forwarded(&outputs);
    assert_eq!((again, server), (id, "192.0.2.2:53".parse().unwrap()));
    resolver.handle_timeout(now + Duration::from_secs(3));
    assert_eq!(outputs_of(&mut resolver), []);
    let Output::Timeout(Some(last)) = resolver.poll_output() else { panic!("a timeout") };
    assert_eq!(last.reason, TimeoutReason::Deadline);
    resolver.handle_timeout(last.at);
    let outputs = outputs_of(&mut resolver);
    let [Output::Reply { bytes, .. }, Output::Done(_)] = outputs.as_slice() else { panic!("{outputs:?}") };
    assert_eq!(Message::from_vec(bytes).unwrap().metadata.response_code, ResponseCode::ServFail);
    assert_eq!(resolver.poll_output(), Output::Timeout(None));
}

#[test]
fn the_first_server_may_still_answer_after_the_second_was_asked() {
    let now = Instant::now();
    let mut resolver = resolver();
    let outputs = ask(&mut resolver, now, &query("www.example.org.", RecordType::A));
    let (id, _, sent) = forwarded(&outputs);
    resolver.handle_timeout(now + Duration::from_millis(1_300));
    outputs_of(&mut resolver);
    resolver.handle_upstream(id, &upstream_answer(sent));
    assert!(matches!(outputs_of(&mut resolver).as_slice(), [Output::Reply { .. }, Output::Done(_)]));
}

#[test]
fn who_asks_when_everything_is_taken_hears_so_at_once() {
    let now = Instant::now();
    let mut resolver = resolver();
    for index in 0..MAX_FORWARDS {
        ask(&mut resolver, now, &query(&format!("n{index}.example.org."), RecordType::A));
    }
    let late = query("late.example.org.", RecordType::A);
    assert_eq!(answered(&mut resolver, &late).metadata.response_code, ResponseCode::ServFail);
    let own = query("wiki.", RecordType::A);
    assert_eq!(answered(&mut resolver, &own).answers.len(), 1, "private names are answered all the same");
}

#[test]
fn who_has_gone_leaves_nothing_behind() {
    let mut resolver = resolver();
    ask(&mut resolver, Instant::now(), &query("www.example.org.", RecordType::A));
    resolver.handle_gone(Origin::udp(1));
    assert!(matches!(outputs_of(&mut resolver).as_slice(), [Output::Done(_)]));
    assert_eq!(resolver.poll_output(), Output::Timeout(None));
}

#[test]
fn a_later_version_of_edns_is_told_ours() {
    let mut asked = query("wiki.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    asked.set_edns(edns);
    let answer = answered(&mut resolver(), &asked);
    // BADVERS and BADSIG share a number; the reader here names it by the other.
    assert_eq!(u16::from(answer.metadata.response_code), u16::from(ResponseCode::BADVERS));
    assert_eq!(answer.edns.unwrap().version(), 0);
}

#[test]
fn a_name_that_is_no_longer_private_is_passed_on_and_its_address_still_leads_to_it() {
    let mut resolver = resolver();
    let answer = answered(&mut resolver, &query("wiki.", RecordType::A));
    let RData::A(A(address)) = answer.answers[0].data else { panic!("an IPv4 address") };
    resolver.set_names(Names::EMPTY);
    forwarded(&ask(&mut resolver, Instant::now(), &query("wiki.", RecordType::A)));
    assert_eq!(resolver.pool().name(address.into()), Some(&host("wiki")));
}

proptest! {
    #[test]
    fn no_bytes_get_more_than_one_reply_or_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), reply in proptest::collection::vec(any::<u8>(), 0..300)) {
        let now = Instant::now();
        let mut resolver = resolver();
        resolver.handle_query(now, Origin::udp(1), &bytes);
        prop_assert!(outputs(&mut resolver).len() <= 1);
        let mut asked = query("www.example.org.", RecordType::A);
        asked.metadata.id = 7;
        let sent = ask(&mut resolver, now, &asked);
        if let [Output::Forward { id, .. }] = sent.as_slice() {
            resolver.handle_upstream(*id, &reply);
        }
    }

    #[test]
    fn what_is_asked_in_pieces_of_a_real_query_is_never_passed_on_as_a_private_name(cut in 0_usize..60, flip in any::<(usize, u8)>()) {
        let mut bytes = query("db.lab.internal.", RecordType::A).to_vec().unwrap();
        let length = bytes.len();
        bytes[flip.0 % length] ^= flip.1;
        bytes.truncate(length - cut.min(length));
        let mut resolver = resolver();
        resolver.handle_query(Instant::now(), Origin::udp(1), &bytes);
        for output in outputs(&mut resolver) {
            if let Output::Forward { bytes, .. } = output {
                let text = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
                prop_assert!(!text.contains("\u{2}db\u{3}lab\u{8}internal\0"), "{bytes:?}");
            }
        }
    }
}

#[test]
fn when_no_server_can_be_reached_the_program_is_told_at_once() {
    let now = Instant::now();
    let mut resolver = resolver();
    let first = ask(&mut resolver, now, &query("www.example.org.", RecordType::A));
    let (id, ..) = forwarded(&first);
    resolver.handle_unreachable(now, id);
    let second = outputs(&mut resolver);
    assert_eq!(forwarded(&second).1, "192.0.2.2:53".parse().unwrap());
    resolver.handle_unreachable(now, id);
    let told = outputs(&mut resolver);
    let [Output::Reply { bytes, .. }, Output::Done(done)] = told.as_slice() else {
        panic!("told, got {told:?}")
    };
    assert_eq!(*done, id);
    assert_eq!(Message::from_vec(bytes).unwrap().metadata.response_code, ResponseCode::ServFail);
}

#[test]
fn a_server_that_asks_us_what_we_have_asked_it_does_not_wait_for_itself() {
    let now = Instant::now();
    let mut resolver = resolver();
    let asked = query("www.example.org.", RecordType::A);
    let first = ask(&mut resolver, now, &asked);
    assert_eq!(forwarded(&first).1, "192.0.2.1:53".parse().unwrap());
    // The same question, in other letters and by another id: the next server has its turn at once.
    resolver.handle_query(now, Origin::udp(2), &query("WWW.example.org.", RecordType::A).to_vec().unwrap());
    let again = outputs(&mut resolver);
    let (id, server, _) = forwarded(&again);
    assert_eq!(server, "192.0.2.2:53".parse().unwrap());
    // A question of its own begins at the first.
    let other = ask(&mut resolver, now, &query("www.example.org.", RecordType::AAAA));
    assert_eq!(forwarded(&other).1, "192.0.2.1:53".parse().unwrap());
    // Nobody is left to ask for the second one: it is told.
    resolver.handle_unreachable(now, id);
    let told = outputs(&mut resolver);
    assert!(
        matches!(told.as_slice(), [Output::Reply { to, .. }, Output::Done(_)] if *to == Origin::udp(2)),
        "{told:?}"
    );
}
