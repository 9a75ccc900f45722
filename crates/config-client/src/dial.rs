//! The way to the server: where it is, how it is known to be the right one, and
//! the key that says whose values are wanted.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use http::Uri;
use insula_config_proto::v1::config_client::ConfigClient;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use crate::builder::InvalidOptions;

pub(crate) type Stub = ConfigClient<Channel>;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest message that is taken. Parts of a snapshot are far shorter.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// The headers of an answer; a server has little to say in them.
const HEADERS_BYTES_MAX: u32 = 16 << 10;

/// Opens connections, and signs requests.
#[derive(Clone)]
pub(crate) struct Dialer {
    endpoint: Endpoint,
    authorization: MetadataValue<Ascii>,
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dialer({})", self.endpoint.uri())
    }
}

impl Dialer {
    pub(crate) fn new(
        url: &str,
        key: &str,
        ca_pem: Option<&[u8]>,
        allow_plain_text: bool,
    ) -> Result<Self, InvalidOptions> {
        let uri: Uri = url.parse().map_err(|_| InvalidOptions::Url(url.to_owned()))?;
        let host = uri.host().ok_or_else(|| InvalidOptions::Url(url.to_owned()))?.to_owned();
        let invalid = |error: tonic::transport::Error| InvalidOptions::Tls(Box::new(error));
        let mut endpoint = Endpoint::from_shared(url.to_owned())
            .map_err(|_| InvalidOptions::Url(url.to_owned()))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_max_header_list_size(HEADERS_BYTES_MAX)
            .tcp_nodelay(true);
        match uri.scheme_str() {
            Some("https") => {
                let tls = match ca_pem {
                    Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
                    None => ClientTlsConfig::new().with_webpki_roots(),
                };
                endpoint = endpoint.tls_config(tls.timeout(CONNECT_TIMEOUT)).map_err(invalid)?;
            }
            Some("http") if allow_plain_text || is_loopback(&host) => {}
            Some("http") => return Err(InvalidOptions::PlainText(host)),
            _ => return Err(InvalidOptions::Url(url.to_owned())),
        }
        let mut authorization: MetadataValue<Ascii> =
            format!("Bearer {key}").parse().map_err(|_| InvalidOptions::Key)?;
        authorization.set_sensitive(true);
        Ok(Self { endpoint, authorization })
    }

    /// A new connection: one that has fallen silent is not used again.
    pub(crate) async fn connect(&self) -> Result<Stub, tonic::transport::Error> {
        let channel = self.endpoint.connect().await?;
        Ok(ConfigClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// A message with the key.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.authorization.clone());
        request
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialer(url: &str, key: &str) -> Result<Dialer, InvalidOptions> {
        Dialer::new(url, key, None, false)
    }

    #[tokio::test]
    async fn a_key_goes_over_the_network_in_clear_only_where_that_is_said() {
        for url in
            ["http://127.0.0.1:7401", "http://[::1]:7401", "http://localhost:7401", "https://config.example"]
        {
            dialer(url, "isk_x").unwrap();
        }
        assert!(matches!(dialer("http://config.example:7401", "isk_x"), Err(InvalidOptions::PlainText(_))));
        Dialer::new("http://config.example:7401", "isk_x", None, true).unwrap();
        for url in ["", "config.example", "ftp://config.example", "http://"] {
            assert!(matches!(dialer(url, "isk_x"), Err(InvalidOptions::Url(_))), "{url}");
        }
        assert!(matches!(dialer("https://config.example", "a\nb"), Err(InvalidOptions::Key)));
    }

    #[tokio::test]
    async fn the_key_does_not_show_itself() {
        let dialer = dialer("https://config.example", "isk_hidden").unwrap();
        assert!(!format!("{dialer:?} {:?}", dialer.request(())).contains("hidden"));
    }
}
