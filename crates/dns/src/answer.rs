//! Answers of our own, as bytes.

use crate::question::{Question, Transport};
use hickory_proto::{
    op::{Edns, Message, OpCode, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, PTR, SOA},
    },
};
use policy::HostName;
use std::net::{Ipv4Addr, Ipv6Addr};

/// How long an answer may be remembered, seconds: a resource that a policy gives or takes shows up within it,
/// and a page with forty names asks for each once.
pub(crate) const TTL: u32 = 15;
/// What we take over UDP (the DNS flag day 2020's size, which no path fragments).
const MAX_PAYLOAD: u16 = 1232;
/// What anybody takes over UDP (RFC 1035 section 2.3.4).
const PLAIN_PAYLOAD: u16 = 512;

/// What is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer<'a> {
    /// The name's addresses, those of the asked type.
    Addresses(Ipv4Addr, Ipv6Addr),
    /// The name behind an address.
    Pointer(&'a HostName),
    /// The name exists, and has no record of that type.
    NoData,
    /// There is no such name.
    NoName,
    /// We do not do that.
    Refused,
    /// We cannot at the moment.
    Failed,
}

/// The answer to a question that came as `bytes`.
pub(crate) fn write(question: &Question, transport: Transport, bytes: &[u8], answer: Answer<'_>) -> Vec<u8> {
    // The rest of the query: its flags and what its sender can take.
    let Ok(asked) = Message::from_vec(bytes) else {
        return error(question.id, ResponseCode::FormErr);
    };
    let mut message = Message::response(question.id, OpCode::Query);
    message.metadata.recursion_desired = asked.metadata.recursion_desired;
    message.metadata.checking_disabled = asked.metadata.checking_disabled;
    message.metadata.recursion_available = true;
    message.add_query(question.query.clone());
    if let Some(edns) = &asked.edns {
        let mut ours = Edns::new();
        ours.set_max_payload(MAX_PAYLOAD).set_version(0).set_dnssec_ok(edns.flags().dnssec_ok);
        message.set_edns(ours);
        if edns.version() > 0 {
            // RFC 6891 section 6.1.3.
            message.metadata.response_code = ResponseCode::BADVERS;
            return encode(&message, question.id);
        }
    }
    fill(&mut message, question, answer);
    let limit = asked.edns.as_ref().map_or(PLAIN_PAYLOAD, |edns| edns.max_payload().max(PLAIN_PAYLOAD));
    let encoded = encode(&message, question.id);
    if transport == Transport::Udp && encoded.len() > usize::from(limit) {
        return encode(&message.truncate(), question.id);
    }
    encoded
}

/// An answer that says only what went wrong.
pub(crate) fn error(id: u16, code: ResponseCode) -> Vec<u8> {
    encode(&Message::error_msg(id, OpCode::Query, code), id)
}

fn fill(message: &mut Message, question: &Question, answer: Answer<'_>) {
    let name = question.query.name().clone();
    let kind = question.kind();
    let wants = |of: RecordType| kind == of || kind == RecordType::ANY;
    match answer {
        Answer::Addresses(v4, v6) => {
            if wants(RecordType::A) {
                message.add_answer(Record::from_rdata(name.clone(), TTL, RData::A(A(v4))));
            }
            if wants(RecordType::AAAA) {
                message.add_answer(Record::from_rdata(name.clone(), TTL, RData::AAAA(AAAA(v6))));
            }
        }
        Answer::Pointer(host) => {
            if wants(RecordType::PTR)
                && let Ok(target) = Name::from_ascii(format!("{host}."))
            {
                message.add_answer(Record::from_rdata(name.clone(), TTL, RData::PTR(PTR(target))));
            }
        }
        Answer::NoData => {}
        Answer::NoName => message.metadata.response_code = ResponseCode::NXDomain,
        Answer::Refused => message.metadata.response_code = ResponseCode::Refused,
        Answer::Failed => message.metadata.response_code = ResponseCode::ServFail,
    }
    let negative = message.answers.is_empty()
        && matches!(message.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain);
    if negative {
        // RFC 2308 section 3: how long "there is none" may be remembered.
        let soa = SOA::new(Name::root(), Name::root(), 1, 3600, 600, 86_400, TTL);
        message.add_authority(Record::from_rdata(name, TTL, RData::SOA(soa)));
    }
}

fn encode(message: &Message, id: u16) -> Vec<u8> {
    // A message of ours has one question and at most two small records: it fits and encodes. Should a name
    // ever not, the asker gets the shortest failure there is: the header alone.
    message.to_vec().unwrap_or_else(|_| {
        let [high, low] = id.to_be_bytes();
        vec![high, low, 0x80, 0x02, 0, 0, 0, 0, 0, 0, 0, 0]
    })
}
