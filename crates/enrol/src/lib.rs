//! First enrolment over HTTPS, and the small HTTPS client that the command line shares with it.
mod api;
mod http;
mod tls;
pub use self::http::{Answer, HttpError, HttpsClient, ServerUrl, ServerUrlError};
pub use api::{ApiClient, ApiError, BearerToken, Problem};
pub use tls::ServerTrust;
