//! The configuration service as its callers have it.

use insula_config_proto::v1::config_client::ConfigClient;
use insula_config_proto::v1::{PutRequest, Written, put_request};
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::World;

pub type Stub = ConfigClient<Channel>;

/// A tenant's key.
#[derive(Clone)]
pub struct Key {
    pub id: String,
    pub secret: String,
}

impl World {
    pub fn grpc_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.grpc_port)
    }

    /// A new key of a tenant that may write configuration.
    pub fn key(&self, slug: &str) -> Key {
        let made = self.run(&["key", "create", slug, "--role", "tenant_admin", "-o", "json"]).json();
        let text = |field: &str| made[field].as_str().unwrap().to_owned();
        Key { id: text("id"), secret: text("secret") }
    }

    /// A way to the service, which connects when it is used, and again.
    pub fn stub(&self) -> Stub {
        ConfigClient::new(Channel::from_shared(self.grpc_url()).unwrap().connect_lazy())
    }
}

/// A message with a key.
pub fn signed<T>(key: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
    request
}

pub async fn put(stub: &Stub, key: &str, name: &str, json: String, token: &str) -> Result<Written, Status> {
    let message = PutRequest {
        key: name.to_owned(),
        value: Some(put_request::Value::Json(json.into())),
        token: token.to_owned(),
        ..PutRequest::default()
    };
    let mut request = signed(key, message);
    request.set_timeout(std::time::Duration::from_secs(5));
    stub.clone().put(request).await.map(tonic::Response::into_inner)
}
