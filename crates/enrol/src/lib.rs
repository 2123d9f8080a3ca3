//! First enrolment over HTTPS, and the small HTTPS client that the command line shares with it.
//!
//! This crate owns: the one conversation that makes an agent out of a join key, the state directory as
//! that agent finds it first, and a bounded HTTP/1.1 client over TLS 1.3 or a Unix socket. It refuses to
//! know what an agent does afterwards, which is never HTTPS: renewals travel on sessions to PoPs.
//!
//! ```
//! use enrol::ServerUrl;
//! let url: ServerUrl = "https://tidegate.example.org:8443".parse().expect("a server");
//! assert_eq!((url.host(), url.port()), ("tidegate.example.org", 8443));
//! ```

mod anchor;
mod api;
mod device_code;
mod error;
mod http;
mod join;
mod tls;

#[cfg(test)]
mod tests;

pub use self::http::{Answer, HttpError, HttpsClient, Lines, ServerUrl, ServerUrlError};
pub use api::{ApiClient, ApiError, BearerToken, Problem};
pub use device_code::DeviceCode;
pub use error::{ClockDirection, EnrolError};
pub use join::{
    ENROLLED_FILE, EnrolledAgent, already_enrolled, discover_trust, enrol_connector, enrol_device, enrol_pop,
};
pub use tls::ServerTrust;
