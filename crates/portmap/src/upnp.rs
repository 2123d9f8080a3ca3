//! What a UPnP gateway describes and answers (IGD 1 and 2: WANIPConnection, WANPPPConnection).
//!
//! XML is read with `roxmltree`: a tree without DTDs, entities of its own or external documents, with a bound on nodes;
//! the document itself is bounded by [`crate::http::MAX_RESPONSE`]. Since 0.21.2 it descends without recursion, so that
//! depth costs no stack.

use crate::{http, ssdp::GatewayUrl};
use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr},
};

/// No description or answer has more; miniupnpd's has about 250.
const MAX_NODES: u32 = 4096;

/// A service that maps ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// WANPPPConnection:1.
    Ppp1,
    /// WANIPConnection:1.
    Ip1,
    /// WANIPConnection:2, which can choose the port itself.
    Ip2,
}

impl Service {
    /// Its URN.
    pub const fn urn(self) -> &'static str {
        match self {
            Self::Ppp1 => "urn:schemas-upnp-org:service:WANPPPConnection:1",
            Self::Ip1 => "urn:schemas-upnp-org:service:WANIPConnection:1",
            Self::Ip2 => "urn:schemas-upnp-org:service:WANIPConnection:2",
        }
    }

    fn from_urn(urn: &str) -> Option<Self> {
        [Self::Ppp1, Self::Ip1, Self::Ip2].into_iter().find(|service| service.urn() == urn)
    }
}

/// Where to ask for mappings, and in which words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// Where.
    pub url: GatewayUrl,
    /// Which words.
    pub service: Service,
}

/// A mapping to be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Our address.
    pub client: Ipv4Addr,
    /// Our port.
    pub internal_port: u16,
    /// The gateway's.
    pub external_port: u16,
    /// Seconds; 0: until somebody deletes it.
    pub lease: u32,
}

impl Control {
    /// Asks for the external address.
    pub fn get_address(&self) -> Vec<u8> {
        self.call("GetExternalIPAddress", &[])
    }

    /// Asks for a mapping, the same words for a new one and for its renewal.
    pub fn add(&self, request: Request) -> Vec<u8> {
        let action = match self.service {
            Service::Ip2 => "AddAnyPortMapping",
            Service::Ip1 | Service::Ppp1 => "AddPortMapping",
        };
        self.call(
            action,
            &[
                ("NewRemoteHost", ""),
                ("NewExternalPort", &request.external_port.to_string()),
                ("NewProtocol", "UDP"),
                ("NewInternalPort", &request.internal_port.to_string()),
                ("NewInternalClient", &request.client.to_string()),
                ("NewEnabled", "1"),
                ("NewPortMappingDescription", "tidegate"),
                ("NewLeaseDuration", &request.lease.to_string()),
            ],
        )
    }

    /// Gives a mapping back.
    pub fn delete(&self, external_port: u16) -> Vec<u8> {
        self.call(
            "DeletePortMapping",
            &[("NewRemoteHost", ""), ("NewExternalPort", &external_port.to_string()), ("NewProtocol", "UDP")],
        )
    }

    /// Every argument is a number, an address or a word of ours: nothing needs escaping.
    fn call(&self, action: &str, arguments: &[(&str, &str)]) -> Vec<u8> {
        let urn = self.service.urn();
        let mut inner = String::new();
        for (name, value) in arguments {
            write!(inner, "<{name}>{value}</{name}>").expect("writing into a string cannot fail");
        }
        let body = format!(
            "<?xml version=\"1.0\"?>\r\n<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
             s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><s:Body><u:{action} xmlns:u=\"{urn}\">\
             {inner}</u:{action}></s:Body></s:Envelope>\r\n"
        );
        http::post(&self.url, &format!("{urn}#{action}"), &body)
    }
}

/// Why an answer of a gateway is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not an HTTP response.
    #[error(transparent)]
    Http(#[from] http::Malformed),
    /// A status that is neither success nor a fault of an action.
    #[error("status {0}")]
    Status(u16),
    /// Not UTF-8, or not XML within the bounds.
    #[error("xml")]
    Xml,
    /// No service that maps ports, at a URL of the gateway's.
    #[error("no service")]
    NoService,
    /// Not the answer to what was asked.
    #[error("no answer")]
    NoAnswer,
}

/// What a gateway answered to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The external address.
    Address(Ipv4Addr),
    /// The mapping is there; the port, if the gateway says which.
    Added(Option<u16>),
    /// The mapping is gone.
    Deleted,
    /// An error code (IGD 1 and 2, "Errors" of each action).
    Fault(u16),
}

impl Answer {
    /// The port is another host's.
    pub const CONFLICT: u16 = 718;
    /// The gateway knows no leases.
    pub const ONLY_PERMANENT: u16 = 725;
}

/// Reads a device description: the best service whose control URL is the gateway's own.
///
/// # Errors
/// There is none.
pub fn parse_description(response: &[u8], location: &GatewayUrl) -> Result<Control, Malformed> {
    let response = http::parse_response(response)?;
    if response.status != 200 {
        return Err(Malformed::Status(response.status));
    }
    with_document(&response.body, |document| {
        let root = document.root_element();
        if root.tag_name().name() != "root" {
            return Err(Malformed::NoService);
        }
        // UDA 1.0 has a base; it counts only as far as it is the gateway's.
        let base = match child_text(root, "URLBase") {
            Some(base) => GatewayUrl::absolute(base, location.to().ip()).map_err(|_| Malformed::NoService)?,
            None => location.clone(),
        };
        let mut best: Option<Control> = None;
        for node in root.descendants().filter(|node| node.tag_name().name() == "service") {
            let Some(service) = child_text(node, "serviceType").and_then(Service::from_urn) else { continue };
            let Some(Ok(url)) = child_text(node, "controlURL").map(|url| base.join(url)) else { continue };
            // Of several of one kind the first: the gateway's own default.
            if best.as_ref().is_none_or(|best| best.service < service) {
                best = Some(Control { url, service });
            }
        }
        best.ok_or(Malformed::NoService)
    })
}

/// Reads the answer to a call.
///
/// # Errors
/// It is none.
pub fn parse_answer(response: &[u8]) -> Result<Answer, Malformed> {
    let response = http::parse_response(response)?;
    // SOAP 1.1, section 6.2: a fault comes with status 500.
    if response.status != 200 && response.status != 500 {
        return Err(Malformed::Status(response.status));
    }
    with_document(&response.body, |document| {
        let envelope = document.root_element();
        let body = child(envelope, "Body").filter(|_| envelope.tag_name().name() == "Envelope");
        let answer = body.and_then(|body| body.first_element_child()).ok_or(Malformed::NoAnswer)?;
        match answer.tag_name().name() {
            "Fault" => {
                let error = child(answer, "detail").and_then(|detail| child(detail, "UPnPError"));
                let code = error.and_then(|error| child_text(error, "errorCode"));
                number(code).map(Answer::Fault)
            }
            _ if response.status != 200 => Err(Malformed::Status(response.status)),
            "GetExternalIPAddressResponse" => {
                let address = child_text(answer, "NewExternalIPAddress").and_then(|text| text.parse().ok());
                address.map(Answer::Address).ok_or(Malformed::NoAnswer)
            }
            "AddPortMappingResponse" => Ok(Answer::Added(None)),
            "AddAnyPortMappingResponse" => {
                number(child_text(answer, "NewReservedPort")).map(|port| Answer::Added(Some(port)))
            }
            "DeletePortMappingResponse" => Ok(Answer::Deleted),
            _ => Err(Malformed::NoAnswer),
        }
    })
}

fn number(text: Option<&str>) -> Result<u16, Malformed> {
    let digits = text.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|text| text.parse().ok()).ok_or(Malformed::NoAnswer)
}

fn child<'a, 'input>(node: roxmltree::Node<'a, 'input>, name: &str) -> Option<roxmltree::Node<'a, 'input>> {
    node.children().find(|child| child.is_element() && child.tag_name().name() == name)
}

fn child_text<'a>(node: roxmltree::Node<'a, '_>, name: &str) -> Option<&'a str> {
    child(node, name).and_then(|child| child.text()).map(str::trim)
}

fn with_document<T>(
    body: &[u8],
    read: impl FnOnce(&roxmltree::Document<'_>) -> Result<T, Malformed>,
) -> Result<T, Malformed> {
    let text = std::str::from_utf8(body).map_err(|_| Malformed::Xml)?;
    // Some gateways end their documents with a zero byte.
    let text = text.trim_start_matches('\u{feff}').trim_end_matches(['\0', '\r', '\n', ' ']);
    let options =
        roxmltree::ParsingOptions { allow_dtd: false, nodes_limit: MAX_NODES, ..Default::default() };
    let document = roxmltree::Document::parse_with_options(text, options).map_err(|_| Malformed::Xml)?;
    read(&document)
}

/// The address that UPnP can speak of: IPv4 only, for IPv6 it has another service that we do not use.
pub(crate) const fn ipv4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location() -> GatewayUrl {
        GatewayUrl::absolute("http://192.168.1.1:5000/rootDesc.xml", [192, 168, 1, 1].into()).unwrap()
    }

    fn response(status: u16, body: &str) -> Vec<u8> {
        format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }

    fn description(services: &str) -> Vec<u8> {
        response(
            200,
            &format!(
                "<?xml version=\"1.0\"?>\n<root xmlns=\"urn:schemas-upnp-org:device-1-0\"><device><deviceList><device>\
                 <serviceList>{services}</serviceList></device></deviceList></device></root>"
            ),
        )
    }

    fn service(urn: &str, url: &str) -> String {
        format!("<service><serviceType>{urn}</serviceType><controlURL>{url}</controlURL></service>")
    }

    #[test]
    fn the_newest_service_is_chosen() {
        let both = service(Service::Ip1.urn(), "/one") + &service(Service::Ip2.urn(), "/two");
        let control = parse_description(&description(&both), &location()).unwrap();
        assert_eq!((control.service, control.url.path()), (Service::Ip2, "/two"));
        let older = service(Service::Ppp1.urn(), "/ppp") + &service(Service::Ip1.urn(), "/one");
        let control = parse_description(&description(&older), &location()).unwrap();
        assert_eq!((control.service, control.url.path()), (Service::Ip1, "/one"));
    }

    #[test]
    fn a_control_url_of_another_host_is_no_service() {
        let foreign = service(Service::Ip1.urn(), "http://10.0.0.9:80/x");
        assert_eq!(parse_description(&description(&foreign), &location()), Err(Malformed::NoService));
        let own = foreign + &service(Service::Ppp1.urn(), "http://192.168.1.1:5001/x");
        assert_eq!(parse_description(&description(&own), &location()).unwrap().service, Service::Ppp1);
    }

    #[test]
    fn documents_that_name_entities_or_nest_without_end_are_refused() {
        let bomb = "<!DOCTYPE root [<!ENTITY a \"aaaa\">]><root>&a;</root>";
        assert_eq!(parse_description(&response(200, bomb), &location()), Err(Malformed::Xml));
        let deep = "<a>".repeat(15_000);
        assert_eq!(parse_description(&response(200, &deep), &location()), Err(Malformed::Xml));
        let closed = deep + &"</a>".repeat(1000);
        assert_eq!(parse_answer(&response(200, &closed)), Err(Malformed::Xml));
        let many = format!("<root>{}</root>", "<a/>".repeat(5000));
        assert_eq!(parse_description(&response(200, &many), &location()), Err(Malformed::Xml));
    }

    #[test]
    fn a_mapping_is_asked_for_in_the_words_of_its_service() {
        let request =
            Request { client: [10, 0, 0, 2].into(), internal_port: 5, external_port: 6, lease: 7200 };
        for (service, action) in [(Service::Ip1, "AddPortMapping"), (Service::Ip2, "AddAnyPortMapping")] {
            let bytes = Control { url: location(), service }.add(request);
            let text = String::from_utf8(bytes).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("SOAPAction: \"{}#{action}\"", service.urn())), "{head}");
            assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
            let document = roxmltree::Document::parse(body).unwrap();
            let call = document.descendants().find(|node| node.tag_name().name() == action).unwrap();
            assert_eq!(call.tag_name().namespace(), Some(service.urn()));
            let arguments: Vec<_> = call
                .children()
                .map(|node| (node.tag_name().name(), node.text().unwrap_or_default()))
                .collect();
            assert_eq!(arguments[1], ("NewExternalPort", "6"));
            assert_eq!(arguments[4], ("NewInternalClient", "10.0.0.2"));
            assert_eq!(arguments[7], ("NewLeaseDuration", "7200"));
        }
    }

    #[test]
    fn answers_and_faults_are_told_apart() {
        let soap = |inner: &str| {
            format!(
                "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body>{inner}</s:Body></s:Envelope>"
            )
        };
        let of = |status: u16, inner: &str| parse_answer(&response(status, &soap(inner)));
        let address = "<u:GetExternalIPAddressResponse xmlns:u=\"x\"><NewExternalIPAddress>198.51.100.7\
                       </NewExternalIPAddress></u:GetExternalIPAddressResponse>";
        assert_eq!(of(200, address), Ok(Answer::Address([198, 51, 100, 7].into())));
        assert_eq!(of(500, address), Err(Malformed::Status(500)));
        assert_eq!(of(200, "<u:AddPortMappingResponse xmlns:u=\"x\"/>"), Ok(Answer::Added(None)));
        assert_eq!(
            of(
                200,
                "<u:AddAnyPortMappingResponse xmlns:u=\"x\"><NewReservedPort>77</NewReservedPort></u:AddAnyPortMappingResponse>"
            ),
            Ok(Answer::Added(Some(77)))
        );
        let fault = "<s:Fault><faultcode>s:Client</faultcode><detail><UPnPError xmlns=\"y\"><errorCode>718</errorCode>\
                     </UPnPError></detail></s:Fault>";
        assert_eq!(of(500, fault), Ok(Answer::Fault(Answer::CONFLICT)));
        assert_eq!(of(200, "<u:Other xmlns:u=\"x\"/>"), Err(Malformed::NoAnswer));
        assert_eq!(parse_answer(&response(404, "")), Err(Malformed::Status(404)));
    }
}
