//! The connection of a stream of changes over TLS: the server's certificate is
//! verified before anything is shown to it.

mod stream_support;

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use insula_domain::{DatabaseName, Epoch, Isolation, Placement};
use insula_problem::Code;
use insula_sql_store::Connector;
use insula_tenant_cluster::ClusterAccess;
use insula_tenant_cluster::moving::{Place, StreamName, Way, drop_slot, temporary_slot};
use insula_testkit::{TestServer, connect};
use stream_support::{PATIENCE, new_id, new_tenant};

#[tokio::test]
async fn a_stream_goes_over_tls_to_the_server_that_is_trusted() {
    let server = TestServer::start().await;
    let folder = server.socket_folder();
    let [own, other] =
        [(); 2].map(|()| rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap());
    let (certificate, key) = (folder.join("tls.crt"), folder.join("tls.key"));
    let stranger = folder.join("other.crt");
    std::fs::write(&certificate, own.cert.pem()).unwrap();
    std::fs::write(&stranger, other.cert.pem()).unwrap();
    std::fs::write(&key, own.signing_key.serialize_pem()).unwrap();
    let owner = std::fs::metadata(&folder).unwrap();
    chown(&key, Some(owner.uid()), Some(owner.gid())).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let admin = server.connect("postgres").await;
    for setting in [
        format!("alter system set ssl_cert_file = '{}'", certificate.display()),
        format!("alter system set ssl_key_file = '{}'", key.display()),
        "alter system set ssl = on".to_owned(),
        "select pg_reload_conf()".to_owned(),
    ] {
        admin.batch_execute(&setting).await.unwrap();
    }
    // A session that begins after the server has read its settings has them.
    let url = server.url("postgres");
    while connect(&url).await.query_one("show ssl", &[]).await.unwrap().get::<_, &str>(0) != "on" {}
    let place = |trusted: &Path| {
        let url = format!("{}?sslmode=require", url.replacen("127.0.0.1", "localhost", 1));
        let connector = Connector::new(&url, Some(trusted)).unwrap();
        let (cluster, tenant) = ("test-a".parse::<insula_domain::ClusterName>().unwrap(), new_tenant());
        let mut placement = Placement::new(tenant, Isolation::Cluster, cluster.clone(), Epoch(1));
        placement.database = DatabaseName::from_stored("postgres".to_owned());
        Place { access: ClusterAccess::new(cluster, connector), placement, tenant }
    };
    let name = StreamName::new(Way::Forward, new_id());
    let trusting = place(&certificate);
    let exported = temporary_slot(&trusting, name, PATIENCE).await.unwrap();
    let encrypted = "select s.ssl from pg_stat_ssl s join pg_stat_activity a using (pid)
                     where a.backend_type = 'walsender'";
    assert!(admin.query_one(encrypted, &[]).await.unwrap().get::<_, bool>(0));
    drop(exported);
    drop_slot(&trusting.access, name).await.unwrap();
    // Canary: another certificate is not let pass.
    let refused = temporary_slot(&place(&stranger), name, PATIENCE).await.unwrap_err();
    assert_eq!(refused.code(), Code::PlacementUnavailable, "{}", refused.chain());
}
